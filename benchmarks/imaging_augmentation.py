"""What deformations add to a segmentation that is trained on few heads.

    python benchmarks/imaging_augmentation.py --out benchmarks/results/imaging_augmentation.json

Noisy slices of Shepp and Logan's heads, of which a small U-Net finds the two ventricles: trained on
``--heads`` of them as they are, or deformed at random by DRDM's generator, images with labels, and
with ``--weights`` recovered by DRDM; as many steps each. Dice on 24 other heads, for three seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_imaging.io import Volume
from rectiflow_imaging.metrics import dice
from rectiflow_imaging.networks import ImageUNet, RecoveryNetwork
from rectiflow_imaging.phantoms import shepp_logan
from rectiflow_imaging.pipeline import DeformationPipeline
from torch import Tensor

SIDE, VARY, NOISE, COPIES = 48, 0.35, 0.1, 12


def heads(num: int, seed: int) -> list[Volume]:
    """Draw slices with their labels."""
    drawn = [
        shepp_logan((1, SIDE, SIDE), counter_generator("augmentation", seed, i), vary=VARY)
        for i in range(num)
    ]
    return [Volume(p.values.numpy(), labels=p.labels.numpy()) for p in drawn]


def tensors(volumes: list[Volume]) -> tuple[Tensor, Tensor]:
    """Return images and masks of the ventricles, ``(b, 1, s, s)``."""
    labels = torch.from_numpy(np.stack([v.labels for v in volumes if v.labels is not None]))
    return torch.from_numpy(np.stack([v.values for v in volumes])), (labels == 3) | (labels == 4)


def trained(images: Tensor, masks: Tensor, steps: int, seed: int) -> ImageUNet:
    """Train a network whose output is the log-odds of the mask."""
    torch.manual_seed(seed)
    network = ImageUNet(SIDE, 1, 16, (1, 2))
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(steps):
        rows = torch.randint(len(images), (4,))
        x = images[rows] + NOISE * torch.randn(4, 1, SIDE, SIDE)
        optimizer.zero_grad()
        said = network(x, torch.zeros(4))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(said, masks[rows].float())
        loss.backward()
        optimizer.step()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--level", type=int, default=79)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", help="DRDM, which makes the deformations plausible.")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.weights:
        pipe, recovery = DeformationPipeline.from_pretrained(args.weights), None
    else:
        pipe, recovery = DeformationPipeline(RecoveryNetwork()), 0  # which then is not asked
    rows = []
    for seed in range(args.seeds):
        few, (tested, truth) = heads(args.heads, seed), tensors(heads(24, 1000))
        deformed = [
            made
            for i, head in enumerate(few)
            for made in pipe(
                head, range(COPIES), level=args.level, steps=recovery, seed=100 * seed + i
            ).volumes.values()
        ]
        noise = NOISE * torch.randn(tested.shape, generator=torch.Generator().manual_seed(1))
        for name, own in {"as they are": few, "deformed": [*few, *deformed]}.items():
            network = trained(*tensors(own), args.steps, seed)
            with torch.no_grad():
                said = network(tested + noise, torch.zeros(len(tested))) > 0
            found = float(np.mean([dice(a, b) for a, b in zip(said, truth, strict=True)]))
            rows.append({"seed": seed, "heads": name, "dice": found})
            print(rows[-1])
    means = {
        name: float(np.mean([row["dice"] for row in rows if row["heads"] == name]))
        for name in ("as they are", "deformed")
    }
    print(means)
    if args.out:
        told = {key: value for key, value in vars(args).items() if key != "out"}
        write_json(args.out, {**told, "rows": rows, "means": means, "environment": environment()})


if __name__ == "__main__":
    main()
