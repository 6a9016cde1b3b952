"""How good generated backbones are, at several numbers of steps, against held-out chains.

    python benchmarks/protein_quality.py --weights small_base small --data SHARDS --out FILE.json

``--data`` is a folder made by ``rectiflow protein prepare`` (a ``backbones.npz`` is prepared on the
fly); the valid and test splits give the reference row, chains of the sampled lengths only.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json
from rectiflow_protein.data import LengthFilter, PreparedBackbones, prepare
from rectiflow_protein.evaluation import evaluate
from rectiflow_protein.io import Backbone
from rectiflow_protein.pipeline import BackbonePipeline

SHOWN = ("ca_ca_valid", "ca_ca_strict", "close_contacts", "clashes", "peptide_valid")
SHOWN += ("ramachandran", "helix", "strand", "coil", "radius_of_gyration", "diversity_tm")
NO_CB = [0, 1, 2, 4]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", default=["small_base", "small"])
    parser.add_argument("--data", type=Path, help="prepared chains, for the reference row")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--num", type=int, default=64)
    parser.add_argument("--shortest", type=int, default=60)
    parser.add_argument("--longest", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def rounded(summary: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in summary.items()}


def reference(args: argparse.Namespace) -> dict[str, float]:
    """Measure the held-out chains of the sampled lengths."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.data
        if folder.is_file():
            folder = Path(scratch)
            prepare(args.data, folder, min_length=40, max_length=512)
        prepared = PreparedBackbones(folder)
        window = [LengthFilter(args.shortest, args.longest)]
        rows = [row for split in ("valid", "test") for row in prepared.rows(split, window)]
        chains = [
            Backbone.from_coords(prepared.records[int(row)]["coords"], name=str(row))
            for row in rows
        ]
        return rounded(evaluate(chains).summary)


def measure(pipe: BackbonePipeline, steps: int, args: argparse.Namespace) -> dict[str, float]:
    """Sample and measure; seconds are of sampling alone."""
    span = args.longest - args.shortest
    lengths = [args.shortest + span * i // max(args.num - 1, 1) for i in range(args.num)]
    result = pipe(lengths, steps=steps, seed=args.seed)
    chains = [Backbone.from_coords(s.atoms[:, NO_CB], name=s.name) for s in result.samples]
    summary = evaluate(chains).summary
    return rounded({**summary, "seconds_per_sample": result.seconds / args.num})


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
    if args.data is not None:
        table["held-out chains"] = reference(args)
    for weights in args.weights:
        pipe = BackbonePipeline.from_pretrained(weights, device=args.device)
        for steps in args.steps:
            table[f"{Path(weights).name}, {steps} steps"] = measure(pipe, steps, args)
    found |= {"table": table, "minutes": round((time.time() - started) / 60, 1)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(args.out, found)
    width = max(map(len, table))
    print(" " * width, *(f"{name[:12]:>12}" for name in SHOWN))
    for name, row in table.items():
        print(f"{name:<{width}}", *(f"{row.get(key, float('nan')):12.3f}" for key in SHOWN))


if __name__ == "__main__":
    main()
