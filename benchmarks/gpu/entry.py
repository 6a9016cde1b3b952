"""What the entries of the GPU queue share: arguments, the machine's description, result files."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
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


def machine(device: str) -> dict:
    """Describe hardware, versions and date."""
    found: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cores": os.cpu_count(),
    }
    for name in ("rectiflow", "lightning", "numpy", "scipy", "safetensors"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        found |= {
            "gpu": properties.name,
            "gpu_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
        }
    return found


def write(args: argparse.Namespace, name: str, results: dict) -> None:
    """Write ``NAME.json`` to the output folder, whole or not at all."""
    told = {"entry": name, "machine": machine(args.device), **results}
    target = args.out / f"{name}.json"
    write_json(target, told, indent=1)
