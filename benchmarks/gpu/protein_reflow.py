"""Rectify the small backbone network: pairs, retraining, and quality at few steps.

The teacher is what ``protein-small`` left in the same output folder, or the checkpoint that ships
with the package. Each phase continues where the last call stopped; call until ``complete``.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from functools import partial
from pathlib import Path

import torch
from backbone_runs import PADDED_TO, PAIRS_PER_STEP, export, keep, kept, quality, train
from entry import parse, seconds_left, write
from rectiflow.rectify import Pair, PairStore, generate_pairs
from rectiflow.storage.pretrained import weights_hash
from rectiflow_protein.data import PaddedBatches
from rectiflow_protein.data.datamodule import BackbonePairs
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.reflow import GeometricFilter, pair_sampler

NUM_PAIRS, PAIR_STEPS, PAIR_BATCH = 8192, 100, 256
MAX_STEPS = 4000
TABLE_STEPS = (10, 20, 50, 100)
TABLE_SECONDS = 60.0  # what a row of the table may take


class TimeIsUp(Exception):
    """The call's time is over; what was done is stored."""


def teacher_of(out: Path) -> ReQFlowNetwork:
    trained = out / "protein-small" / "export"
    if trained.is_dir():
        return ReQFlowNetwork.from_pretrained(trained)
    return BackbonePipeline.from_pretrained("small_base").network


def make_pairs(teacher: ReQFlowNetwork, folder: Path, args: Namespace) -> bool:
    """Sample and filter until all candidates are tried; return whether they are."""
    if folder.is_dir() and PairStore(folder).is_complete:
        return True
    network = copy.deepcopy(teacher).to(args.device)
    network.edge_dtype = torch.bfloat16
    sample = pair_sampler(
        BackbonePipeline(network), list(range(60, 129, 4)), steps=PAIR_STEPS, seed=1
    )

    def in_time(indices: list[int]) -> list[Pair]:
        if seconds_left(args) < TABLE_SECONDS:
            raise TimeIsUp
        return sample(indices)

    try:
        generate_pairs(
            in_time,
            folder,
            num=NUM_PAIRS,
            batch=PAIR_BATCH,
            seed=1,
            keep=GeometricFilter(),
            metadata={"steps": PAIR_STEPS, "teacher": weights_hash(teacher)},
            progress=False,
        )
    except TimeIsUp:
        return False
    return True


def retrain(
    teacher: ReQFlowNetwork, pairs: Path, run: Path, args: Namespace
) -> tuple[int, ReQFlowNetwork]:
    """Train a copy of the teacher on its pairs; return the steps done and the averaged student."""
    student = copy.deepcopy(teacher).requires_grad_(True).train()
    batching = partial(PaddedBatches, max_num_res_squared=PAIRS_PER_STEP)
    data = BackbonePairs(pairs, batching, multiple=PADDED_TO)
    steps = train(student, data, run / "run", args, lr=1e-4, max_steps=MAX_STEPS, ema=0.999)
    return steps, export(student, run / "run", run / "export", steps=steps)


def fill(table: dict, networks: dict[str, ReQFlowNetwork], path: Path, args: Namespace) -> bool:
    """Measure the rows that are missing, as time allows; return whether all are there."""
    rows = {
        f"{name}, {steps} steps": (network, steps)
        for steps in TABLE_STEPS
        for name, network in networks.items()
    }
    for row, (network, steps) in rows.items():
        if row not in table and seconds_left(args) > TABLE_SECONDS:
            table[row] = quality(network, steps, args)
            keep(path, table)
    return rows.keys() <= table.keys()


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    run = args.out / "protein-reflow"
    teacher = teacher_of(args.out)
    state = {"pairs_complete": make_pairs(teacher, run / "pairs", args), "complete": False}
    store = PairStore(run / "pairs")
    state |= {"pairs": len(store), "rejected": store.rejected, "steps": 0}
    table = kept(run / "table.json")
    if state["pairs_complete"] and seconds_left(args) > 2 * TABLE_SECONDS:
        state["steps"], student = retrain(teacher, run / "pairs", run, args)
        if state["steps"] >= MAX_STEPS:
            networks = {"teacher": teacher, "student": student}
            state["complete"] = fill(table, networks, run / "table.json", args)
    write(args, "protein-reflow", {**state, "max_steps": MAX_STEPS, "table": table})
    print(f"{state['pairs']} pairs, {state['steps']} of {MAX_STEPS} steps, {len(table)} rows")


if __name__ == "__main__":
    main()
