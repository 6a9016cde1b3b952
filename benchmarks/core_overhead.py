"""What the integration loop costs: over a loop by hand, and beside other libraries.

A small velocity network on 2-D points, so that what is around the network shows. Two tables:

* ``loop``: Euler by hand, by ``integrate``, by ``integrate(compile=k)`` and by torchdiffeq, for
  several batch sizes;
* ``solvers``: every solver at batch 64: tensor operations per step (counted below autograd) and
  microseconds per step, beside a peer in the same run: torchdiffeq, or the samplers of k-diffusion,
  ``sample_euler``, ``sample_heun``, ``sample_dpmpp_2m`` and ``sample_euler_ancestral``, written
  below as plain functions from their formulas, in our words. A peer gets the same network as its
  denoiser. Our stochastic solvers draw each sample's noise by its own key, the peer's does not.

All runs are interleaved in one process. On one CPU thread the clock is the processor time of the
process, which stands still while other programs have the core. Ratios are taken within each
repeat, and their median reported; the ratio of the shortest times stands beside it.

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
from rectiflow.grids import log_snr, uniform
from rectiflow.integrate import integrate, plan
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import (
    BDIA,
    DDIM,
    GHVB,
    HB,
    RK4,
    Adams,
    Ancestral,
    Dopri5,
    DPMSolver2,
    DPMSolver3,
    DPMSolverPP2M,
    DPMSolverPP2S,
    DPMSolverPP3M,
    Euler,
    FireFlow,
    Heun,
    InterpolantSDE,
    Midpoint,
    PseudoCorrector,
    Solver,
)
from rectiflow.storage.files import write_text
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# At batch 64: integrate over the loop by hand, and each solver over its peer, plain and compiled.
TARGETS = {"integrate": 1.05, "solver": 1.0, "compiled": 0.6}
PEERS: dict[str, list[Solver]] = {
    "k-diffusion sample_euler": [
        Euler(),
        DDIM(),
        FireFlow(),
        PseudoCorrector(),
        BDIA(),
    ],
    "k-diffusion sample_euler_ancestral": [Ancestral(), InterpolantSDE(1.0)],
    "k-diffusion sample_dpmpp_2m": [DPMSolverPP2M(), DPMSolverPP3M()],
    "k-diffusion sample_heun": [Heun(), Midpoint(), DPMSolver2(), DPMSolverPP2S()],
    "torchdiffeq rk4": [RK4()],
    "torchdiffeq heun3": [DPMSolver3()],
    "torchdiffeq explicit_adams": [
        Adams(2),
        Adams(3, start=None),
        Adams(4),
        GHVB(2, 0.8),
        HB(2, 0.8),
    ],
    "torchdiffeq dopri5": [Dopri5(1e-5, 1e-5)],
}


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


# The samplers of k-diffusion, of a denoiser D(x, sigma) along falling noise levels.


def derivative(x: Tensor, sigma: Tensor, denoised: Tensor) -> Tensor:
    """dx/dsigma of the probability-flow ODE."""
    return (x - denoised) / sigma.reshape(-1, *(1,) * (x.ndim - 1))


def sample_euler(denoise: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
    ones = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i] * ones)
        d = derivative(x, sigmas[i], denoised)
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def sample_heun(denoise: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
    ones = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i] * ones)
        d = derivative(x, sigmas[i], denoised)
        step = sigmas[i + 1] - sigmas[i]
        if sigmas[i + 1] == 0:
            x = x + d * step
        else:
            guess = x + d * step
            d_next = derivative(guess, sigmas[i + 1], denoise(guess, sigmas[i + 1] * ones))
            x = x + (d + d_next) / 2 * step
    return x


def sample_dpmpp_2m(denoise: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
    ones = x.new_ones([x.shape[0]])
    before = None
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i] * ones)
        now, later = -sigmas[i].log(), -sigmas[i + 1].log()
        h = later - now
        if before is None or sigmas[i + 1] == 0:
            mixed = denoised
        else:
            r = (now + sigmas[i - 1].log()) / h
            mixed = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * before
        x = ((-later).exp() / (-now).exp()) * x - (-h).expm1() * mixed
        before = denoised
    return x


def sample_euler_ancestral(denoise: Callable, x: Tensor, sigmas: Tensor) -> Tensor:
    ones = x.new_ones([x.shape[0]])
    for i in range(len(sigmas) - 1):
        denoised = denoise(x, sigmas[i] * ones)
        now, later = sigmas[i], sigmas[i + 1]
        up = torch.minimum(later, (later**2 * (now**2 - later**2) / now**2) ** 0.5)
        down = (later**2 - up**2) ** 0.5
        x = x + derivative(x, now, denoised) * (down - now)
        if later > 0:
            x = x + torch.randn_like(x) * up
    return x


PLAIN = (sample_euler, sample_heun, sample_dpmpp_2m, sample_euler_ancestral)
K_DIFFUSION = {f.__name__: f for f in PLAIN}


def by_peer(name: str, model: nn.Module, x: Tensor, grid: list[float]) -> Callable[[], Tensor]:
    library, method = name.split()
    if library == "k-diffusion":
        ratios = [(1 - t) / t for t in grid]
        sigmas = torch.tensor(ratios, device=x.device)
        return lambda: K_DIFFUSION[method](model, x, sigmas)

    def rate(t: Tensor, y: Tensor) -> Tensor:
        return model(y, t.expand(y.shape[0]))

    adaptive = method == "dopri5"
    ends = torch.tensor([grid[0], grid[-1]] if adaptive else grid, device=x.device)
    options = {"rtol": 1e-5, "atol": 1e-5} if adaptive else {}
    return lambda: torchdiffeq.odeint(rate, x, ends, method=method, **options)[-1]


def loops(model: nn.Module, x: Tensor, steps: int, region: int) -> dict[str, Callable]:
    """Name the ways to make Euler steps; all return the same points up to rounding."""
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


class Operations(TorchDispatchMode):
    """Counts tensor operations, views included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(run: Callable[[], object]) -> int:
    with Operations() as counter:
        run()
    return counter.count


