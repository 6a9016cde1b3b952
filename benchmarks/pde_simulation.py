"""A whole simulation against the reference solver, and its cost as the nodes of the result grow.

    python benchmarks/pde_simulation.py --weights small --out benchmarks/results/pde_simulation.json

Both start from the same true first frame on the same mesh and end with the same frames, in turns,
on one thread; the seconds of the processor are told beside those of the clock, since others may
use the machine. The solver's error is that of its time step alone; ours is told.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_pde.evaluation import cut
from rectiflow_pde.examples import SHEDDING
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.metrics.errors import relative_l2
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.result import read_npz
from rectiflow_pde.solvers.cylinder import solve_flow
from scipy.spatial import Delaunay


def timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Return seconds of clock and processor, and what was made."""
    clock, cpu = time.perf_counter(), time.process_time()
    made = work()
    told = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - cpu}
    return told, made


def main() -> None:
    """Simulate, solve, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="small_march")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000]
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    pipe = SimulationPipeline.from_pretrained(args.weights)
    true = cut(read_npz(SHEDDING), pipe.length, pipe.settings.frame_step)
    told = {"mesh": true.mesh, "first_frame": true.stacked[0]}
    told["viscosity"] = true.parameters["viscosity"]
    start = true.stacked[0, :, :2].T.astype(np.float64)

    def simulate() -> np.ndarray:
        return pipe(**told).flows[0].stacked

    def solve() -> np.ndarray:
        times = true.times.tolist()
        return solve_flow(true.mesh, true.parameters, times, initial=start).stacked

    simulate()  # the first call is not counted
    rounds = []
    for _ in range(args.rounds):
        ours, found = timed(simulate)
        theirs, solved = timed(solve)
        ratio = {name: theirs[name] / ours[name] for name in ours}
        rounds.append({"simulation": ours, "solver": theirs, "ratio": ratio})
    errors = {
        name: relative_l2(values, true.stacked, given_frames=1).without_given
        for name, values in {"simulation": found, "solver": solved}.items()
    }
    growth = []
    for nodes in args.nodes:
        points = np.random.default_rng(0).random((nodes, 2)) * [1.6, 0.41]
        onto = Mesh(points, Delaunay(points).simplices, np.zeros(nodes))
        growth.append({"nodes": nodes} | timed(lambda onto=onto: pipe(**told, onto=onto))[0])
    document = {
        "environment": environment(),
        "weights": args.weights,
        "steps": pipe.settings.steps,
        "nodes": true.mesh.n_nodes,
        "frames": len(true.times),
        "rounds": rounds,
        "relative_l2": errors,
        "growth": growth,
    }
    write_json(args.out, document, indent=1)


if __name__ == "__main__":
    main()
