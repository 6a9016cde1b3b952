"""What the entries of the GPU queue share: arguments, result files."""

from __future__ import annotations

import argparse
import datetime
import time
from pathlib import Path

import torch
from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json

ROOT = Path(__file__).resolve().parents[2]
STARTED = time.monotonic()


def parse(description: str) -> argparse.Namespace:
    """Read the arguments that run.sh passes to every entry."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, required=True, help="results and state")
    parser.add_argument("--data", type=Path, help="prepared shards, or backbones.npz")
    parser.add_argument("--golden", type=Path, default=ROOT / "tests" / "golden")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=500.0, help="time for this call")
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("no CUDA device is visible to torch; expected one, or --device cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    return args


def seconds_left(args: argparse.Namespace) -> float:
    """Return how much of this call's time is left."""
    return args.seconds - (time.monotonic() - STARTED)


def write(args: argparse.Namespace, name: str, results: dict) -> None:
    """Write ``NAME.json`` to the output folder, whole or not at all."""
    told = {
        "entry": name,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": describe_machine() | {"cuda": torch.version.cuda},
        **results,
    }
    target = args.out / f"{name}.json"
    write_json(target, told, indent=1)
