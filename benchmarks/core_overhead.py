"""What the integration loop costs over a loop written by hand.

A small velocity network on 2-D points, integrated with Euler: by hand, by ``integrate``, by
``integrate(compile=k)`` and by torchdiffeq, interleaved in one process. On one CPU thread the clock
is the processor time of the process, which stands still while other programs have the core. The
ratio to the loop by hand is taken within each repeat, and its median reported; the ratio of the
shortest times stands beside it.

    python benchmarks/core_overhead.py --out benchmarks/results/core_overhead.json
    python benchmarks/core_overhead.py --device cuda
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torchdiffeq
from environment import environment
from rectiflow.fields import bind
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from rectiflow.storage.files import write_text
from torch import Tensor, nn

TARGETS = {"integrate": 1.05, "integrate_compiled": 0.6}  # at batch 64, over the hand-written loop


class Velocity(nn.Module):
    """An MLP of (x, t) on points of the plane."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(3, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 2),
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat((x, t[:, None]), dim=-1))


def contenders(model: nn.Module, x: Tensor, steps: int, region: int) -> dict[str, Callable]:
    """Name the ways to integrate; all return the same points up to rounding."""
    grid = uniform(steps)
    moves, field = plan(grid, Euler()), bind(model)
    ends = torch.tensor([0.0, 1.0], device=x.device)

    def by_hand() -> Tensor:
        y = x
        for start, stop in pairwise(grid):
            t = torch.full((y.shape[0],), start, device=y.device)
            y = y + (stop - start) * model(y, t)
        return y

    def rate(t: Tensor, y: Tensor) -> Tensor:
        return model(y, t.expand(y.shape[0]))

    def by_torchdiffeq() -> Tensor:
        options = {"step_size": 1.0 / steps}
        return torchdiffeq.odeint(rate, x, ends, method="euler", options=options)[-1]

    return {
        "hand": by_hand,
        "integrate": lambda: integrate(field, x, moves),
        "integrate_compiled": lambda: integrate(field, x, moves, compile=region),
        "torchdiffeq": by_torchdiffeq,
    }


def clock_for(device: str, threads: int) -> Callable[[], float]:
    return time.process_time if device == "cpu" and threads == 1 else time.perf_counter


def seconds(run: Callable[[], Tensor], device: torch.device, clock: Callable[[], float]) -> float:
    begin = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begin


@torch.no_grad()
def measure(batch: int, args: argparse.Namespace) -> dict:
    device = torch.device(args.device)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = Velocity(args.width).to(device).eval()
    x = torch.randn(batch, 2, generator=generator).to(device)
    runs = contenders(model, x, args.steps, args.compile)
    ends = {name: run() for name, run in runs.items()}  # compiles, warms up
    apart = {name: (end - ends["hand"]).abs().max().item() for name, end in ends.items()}
    assert max(apart.values()) < 1e-4, f"the loops disagree: {apart}"
    for run in runs.values():
        run()
    clock = clock_for(args.device, args.threads)
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    for repeat in range(args.repeats):
        names = list(runs) if repeat % 2 else list(runs)[::-1]
        for name in names:
            times[name].append(seconds(runs[name], device, clock))
    gc.enable()
    hand = times["hand"]
    return {
        "batch": batch,
        "microseconds_per_step": {
            name: {
                "median": 1e6 * statistics.median(taken) / args.steps,
                "minimum": 1e6 * min(taken) / args.steps,
            }
            for name, taken in times.items()
        },
        "ratio_to_hand": {
            name: {
                "median": statistics.median(a / b for a, b in zip(taken, hand, strict=True)),
                "of_minima": min(taken) / min(hand),
            }
            for name, taken in times.items()
            if name != "hand"
        },
        "largest_difference_to_hand": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 4096])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--compile", type=int, default=25, help="moves per compiled region")
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {
        "environment": environment() | {"torchdiffeq": torchdiffeq.__version__},
        "clock": clock_for(args.device, args.threads).__name__,
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
        "targets": TARGETS,
        "results": [measure(batch, args) for batch in args.batches],
    }
    text = json.dumps(results, indent=1)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
