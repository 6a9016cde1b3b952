"""How good generated backbones are, at several numbers of steps, against held-out chains.

    python benchmarks/protein_quality.py --weights small_base small --data SHARDS --out FILE.json
    python benchmarks/protein_quality.py --steps 50 --repulsion off on --data SHARDS --out FILE.json
    python benchmarks/protein_quality.py --steps 10 --nearest --data SHARDS --out FILE.json

``--data`` is a folder made by ``rectiflow protein prepare`` (a ``backbones.npz`` is prepared on the
fly): the chains of the sampled lengths in its valid and test splits give the reference row. With
``--nearest`` each chain is held against all training chains by TM-score, some minutes a row.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date
from itertools import product
from pathlib import Path

import torch
from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json
from rectiflow_protein.data import LengthFilter, PreparedBackbones, prepare
from rectiflow_protein.evaluation import evaluate
from rectiflow_protein.io import Backbone
from rectiflow_protein.metrics import nearest_tm
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.repulsion import Repulsion

SHOWN = ("ca_ca_bonded", "ca_ca_valid", "contacts", "close_contacts", "peptide_valid")
SHOWN += ("ramachandran", "helix", "strand", "coil", "radius_of_gyration", "diversity_tm")
SHOWN += ("nearest_tm",)
NO_CB = [0, 1, 2, 4]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", default=["small_base", "small"])
    parser.add_argument("--data", type=Path, help="prepared chains, for the reference row")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--repulsion", nargs="+", choices=("off", "on"), default=["off"])
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


class Reference:
    """Prepared chains: those held out, of the sampled lengths, and those trained on."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.held_out: list[Backbone] = []
        self.train: list[torch.Tensor] = []
        if args.data is None:
            return
        with tempfile.TemporaryDirectory() as scratch:
            folder = args.data
            if folder.is_file():
                folder = Path(scratch)
                prepare(args.data, folder, min_length=40, max_length=512)
            prepared = PreparedBackbones(folder)
            window = [LengthFilter(args.shortest, args.longest)]
            held_out = [row for split in ("valid", "test") for row in prepared.rows(split, window)]
            self.held_out = [
                Backbone.from_coords(prepared.records[int(row)]["coords"].clone(), name=str(row))
                for row in held_out
            ]
            train = prepared.rows("train", []).tolist() if args.nearest else []
            self.train = [prepared.records[row]["coords"][:, 1].clone() for row in train]

    def summary(self, chains: list[Backbone]) -> dict[str, float]:
        """Mean of every metric."""
        found = evaluate(chains).summary
        if self.train:
            ca = [torch.from_numpy(chain.coords[:, 1]) for chain in chains]
            found["nearest_tm"] = sum(nearest_tm(c, self.train)[0] for c in ca) / len(ca)
        return rounded(found)


def measure(
    pipe: BackbonePipeline, steps: int, repulsion: bool, known: Reference, args: argparse.Namespace
) -> dict[str, float]:
    """Sample and measure; seconds are of sampling alone."""
    span = args.longest - args.shortest
    lengths = [args.shortest + span * i // max(args.num - 1, 1) for i in range(args.num)]
    corrections = [Repulsion()] if repulsion else []
    result = pipe(lengths, steps=steps, seed=args.seed, corrections=corrections)
    chains = [Backbone.from_coords(s.atoms[:, NO_CB], name=s.name) for s in result.samples]
    return known.summary(chains) | rounded({"seconds_per_sample": result.seconds / args.num})


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
    }
    table = {}
    known = Reference(args)
    if known.held_out:
        table["held-out chains"] = known.summary(known.held_out)
    for weights, steps, repulsion in product(args.weights, args.steps, args.repulsion):
        pipe = BackbonePipeline.from_pretrained(weights, device=args.device)
        name = f"{Path(weights).name}, {steps} steps" + ", repulsion" * (repulsion == "on")
        table[name] = measure(pipe, steps, repulsion == "on", known, args)
    found |= {"table": table, "minutes": round((time.time() - started) / 60, 1)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, found)
    width = max(map(len, table))
    print(" " * width, *(f"{name[:12]:>12}" for name in SHOWN))
    for name, row in table.items():
        print(f"{name:<{width}}", *(f"{row.get(key, float('nan')):12.3f}" for key in SHOWN))


if __name__ == "__main__":
    main()
