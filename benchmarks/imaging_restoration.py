"""Restorers on held-out bodies: how near they come, and how much their images look like bodies.

    python benchmarks/imaging_restoration.py --rddm WEIGHTS --out RESULT.json

Slices of ellipsoids of another seed than the training's, degraded as in it. Mean squared error and
PSNR of values in [-1, 1]; the energy distance of the images to those of other bodies, and that of
their ``details``, patches of 4 x 4 without their means. ``best`` are these between two sets of
bodies. A posterior sample of PMRF's own flow is not to
be had, so that the sampler beside it is RDDM with fresh noise (``eta`` 1).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.storage.files import write_json
from rectiflow_imaging.data.prepare import Fit
from rectiflow_imaging.io import Volume
from rectiflow_imaging.metrics import energy_distance
from rectiflow_imaging.phantoms import ellipsoids
from rectiflow_imaging.restoration import RestorationPipeline
from torch import Tensor
from torch.nn import functional

SEED, SIDE, SLICES = 77, 32, (6, 10, 14, 18)


def slices(num: int, first: int) -> Tensor:
    """Return slices of bodies ``(b, 1, s, s)`` in [-1, 1]."""
    found = []
    for i in range(first, first + num):
        body = ellipsoids((24, 48, 48), counter_generator("imaging restoration", SEED, i))
        volume = Volume(body.values.numpy())
        found.append(Fit.of(volume.values, SIDE).squares(volume)[list(SLICES)])
    return torch.cat(found)


def details(images: Tensor, count: int, seed: int) -> Tensor:
    """Return some of the patches of 4 x 4, without their means."""
    patches = functional.unfold(images, 4, stride=2).movedim(1, 2).flatten(0, 1)
    rows = torch.randperm(len(patches), generator=torch.Generator().manual_seed(seed))[:count]
    return patches[rows] - patches[rows].mean(1, keepdim=True)


@torch.no_grad()
def restored(pipe: RestorationPipeline, degraded: Tensor, steps: int) -> dict[str, Tensor]:
    """Return what a network makes of degraded images, by name."""
    made = pipe.restored(degraded, steps=steps, generator=torch.Generator().manual_seed(1))
    if "estimate" in made:
        return {"posterior mean": made["estimate"], "PMRF": made["restored"]}
    noise = KeyedNoise(0, range(len(degraded)))
    start = torch.randn(degraded.shape, generator=torch.Generator().manual_seed(2))
    told = {"count": steps, "eta": 1.0, "noise": noise}
    fresh = pipe.network.diffusion.sample(pipe.network, degraded, start, **told)
    return {"RDDM": made["restored"], "RDDM, fresh noise": fresh}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pmrf", default="small_pmrf")
    parser.add_argument("--rddm", help="Left out if absent.")
    parser.add_argument("--num", type=int, default=32, help="Bodies, four slices of each.")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    truth, other = slices(args.num, 0), slices(args.num, args.num)
    like = details(other, 4000, 1)
    rows, degraded = [], None
    for weights in filter(None, (args.pmrf, args.rddm)):
        pipe = RestorationPipeline.from_pretrained(weights)
        if degraded is None:
            degraded = pipe.network.degraded(truth, torch.Generator().manual_seed(0))
            told = {"blur": pipe.network.blur, "noise": pipe.network.noise}
        made = restored(pipe, degraded, args.steps)
        for name, x in (made if rows else {"degraded": degraded, **made}).items():
            error = (x.clamp(-1, 1) - truth).square().mean().item()
            distance = energy_distance(details(x, 4000, 0), like)
            rows.append({"images": name, "mse": error, "psnr": 10 * float(np.log10(4 / error))})
            rows[-1] |= {"energy_distance": energy_distance(x, other), "details": distance}
            print({k: round(v, 5) if isinstance(v, float) else v for k, v in rows[-1].items()})
    best = {"energy_distance": energy_distance(truth, other)}
    best["details"] = energy_distance(details(truth, 4000, 0), like)
    print("best", best)
    if args.out:
        told |= {"slices": len(truth), "steps": args.steps, "rows": rows, "best": best}
        write_json(args.out, told | {"environment": environment()})


if __name__ == "__main__":
    main()
