"""AirPhyNet on plumes with a known wind: with its physics, and the same network without it.

    python benchmarks/pde_air.py --out benchmarks/results/pde_air.json

For each seed, 480 hours of plumes over 16 stations, 5 % of the readings missing; steps of 16
windows, Adam at 1e-2, on the first 70 % of the time, both ways from the same start; mean absolute
error on the last 15 %, which nothing else has seen, in deviations of the training's readings,
beside the last reading repeated. By horizon in hours and steps: 300 steps and 12 hours are those
of ``experiment=small_air``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_pde.air import AirObjective, masked
from rectiflow_pde.data.air import AirData, Windows, read_folder, split, write_plumes
from rectiflow_pde.networks.air import AirNetwork

BATCH, RATE = 16, 1e-2


def stack(windows, rows):
    """Return windows as a batch."""
    return torch.utils.data.default_collate([windows[row] for row in rows])


def trained(data, physics, steps):
    """Return a network after so many steps, and the seconds of the processor."""
    torch.manual_seed(0)
    objective = AirObjective(AirNetwork(units=16, physics=physics))
    optimizer = torch.optim.Adam(objective.parameters(), RATE)
    draw, started = torch.Generator().manual_seed(0), time.process_time()
    for _ in range(steps):
        rows = torch.randint(len(data.dataset), (BATCH,), generator=draw).tolist()
        optimizer.zero_grad()
        objective(stack(data.dataset, rows), draw)["loss"].backward()
        optimizer.step()
    return objective.network, time.process_time() - started


@torch.no_grad()
def errors(network, windows, horizon):
    """Return mean absolute errors, and those of persistence, by hour of the forecast."""
    batch = stack(windows, range(len(windows)))
    history, future = batch["history"], batch["future"]
    found = network(history, batch["wind"], batch["places"][0], horizon, 1.0)
    last = network.held(history)[0][:, -1:].expand_as(future)
    return {
        name: {
            "all": float(masked(guess, future)),
            "first_hour": float(masked(guess[:, 0], future[:, 0])),
            "last_hour": float(masked(guess[:, -1], future[:, -1])),
        }
        for name, guess in (("network", found), ("persistence", last))
    }


def main() -> None:
    """Measure, tell, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = {}
    for horizon, steps in ((6, 60), (6, 300), (12, 300)):
        rows = []
        for seed in range(args.seeds):
            with tempfile.TemporaryDirectory() as folder:
                told = {"history": horizon, "horizon": horizon}
                data = AirData(write_plumes(folder, seed=seed), BATCH, **told)
                test = Windows(split(read_folder(folder))[2], data.scale, horizon, horizon)
            row = {"seed": seed, "windows": len(test)}
            for name, physics in (("physics", True), ("without", False)):
                network, seconds = trained(data, physics, steps)
                told = errors(network, test, horizon)
                row[name] = told["network"] | {"seconds": seconds}
                row["persistence"] = told["persistence"]
            rows.append(row)
        names = ("physics", "without", "persistence")
        means = {name: float(np.mean([each[name]["all"] for each in rows])) for name in names}
        means["ratio"] = means["physics"] / means["without"]
        found[f"{horizon} h, {steps} steps"] = {"mean": means, "runs": rows}
        write_json(args.out, {"environment": environment(), "forecasts": found}, indent=1)


if __name__ == "__main__":
    main()
