"""A zoo: families of tasks and formulations of diffusion in imaging, on phantoms, in one table.

    python benchmarks/imaging_zoo.py --page docs/imaging-zoo.md --out RESULT.json

Tasks and formulations are those of Kazerouni et al., "Diffusion models in medical imaging" (2023).
The checkpoints that ship are used where there is one; translation and segmentation train a network
of 16 x 16 for some hundred steps. ``--only NAME`` runs one row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from imaging_registration import head
from imaging_restoration import slices
from rectiflow.flow import Flow
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.inverse import AroundEstimate, Blur, Measurement, Projected
from rectiflow.predictions import Data
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.solvers import Ancestral, Euler, InterpolantSDE
from rectiflow.storage.files import write_json, write_text
from rectiflow_imaging import (
    ImagePipeline,
    ImageUNet,
    RestorationPipeline,
    Volume,
    register,
)
from rectiflow_imaging.metrics import dice, energy_distance, psnr
from rectiflow_imaging.operators import Fourier, gaussian_kernel, random_lines
from rectiflow_imaging.phantoms import ellipsoids
from rectiflow_imaging.reconstruction import methods
from scipy.stats import rankdata
from torch import Tensor

DRAWN, STEPS = 64, 20


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    task: str
    formulation: str
    method: str
    metric: str
    better: str
    run: Callable[[], tuple[float, str, float]]
    """Returns our figure, what stands beside it, and that one's figure."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generated(sample: Callable[[ImagePipeline, Tensor], Tensor]) -> Callable[[], Any]:
    """Return what draws slices with the prior, and measures how near they are to bodies."""

    def run() -> tuple[float, str, float]:
        pipe, bodies = ImagePipeline.from_pretrained(), slices(2 * DRAWN // 4, 0)
        known, other = bodies[:DRAWN], bodies[DRAWN:]
        drawn = sample(pipe, pipe.noise(range(DRAWN), 0)).clamp(-1, 1)
        pixels = torch.randn(known.shape, generator=generator(0)) * known.std(0) + known.mean(0)
        found = energy_distance(drawn, other)
        return found, "normal pixels", energy_distance(pixels.clamp(-1, 1), other)

    return run


@torch.no_grad()
def by_solver(solver: Any, pipe: ImagePipeline, x: Tensor) -> Tensor:
    draws = KeyedNoise(0, range(len(x)))
    return integrate(pipe.field, x, plan(uniform(STEPS), solver), noise=draws)


@torch.no_grad()
def by_langevin(pipe: ImagePipeline, x: Tensor) -> Tensor:
    """Go along the score at falling levels of noise, after each step a Langevin move."""
    draws, times = generator(1), torch.linspace(0, 1, STEPS // 2 + 1).tolist()
    for start, stop in pairwise(times):
        x = x + (stop - start) * pipe.field(x, start)
        if stop < 1:
            score = -(x - stop * pipe.field(x, stop)) / (1 - stop)
            size = (0.16 * (1 - stop)) ** 2
            x = x + size * score + (2 * size) ** 0.5 * torch.randn(x.shape, generator=draws)
    return x


def denoised() -> tuple[float, str, float]:
    pipe, truth = RestorationPipeline.from_pretrained("small_pmrf"), slices(8, 0)
    noisy = pipe.network.degraded(truth, generator(0))
    found = pipe.restored(noisy, generator=generator(1))["restored"]
    return psnr(found, truth, span=2), "as degraded", psnr(noisy, truth, span=2)


def scanned() -> tuple[float, str, float]:
    pipe = ImagePipeline.from_pretrained()
    body = ellipsoids((16, 48, 48), counter_generator("zoo", 0))
    known = {name: methods()[name] for name in ("fbp", "stack")}
    made = pipe.reconstruct(Volume(body.values.numpy()), known, views=8).measured
    return made["stack"]["psnr"], "filtered back-projection", made["fbp"]["psnr"]


@torch.no_grad()
def resonated() -> tuple[float, str, float]:
    pipe, truth = ImagePipeline.from_pretrained(), slices(4, 0)
    scan = Fourier(random_lines((32, 32), 2.5, generator=generator(0)))
    told = pipe.field, Measurement(scan, scan(truth)), pipe.noise(range(len(truth))), 40
    found = Projected()(*told, KeyedNoise(0, range(len(truth))))
    plain = scan.pinv(scan(truth))
    return psnr(found, truth, span=2), "zeros filled in", psnr(plain, truth, span=2)


def small(num: int, first: int) -> tuple[Tensor, Tensor]:
    """Return slices of 16 x 16 in [-1, 1], and where their organs are."""
    images, masks = [], []
    for i in range(first, first + num):
        body = ellipsoids((8, 16, 16), counter_generator("zoo small", i))
        images.append(2 * body.values[2:6, None] - 1)
        masks.append((body.labels[2:6, None] >= 2).float())
    return torch.cat(images), torch.cat(masks)


def learnt(
    channels: int, steps: int, rows: int, loss: Callable[[ImageUNet, Tensor], Tensor]
) -> ImageUNet:
    """Train a small network on batches of some of the rows."""
    torch.manual_seed(0)
    network, draws = ImageUNet(16, channels, 16, (1, 2)), generator(0)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, 2 * (1 - step / steps))
        optimizer.zero_grad()
        loss(network, torch.randint(rows, (16,), generator=draws)).backward()
        optimizer.step()
    return network.eval()


def contrast(x: Tensor) -> Tensor:
    """Return what another sequence of the scanner would show: what is faint is brighter."""
    return 2 * ((x + 1) / 2).sqrt() - 1


@torch.no_grad()
def translated() -> tuple[float, str, float]:
    flow, draws = Flow(coupling=AroundEstimate(0.0)), generator(1)
    (x, _), (tested, _) = small(64, 0), small(16, 64)

    def loss(network: ImageUNet, rows: Tensor) -> Tensor:
        with torch.enable_grad():
            return flow.loss(network, contrast(x[rows]), x0=x[rows], generator=draws).loss

    with torch.enable_grad():
        network = learnt(1, 200, len(x), loss)
    field = flow.velocity(network)
    found, truth = integrate(field, tested, plan(uniform(8), Euler())), contrast(tested)
    return (found - truth).abs().mean().item(), "as it is", (tested - truth).abs().mean().item()


@torch.no_grad()
def segmented() -> tuple[float, str, float]:
    (x, mask), (tested, truth) = small(300, 0), small(16, 300)
    flow, draws = Flow(prediction=Data()), generator(1)

    def seen(network: ImageUNet, image: Tensor) -> Callable[[Any, Any], Any]:
        return lambda y, t: network(torch.cat([y, image], 1), t)[:, :1]

    def loss(network: ImageUNet, rows: Tensor) -> Tensor:
        noisy = x[rows] + 0.1 * torch.randn(x[rows].shape, generator=draws)
        return flow.loss(seen(network, noisy), 2 * mask[rows] - 1, generator=draws).loss

    with torch.enable_grad():
        network = learnt(2, 600, len(x), loss)
    noisy = tested + 0.1 * torch.randn(tested.shape, generator=draws)
    field = flow.velocity(seen(network, noisy))
    starts = [torch.randn(tested.shape, generator=draws) for _ in range(4)]
    mean = sum(integrate(field, start, plan(uniform(8), Euler())) for start in starts)
    levels = [dice(noisy > level, truth) for level in np.linspace(-0.8, 0.8, 33)]
    return dice(mean > 0, truth), "the best threshold", max(levels)


@torch.no_grad()
def found_lesions() -> tuple[float, str, float]:
    pipe, x = ImagePipeline.from_pretrained(), slices(6, 0)
    draws, lesion = generator(0), torch.zeros_like(x, dtype=torch.bool)
    for row in lesion:
        top, left = (int(torch.randint(11, 17, (1,), generator=draws)) for _ in range(2))
        row[0, top : top + 5, left : left + 5] = True
    rough = torch.randn(x.shape, generator=draws).sign()
    sick = torch.where(lesion, (x + 0.15 * rough).clamp(-1, 1), x)
    start, made = 0.8, []
    for _ in range(6):
        noised = start * sick + (1 - start) * torch.randn(x.shape, generator=draws)
        times = torch.linspace(start, 1, 9).tolist()
        made.append(integrate(pipe.field, noised, plan(times, Euler())))
    smooth = Blur(gaussian_kernel(1.0))
    off = smooth((sick - torch.stack(made).mean(0)).abs())
    return (
        auroc(off, lesion),
        "difference to a blurred one",
        auroc(smooth((sick - smooth(sick)).abs()), lesion),
    )


def auroc(score: Tensor, truth: Tensor) -> float:
    """Return how often a true pixel has a higher score than another."""
    ranks, yes = rankdata(score.flatten()), truth.flatten().numpy()
    count = int(yes.sum())
    return float((ranks[yes].sum() - count * (count + 1) / 2) / (count * (len(yes) - count)))


def registered() -> tuple[float, str, float]:
    own = [register(head(2 * i), head(2 * i + 1)).measured["registered"] for i in range(2)]
    after, before = (float(np.mean([row[key] for row in own])) for key in ("dice", "dice_before"))
    return after, "as they are", before


def ancestral(pipe: ImagePipeline, x: Tensor) -> Tensor:
    return by_solver(Ancestral(), pipe, x)


def stochastic(pipe: ImagePipeline, x: Tensor) -> Tensor:
    return by_solver(InterpolantSDE(), pipe, x)


PRIOR = "the prior that ships"
ROWS = {
    "generation": Row("generation", "denoising", f"{PRIOR}, ancestral steps (DDPM)",
                      "energy distance", "less", generated(ancestral)),
    "score": Row("generation", "score", f"{PRIOR}, score and Langevin moves (NCSN)",
                 "energy distance", "less", generated(by_langevin)),
    "sde": Row("generation", "SDE", f"{PRIOR}, the SDE of its flow",
               "energy distance", "less", generated(stochastic)),
    "denoising": Row("denoising", "flow from the mean", "the PMRF that ships", "PSNR", "more",
                     denoised),
    "ct": Row("reconstruction", "denoising", "8 views, DiffusionMBIR with the prior", "PSNR",
              "more", scanned),
    "mri": Row("reconstruction", "denoising", "2.5 times fewer lines of frequencies, projected",
               "PSNR", "more", resonated),
    "translation": Row("translation", "flow between images", "one contrast to another, trained",
                       "absolute error", "less", translated),
    "segmentation": Row("segmentation", "flow of masks", "organs of noisy slices, trained", "Dice",
                        "more", segmented),
    "anomaly": Row("anomaly", "denoising", "rough patches, noised partly and drawn anew", "AUROC",
                   "more", found_lesions),
    "registration": Row("registration", "random flows", "heads onto heads", "Dice", "more",
                        registered),
}  # fmt: skip

PAGE = """\
# A zoo of imaging

Families of tasks and formulations as the survey of Kazerouni et al. ("Diffusion models in medical
imaging", Medical Image Analysis 2023) has them, each on made-up bodies in less than a minute of one
core. It is research software, not a medical device, and there is no patient data in it.
`benchmarks/imaging_zoo.py` makes this page, and `--only NAME` one row of it.

| `--only` | task | formulation | what runs | measure | ours | beside it |
|---|---|---|---|---|---|---|
{rows}

Energy distances are those of {drawn} drawn slices to as many others of bodies. Translation and
segmentation train a network of 16 x 16 pixels first; the others take what ships. The
threshold beside the segmentation is the best for the very slices; how faint the lesions are, and
how far they are noised, was chosen on these too. See [Images](imaging.md) for what the methods do.
"""


def page(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    lines = []
    for row in rows:
        beside = f"{row['beside']:.3g} ({row['beside_what']})"
        cells = (f"`{row['name']}`", row["task"], row["formulation"], row["method"])
        measure = f"{row['metric']}, {row['better']} is better"
        lines.append(f"| {' | '.join(cells)} | {measure} | {row['ours']:.3g} | {beside} |")
    return PAGE.format(rows="\n".join(lines), drawn=DRAWN)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=ROWS, nargs="+", default=list(ROWS))
    parser.add_argument("--page", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name in args.only:
        row, began = ROWS[name], time.process_time()
        ours, what, beside = row.run()
        told = {key: getattr(row, key) for key in ("task", "formulation", "method", "metric")}
        told |= {"better": row.better, "ours": ours, "beside_what": what, "beside": beside}
        rows.append({"name": name, **told, "seconds": time.process_time() - began})
        print(name, *(f"{v:.4g}" for v in (ours, beside, rows[-1]["seconds"])), flush=True)
    if args.page:
        write_text(args.page, page(rows))
    if args.out:
        write_json(args.out, {"rows": rows, "environment": environment()})


if __name__ == "__main__":
    main()
