"""How good generated backbones are, at several numbers of steps, against held-out chains.

    python benchmarks/protein_quality.py --weights small_base small --data SHARDS --out FILE.json
    python benchmarks/protein_quality.py --steps 50 --repulsion off on --data SHARDS --out FILE.json
    python benchmarks/protein_quality.py --steps 50 --repulsion on --pairing off on \\
        --data SHARDS --out FILE.json
    python benchmarks/protein_quality.py --steps 10 --rate 14 --last-time 0.98 --data SHARDS \\
        --out FILE.json
    python benchmarks/protein_quality.py --steps 10 --nearest --data SHARDS --out FILE.json
    python benchmarks/protein_quality.py --weights small --steps 50 --num 16 \\
        --temperature 0 0.25 0.5 0.75 1 --data SHARDS --out FILE.json

``--data`` is a folder made by ``rectiflow protein prepare`` (a ``backbones.npz`` is prepared on the
fly): the chains of the sampled lengths in its valid and test splits give the reference row. With
``--nearest`` each chain is held against all training chains by TM-score, some minutes a row. With
several temperatures the table is the curve of validity against diversity: it ends with lines for a
model card.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from itertools import product
from pathlib import Path

import torch
from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json
from rectiflow_protein.constraints import Constraint
from rectiflow_protein.data import prepare
from rectiflow_protein.evaluation import Known, evaluate
from rectiflow_protein.flow import ExponentialSchedule, FrameAncestral, FrameEuler
from rectiflow_protein.io import Backbone
from rectiflow_protein.pairing import Pairing
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.repulsion import Repulsion

SHOWN = ("ca_ca_bonded", "ca_ca_valid", "contacts", "close_contacts", "peptide_valid")
SHOWN += ("ramachandran", "helix", "strand", "coil", "radius_of_gyration", "diversity_tm")
SHOWN += ("nearest_tm",)
CURVE = ("ca_ca_bonded", "peptide_valid", "contacts", "helix", "strand", "diversity_tm")
CURVE += ("clusters_tm_0.5",)
NO_CB = [0, 1, 2, 4]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", default=["small_base", "small"])
    parser.add_argument("--data", type=Path, help="prepared chains, for the reference row")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--repulsion", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument("--pairing", nargs="+", choices=("off", "on"), default=["off"])
    parser.add_argument("--temperature", type=float, nargs="+", default=[0.0])
    parser.add_argument("--rate", type=float, default=10.0, help="of the rotations' schedule")
    parser.add_argument("--last-time", type=float, help="of the last call; of the one before it")
    parser.add_argument("--nearest", action="store_true", help="TM-score of the nearest chain")
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--shortest", type=int, default=60)
    parser.add_argument("--longest", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def rounded(summary: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in summary.items()}


def read_known(args: argparse.Namespace) -> Known | None:
    """Read the reference chains, which are prepared first where ``--data`` is an archive."""
    if args.data is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.data
        if folder.is_file():
            folder = Path(scratch)
            prepare(args.data, folder, min_length=40, max_length=512)
        return Known.read(folder, args.shortest, args.longest)


def summary(chains: list[Backbone], known: Known | None) -> dict[str, float]:
    """Mean of every metric."""
    return rounded(evaluate(chains, known=known).summary)


def measure(
    pipe: BackbonePipeline,
    steps: int,
    constraints: Sequence[Constraint],
    temperature: float,
    known: Known | None,
    args: argparse.Namespace,
) -> dict[str, float]:
    """Sample and measure; seconds are of sampling alone."""
    span = args.longest - args.shortest
    lengths = [args.shortest + span * i // max(args.num - 1, 1) for i in range(args.num)]
    schedule = ExponentialSchedule(args.rate)
    solver = FrameAncestral(temperature, schedule) if temperature else FrameEuler(schedule)
    result = pipe(
        lengths,
        steps=steps,
        solver=solver,
        seed=args.seed,
        last_time=args.last_time,
        constraints=constraints,
    )
    chains = [Backbone.from_coords(s.atoms[:, NO_CB], name=s.name) for s in result.samples]
    return summary(chains, known) | rounded({"seconds_per_sample": result.seconds / args.num})


def main() -> None:
    args = parse()
    started = time.time()
    found: dict[str, object] = {
        "date": date.today().isoformat(),
        "machine": describe_machine(),
        "threads": torch.get_num_threads(),
        "num": args.num,
        "lengths": [args.shortest, args.longest],
        "seed": args.seed,
        "rate": args.rate,
        "last_time": args.last_time,
    }
    table = {}
    known = read_known(args)
    held_against = Known(known.train, []) if known is not None and args.nearest else None
    if known is not None and known.held_out:
        table["held-out chains"] = summary(known.held_out, held_against)
    for weights, steps, repulsion, pairing, temperature in product(
        args.weights, args.steps, args.repulsion, args.pairing, args.temperature
    ):
        pipe = BackbonePipeline.from_pretrained(weights, device=args.device)
        name = f"{Path(weights).name}, {steps} steps" + ", repulsion" * (repulsion == "on")
        name += ", pairing" * (pairing == "on")
        name += f", temperature {temperature:g}" * (len(args.temperature) > 1)
        given: list[Constraint] = [Pairing()] if pairing == "on" else []
        given += [Repulsion()] if repulsion == "on" else []
        table[name] = measure(pipe, steps, given, temperature, held_against, args)
    found |= {"table": table, "minutes": round((time.time() - started) / 60, 1)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, found)
    width = max(map(len, table))
    print(" " * width, *(f"{name[:12]:>12}" for name in SHOWN))
    for name, row in table.items():
        print(f"{name:<{width}}", *(f"{row.get(key, float('nan')):12.3f}" for key in SHOWN))
    if len(args.temperature) > 1:
        print_card(table)


def print_card(table: dict[str, dict[str, float]]) -> None:
    """Print the rows as a table of a model card."""
    print(f"\n| | {' | '.join(CURVE)} |\n|{'---|' * (len(CURVE) + 1)}")
    for name, row in table.items():
        print(f"| {name} | {' | '.join(f'{row[key]:.3f}' for key in CURVE)} |")


if __name__ == "__main__":
    main()