def clock_for(device: str, threads: int) -> Callable[[], float]:
    return time.process_time if device == "cpu" and threads == 1 else time.perf_counter


def interleaved(
    runs: dict[str, Callable], repeats: int, device: torch.device, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Time every run in every repeat, forwards and backwards in turn."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    gc.collect()
    gc.disable()
    for repeat in range(repeats):
        for name in list(runs)[:: 1 if repeat % 2 else -1]:
            begin = clock()
            runs[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[name].append(clock() - begin)
    gc.enable()
    return times


def ratio(taken: list[float], to: list[float]) -> dict[str, float]:
    median = statistics.median(a / b for a, b in zip(taken, to, strict=True))
    return {"median": median, "of_minima": min(taken) / min(to)}


def microseconds(taken: list[float], steps: int) -> dict[str, float]:
    return {
        "median": 1e6 * statistics.median(taken) / steps,
        "minimum": 1e6 * min(taken) / steps,
    }


def network_and_points(batch: int, args: argparse.Namespace) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = Velocity(args.width).to(args.device).eval()
    x = torch.randn(batch, 2, generator=torch.Generator().manual_seed(0))
    return model, x.to(args.device)


@torch.no_grad()
def measure_loop(batch: int, args: argparse.Namespace) -> dict:
    model, x = network_and_points(batch, args)
    runs = loops(model, x, args.steps, args.compile)
    ends = {name: run() for name, run in runs.items()}  # compiles, warms up
    apart = {name: (end - ends["hand"]).abs().max().item() for name, end in ends.items()}
    assert max(apart.values()) < 1e-4, f"the loops disagree: {apart}"
    clock = clock_for(args.device, args.threads)
    times = interleaved(runs, args.repeats, x.device, clock)
    return {
        "batch": batch,
        "microseconds_per_step": {n: microseconds(t, args.steps) for n, t in times.items()},
        "ratio_to_hand": {n: ratio(t, times["hand"]) for n, t in times.items() if n != "hand"},
        "largest_difference_to_hand": apart,
    }


@torch.no_grad()
def measure_solvers(batch: int, args: argparse.Namespace) -> list[dict]:
    model, x = network_and_points(batch, args)
    field, grid = bind(model), log_snr(args.steps, 0.02, 0.98)
    noise = KeyedNoise(0, range(batch))
    t = torch.full((batch,), 0.5, device=x.device)
    network = operations(lambda: model(x, t))
    clock = clock_for(args.device, args.threads)
    rows = []
    for peer, solvers in PEERS.items():
        torch.manual_seed(0)  # of the peer that draws noise
        runs = {peer: by_peer(peer, model, x, grid)}
        for solver in solvers:
            ends = [grid[0], grid[-1]] if isinstance(solver, Dopri5) else grid
            moves = plan(ends, solver)
            name = repr(solver)
            drawn = None if solver.traceable else noise
            runs[name] = lambda moves=moves, drawn=drawn: integrate(field, x, moves, noise=drawn)
            if type(solver).__name__ in args.compiled:
                runs[f"{name}, compiled"] = lambda moves=moves: integrate(
                    field, x, moves, compile=args.compile
                )
        for run in runs.values():
            run()  # compiles, warms up
        counted = {n: operations(r) for n, r in runs.items() if not n.endswith("compiled")}
        times = interleaved(runs, args.solver_repeats, x.device, clock)
        rows += [
            {
                "solver": name,
                "peer": peer,
                "operations_per_step": counted[name] / args.steps if name in counted else None,
                "of_one_network_call": network,
                "microseconds_per_step": microseconds(taken, args.steps),
                "ratio_to_peer": ratio(taken, times[peer]),
            }
            for name, taken in times.items()
        ]
    return rows


def table(rows: list[dict]) -> str:
    lines = [f"{'solver':<66} {'operations':>10} {'microseconds':>12} {'to peer':>8}"]
    for row in rows:
        counted = row["operations_per_step"]
        lines.append(
            f"{row['solver'][:66]:<66} {'-' if counted is None else f'{counted:.1f}':>10} "
            f"{row['microseconds_per_step']['median']:12.1f} {row['ratio_to_peer']['median']:8.2f}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 4096])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--compile", type=int, default=25, help="moves per compiled region")
    parser.add_argument("--compiled", nargs="*", default=["Euler", "Heun", "DPMSolverPP2M"])
    parser.add_argument("--repeats", type=int, default=300, help="of the loops")
    parser.add_argument("--solver-repeats", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    solvers = measure_solvers(64, args)
    print(table(solvers))
    results = {
        "environment": environment() | {"torchdiffeq": torchdiffeq.__version__},
        "clock": clock_for(args.device, args.threads).__name__,
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
        "targets": TARGETS,
        "solvers": solvers,
        "results": [measure_loop(batch, args) for batch in args.batches],
    }
    text = json.dumps(results, indent=1)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
