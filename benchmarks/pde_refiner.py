"""PDE-Refiner on Kuramoto-Sivashinsky against the same network by least squares.

    rectiflow pde solve ks --num 512 --points 128 --time-step 0.025 --frames 140 --spread 0.1 \\
        --seed 2 --splits 0.98,0.02,0 -o waves
    rectiflow pde solve ks --num 24 --points 128 --time-step 0.025 --frames 400 --spread 0.1 \\
        --seed 3 --splits 0,0,1 -o test
    rectiflow pde train data.dir=waves experiment=small_refiner
    rectiflow pde train data.dir=waves experiment=small_one_step
    python benchmarks/pde_refiner.py test --refiner REFINER --one-step ONE_STEP \\
        --out benchmarks/results/pde_refiner.json

High-correlation times of rollouts (0.8 and 0.9), their ratio to that of the plain network with a
bootstrap interval over the flows, and the energy of the error of one step by wave number; the
refiner as published, and as a flow.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_pde.data.grids import PreparedGrids
from rectiflow_pde.data.states import Waves
from rectiflow_pde.rollout import RolloutPipeline
from rectiflow_pde.rollout_evaluation import evaluate, summarise

DRAWS = 2000


def times(measure, most):
    """Return how long each flow stays above 0.8, at most to its end."""
    found = [row["correlation_time_0.8"] for row in measure.rows]
    return np.array([most if time is None else time for time in found])


def main() -> None:
    """Measure, tell, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--refiner", type=Path, required=True)
    parser.add_argument("--one-step", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    flows = PreparedGrids(args.shards)
    rows = flows.some_rows("test").tolist()
    plain, refiner = map(RolloutPipeline.from_pretrained, (args.one_step, args.refiner))
    waves = Waves(flows, rows, refiner.settings.stride)
    ways = {
        "least squares": (plain, plain.settings.way),
        "refiner": (refiner, refiner.settings.way),
        "refiner as a flow": (refiner, refiner.settings.flow),
    }
    found = {
        name: evaluate(pipe, waves, way, frames=args.frames) for name, (pipe, way) in ways.items()
    }
    summary, rng = summarise(found), np.random.default_rng(0)
    most = found["least squares"].together.times[-1]
    base = times(found["least squares"], most)
    draws = rng.integers(len(base), size=(DRAWS, len(base)))
    for name, measure in found.items():
        own = times(measure, most)
        ratios = own[draws].mean(1) / base[draws].mean(1)
        summary[name] |= {
            "mean_of_flows": float(own.mean()),
            "ratio": float(own.mean() / base.mean()),
            "ratio_90": np.quantile(ratios, [0.05, 0.95]).tolist(),
            "error_by_wave": measure.error.tolist(),
        }
    parameters = sum(p.numel() for p in refiner.network.parameters())
    told = {"parameters": parameters, "energy_by_wave": found["refiner"].truth.tolist()}
    write_json(args.out, {"environment": environment(), **told, "methods": summary}, indent=1)


if __name__ == "__main__":
    main()
