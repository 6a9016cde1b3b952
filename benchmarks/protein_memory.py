"""Memory of commands over many short proteins: resident in the course of each, and its growth.

Each command runs as its user would start it, over 500 chains and over all; what is noted is its
resident memory after 40, 70 and 100 % of its time, and its peak.

    python benchmarks/protein_memory.py --out benchmarks/results/protein_memory.json
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_protein.data.synthetic import synthetic_backbone
from rectiflow_protein.io import Backbone, write_structure
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

FEW = 500
MARKS = {"start": 0.4, "middle": 0.7, "end": 1.0}
AIM_MIB = 64.0  # of growth from the few to all
TINY = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


def resident(pid: int) -> float:
    """Return the resident memory of a process in MiB, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:")), 0.0)


def measure(words: list[str]) -> dict[str, float]:
    """Run a command and note its memory."""
    command = [sys.executable, "-m", "rectiflow_cli", "protein", *words]
    began, seen = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if mib := resident(process.pid):
                seen.append(mib)
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    at = {name: round(seen[int(share * (len(seen) - 1))], 1) for name, share in MARKS.items()}
    told = {f"{name}_mib": value for name, value in at.items()}
    seconds = round(time.perf_counter() - began, 1)
    return {**told, "peak_mib": round(max(seen), 1), "seconds": seconds}


def main() -> None:
    """Measure, compare with the aim, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        torch.manual_seed(0)
        ReQFlowNetwork(TINY).save_pretrained(root / "tiny")
        for count in (FEW, args.num):
            folder = root / f"chains-{count}"
            for i in range(count):
                generator = torch.Generator().manual_seed(i)
                chain = Backbone.from_coords(synthetic_backbone(40, generator), name=f"c{i}")
                write_structure(folder / f"c{i:05d}.pdb", chain)
            tiny, made = str(root / "tiny"), str(root / f"made-{count}")
            shards = str(root / f"shards-{count}")
            sampled = ("--length", "24", "--num", str(count), "--steps", "2", "--weights", tiny)
            runs = {
                "sample": ["sample", *sampled, "-o", made],
                "prepare": ["prepare", str(folder), "--min-length", "20", "-o", shards],
                "eval": ["eval", str(folder), "--no-diversity", "-o", str(root / f"eval-{count}")],
            }
            for verb, words in runs.items():
                found.setdefault(verb, {})[str(count)] = measure(words)
    for rows in found.values():
        peaks = [row["peak_mib"] for row in rows.values()]
        rows["growth_mib"] = round(peaks[-1] - peaks[0], 1)
    reached = all(rows["growth_mib"] <= AIM_MIB for rows in found.values())
    told = {"verbs": found, "aim_mib": AIM_MIB, "reached": reached, "environment": environment()}
    print(json.dumps(told, indent=2))
    if args.out is not None:
        write_json(args.out, told)
    if not reached:
        raise SystemExit("the aim was missed")


if __name__ == "__main__":
    main()
