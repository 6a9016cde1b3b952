"""EGTN beside its form with e3nn's tensor products, at equal parameters.

    python benchmarks/trajectories_backbones.py --out benchmarks/results/trajectories_backbones.json

Forecasts of simulated charged particles, 5 frames to 10. The tensor products are trained for
``--seconds`` of processor time; EGTN for as many steps, and again for as many seconds. Errors are
those of 8 steps of Euler's method on held-out runs, means over 5 samples.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_trajectories import EGTN, TensorEGTN, TrajectoryPipeline, TrajectorySettings
from rectiflow_trajectories.data import PreparedTrajectories, Windows, prepare
from rectiflow_trajectories.data.datamodule import TrajectoryDataset
from rectiflow_trajectories.evaluation import measure_windows, summed_up
from rectiflow_trajectories.io import write_runs
from rectiflow_trajectories.objective import TrajectoryObjective
from rectiflow_trajectories.simulators import Charged

GIVEN, FRAMES, EVERY, BATCH, NOISE, STEPS = 5, 10, 200, 16, 0.1, 8
SIZES = {"layers": 2, "time_dim": 16, "given": GIVEN, "frames": FRAMES, "prior": "velocity"}
NETWORKS: dict[str, Callable[[], Any]] = {
    "EGTN": lambda: EGTN(hidden=32, **SIZES),
    "e3nn": lambda: TensorEGTN(hidden=28, **SIZES),
}


def windows(folder: Path, train: int, test: int) -> PreparedTrajectories:
    """Simulate runs, those of the two splits of their own seeds, and prepare a window of each."""
    told: Any = {"steps": (GIVEN + FRAMES + 1) * EVERY, "every": EVERY}
    for seed, (split, count) in enumerate({"train": train, "test": test}.items()):
        (folder / "runs" / split).mkdir(parents=True)
        runs = Charged().simulate(range(count), seed=seed, **told)
        write_runs(folder / "runs" / split, "charged", runs)
    prepare(folder / "runs", folder / "shards", windows=Windows(given=GIVEN, frames=FRAMES))
    return PreparedTrajectories(folder / "shards")


def trained(
    network: Any, data: TrajectoryDataset, progress: Callable[[int, float], float]
) -> tuple[Any, int, list[float]]:
    """Train until ``progress`` of steps and seconds is 1; return the averaged network."""
    objective = TrajectoryObjective(network, noise=NOISE)
    rates = {"lr": 2e-3, "betas": (0.9, 0.99)}
    optimizer = torch.optim.AdamW(network.parameters(), **rates)
    generator, order = torch.Generator().manual_seed(0), np.random.default_rng(0)
    mean = {name: value.detach().clone() for name, value in network.named_parameters()}
    spent: list[float] = []
    while (done := progress(len(spent), sum(spent))) < 1:
        began = time.process_time()
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, 0.05 + 50 * done, 2.5 * (1 - done) + 0.02)
        rows = [data[int(i)] for i in order.integers(len(data), size=BATCH)]
        loss = objective({k: torch.stack([row[k] for row in rows]) for k in rows[0]}, generator)
        optimizer.zero_grad()
        loss["loss"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            for name, value in network.named_parameters():
                mean[name].lerp_(value, 0.02)
        spent.append(time.process_time() - began)
        if len(spent) % 100 == 0:
            print(len(spent), round(sum(spent), 1), round(loss["loss"].item(), 4), flush=True)
    network.load_state_dict(mean, strict=False)
    return network.eval(), len(spent), spent


def measured(name: str, prepared: PreparedTrajectories, until: Any, limit: int) -> dict[str, Any]:
    """Train a network, and return what it costs and how far its forecasts are."""
    torch.manual_seed(0)
    data = TrajectoryDataset(prepared, "train", 1.0)
    network, steps, spent = trained(NETWORKS[name](), data, until)
    pipe = TrajectoryPipeline(network, settings=TrajectorySettings(noise=NOISE))
    rows = prepared.some_rows("test").tolist()[:limit]
    began = time.process_time()
    found = summed_up(measure_windows(pipe, prepared, rows, num=5, steps=(STEPS,)), {}).summary
    row = {
        "network": name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "steps": steps,
        "seconds": sum(spent),
        "seconds_per_step": float(np.median(spent)),
        "seconds_per_forecast": (time.process_time() - began) / (5 * len(rows)),
        "ade": found[f"ade@{STEPS}"],
        "fde": found[f"fde@{STEPS}"],
        "velocity_ade": found["velocity_ade"],
    }
    print(row, flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--tested", type=int, default=128)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepared = windows(Path(folder), args.runs, args.tested)
        rows = [measured("e3nn", prepared, lambda k, s: s / args.seconds, args.tested)]
        steps = rows[0]["steps"]
        rows.append(measured("EGTN", prepared, lambda k, s: k / steps, args.tested))
        rows.append(measured("EGTN", prepared, lambda k, s: s / args.seconds, args.tested))
    if args.out:
        told = {"runs": args.runs, "tested": args.tested, "batch": BATCH, "rows": rows}
        write_json(args.out, told | {"environment": environment()})


if __name__ == "__main__":
    main()
