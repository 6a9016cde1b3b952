"""Iterations of deep conjugate directions against conjugate gradients, by size of the grid.

    python benchmarks/conjugate_directions.py --out benchmarks/results/conjugate_directions.json

Poisson's equation with random right-hand sides to 1e-6 of their norm, in an open box and in one
with discs and walls, at 64², 128² and 256²: conjugate gradients, with incomplete Cholesky (IC(0)),
with the network's untrained form (the additive multilevel preconditioner that it begins as), and
with the shipped network, which was trained at 64² alone. Cost is counted in applications of A and
calls; seconds are of one thread, the factorisation and nothing else left out.

``--train`` trains that network on the share of the error's energy that its step leaves: each batch
starts from random solutions, and goes on from the errors that the network's own steps leave.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from environment import environment
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_pde.conjugate import (
    SHIPPED,
    EnergyObjective,
    draw_solutions,
    gradients,
    load_directions,
    network_directions,
    solve,
)
from rectiflow_pde.networks.directions import DirectionNetwork
from rectiflow_pde.solvers.poisson import Poisson, cholesky_directions

SIZES = (64, 128, 256)
BATCH, ROUNDS = 8, 5


def scene(size: int, obstacles: bool, generator: torch.Generator) -> Poisson:
    """Draw a box; with obstacles three sides are walled, and discs stand in it."""
    wall = torch.zeros(size, size, dtype=torch.bool)
    if obstacles:
        y, x = torch.meshgrid(*2 * [(torch.arange(size) + 0.5) / size], indexing="ij")
        for _ in range(3):
            cy, cx, r = torch.rand(3, generator=generator).tolist()
            radius = 0.05 + 0.1 * r
            wall |= (y - 0.2 - 0.6 * cy) ** 2 + (x - 0.2 - 0.6 * cx) ** 2 < radius**2
        wall[0] = wall[-1] = wall[:, 0] = True
    try:
        return Poisson(~wall, wall)
    except ValueError:  # discs that shut fluid in
        return scene(size, obstacles, generator)


def train(steps: int, size: int = 64) -> DirectionNetwork:
    """Train on boxes with and without obstacles, in turn."""
    torch.manual_seed(0)
    draw = counter_generator("directions", 0)
    objective = EnergyObjective(DirectionNetwork())
    optimizer = torch.optim.Adam(objective.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for step in range(steps):
        poisson = scene(size, step % 2 == 1, draw)
        low = 1.0 if step % 4 < 2 else 9.0
        e, total = draw_solutions(poisson, BATCH, draw, low=low), 0.0
        for _ in range(ROUNDS):
            optimizer.zero_grad()
            loss = objective({"e": e, "poisson": poisson}, draw)["loss"]
            loss.backward()
            torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
            optimizer.step()
            total += loss.item() / ROUNDS
            with torch.no_grad():
                e = e - objective.step(poisson(e), poisson)[0]
                e = e / e.flatten(1).norm(dim=1)[:, None, None]
        decay.step()
        losses.append(total)
        if step % 50 == 49:
            print(f"step {step + 1}: {sum(losses[-50:]) / 50:.4f}", flush=True)
    objective.network.save_pretrained(
        SHIPPED,
        trained_with="benchmarks/conjugate_directions.py --train",
        data=f"boxes of {size} x {size} cells, half of them with three discs and walls; seed 0",
        steps=steps * ROUNDS,
        loss=sum(losses[-50:]) / len(losses[-50:]),
        licence="Apache-2.0",
    )
    return objective.network


def measure(size: int, obstacles: bool, cases: int) -> list[dict]:
    """Solve some cases by every method."""
    rows: dict[str, list[dict]] = {}
    trained, untrained = load_directions(), DirectionNetwork().eval()
    for case in range(cases):
        draw = counter_generator("conjugate", size, int(obstacles), case)
        poisson = scene(size, obstacles, draw)
        b = torch.randn(size, size, generator=draw, dtype=torch.float64) * poisson.fluid
        methods = {
            "conjugate gradients": gradients,
            "incomplete Cholesky": cholesky_directions(poisson),
            "untrained network": network_directions(untrained, poisson),
            "trained network": network_directions(trained, poisson),
        }
        for name, direction in methods.items():
            began = time.perf_counter()
            found = solve(poisson, b, direction, patience=50 if "network" in name else None)
            assert found.converged, name
            told = {"iterations": found.steps, "applications": found.applications}
            told |= {"calls": found.calls, "fell_back": found.fell_back}
            rows.setdefault(name, []).append(told | {"seconds": time.perf_counter() - began})
    return [
        {
            "size": size,
            "obstacles": obstacles,
            "method": name,
            **{key: sum(row[key] for row in each) / len(each) for key in each[0]},
        }
        for name, each in rows.items()
    ]


def main() -> None:
    """Train if asked, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", type=int, metavar="STEPS")
    parser.add_argument("--cases", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.train:
        train(args.train)
    rows = [
        row
        for size in SIZES
        for obstacles in (False, True)
        for row in measure(size, obstacles, args.cases)
    ]
    for row in rows:
        print(row)
    write_json(args.out, {"environment": environment(), "tolerance": 1e-6, "rows": rows})


if __name__ == "__main__":
    main()
