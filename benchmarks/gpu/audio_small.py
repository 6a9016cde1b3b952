"""Train the small separation network on this device, as far as the time goes.

The settings are those of ``configs/audio/experiment/small.yaml`` with larger batches; the
autoencoder is that of the checkpoint which ships with the package. Called again with the same
output folder it continues. The averaged weights lie in ``audio-small/export``, in the form that
``from_pretrained`` reads.
"""

from __future__ import annotations

import argparse
import functools
import os

import timed_training
import torch
from entry import parse, write
from rectiflow.time_density import Shifted, Uniform
from rectiflow.training import FlowTraining, network_weights, read_metrics
from rectiflow.training.schedules import piecewise_linear
from rectiflow_audio.data.augment import Augment
from rectiflow_audio.data.datamodule import SeparationData
from rectiflow_audio.data.mixtures import MixtureRules
from rectiflow_audio.flow import latent_flow
from rectiflow_audio.networks import SeparationUNet, UNetConfig
from rectiflow_audio.objective import SeparationObjective
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.validation import SeparationValidation

SIZES = UNetConfig(
    latent_channels=8,
    out_channels=8,
    channels=32,
    multipliers=(1, 2, 3),
    attention=(False, False, True),
    blocks=1,
    head_channels=16,
    context_channels=384,
    groups=16,
)
AMBIGUOUS = {"drum_loop": ("kick_drum", "snare_drum", "hi_hat", "tabla")}
MIXTURES_PER_STEP = 64  # small.yaml has 8 for one core
MAX_STEPS = 20_000
STEPS = (2, 20)  # of the separations that are measured


def sounds(args: argparse.Namespace) -> SeparationData:
    """Return mixtures of the prepared sounds, with the wordings they were prepared with."""
    if args.data is None:
        raise SystemExit("no --data given; expected sounds prepared with --wordings paraphrases")
    on_gpu = args.device.startswith("cuda")
    return SeparationData(
        args.data,
        MIXTURES_PER_STEP if on_gpu else 2,
        window_seconds=2.555,
        rules=MixtureRules((-10.0, 10.0), AMBIGUOUS),
        wordings="paraphrases",
        augment=Augment(),
        loop=0.3,
        absent=0.03,
        alone=0.03,
        balanced=True,
        num_workers=min(12, os.cpu_count() or 1) if on_gpu else 0,
        pin_memory=on_gpu,
    )


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    data = sounds(args)
    vae = SeparationPipeline.from_pretrained("small").vae
    torch.manual_seed(0)
    network = SeparationUNet(SIZES)
    flow = latent_flow(density=Shifted(Uniform(), 3.0))
    rate = [(0, 0.01), (100, 1.0), (0.3 * MAX_STEPS, 1.0), (MAX_STEPS, 0.01)]
    training = FlowTraining(
        SeparationObjective(network, vae, flow, draws=2, posterior_sample=False),
        functools.partial(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01),
        functools.partial(piecewise_linear, points=rate),
        ema=[0.999],
        grad_clip=1.0,
        seed=0,
    )
    folder = args.out / "audio-small"
    done = timed_training.train(
        training, data, folder / "run", args, max_steps=MAX_STEPS, precision="bf16-mixed"
    )
    network.load_state_dict(network_weights(folder / "run" / "checkpoints" / "last.ckpt"))
    network.eval()
    pipe = SeparationPipeline.from_pretrained("small")
    SeparationPipeline(network.cpu(), vae.cpu(), settings=pipe.settings).save_pretrained(
        folder / "export", steps=done
    )
    metrics = folder / "run" / "metrics.csv"
    logged = read_metrics(metrics) if metrics.exists() else []  # none in a call of a few steps
    last = {name: float(value) for row in logged for name, value in row.items() if value}
    held_out = data.validation.dataset
    network.to(args.device)
    vae.to(args.device)
    quality = {}
    for steps in STEPS:
        num = len(held_out) if args.device.startswith("cuda") else 4
        measure = SeparationValidation(vae, held_out, num=num, steps=steps, pictures=0)
        with torch.no_grad():
            quality[str(steps)] = measure(network, done, folder)
    write(
        args,
        "audio-small",
        {
            "steps": done,
            "complete": done >= MAX_STEPS,
            "sounds": len(data.dataset),
            "last_metrics": last,
            "separations_of_the_valid_split": quality,
        },
    )
    print(f"{done} of {MAX_STEPS} steps")


if __name__ == "__main__":
    main()
