"""``rectiflow info``: what is installed here and what it can run on."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from typing import Any

from rectiflow_cli.domains import DOMAINS, Domain

_LIBRARIES = ("torch", "numpy", "lightning", "hydra-core", "safetensors")


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> list[dict[str, Any]]:
    import torch

    found: list[dict[str, Any]] = [
        {"name": "cpu", "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    ]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found.append(
            {
                "name": f"cuda:{index}",
                "model": card.name,
                "memory_gib": round(card.total_memory / 2**30, 1),
                "capability": f"{card.major}.{card.minor}",
            }
        )
    return found


def _checkpoints(domain: Domain) -> list[dict[str, Any]]:
    folder = domain.folder()
    return [
        {
            "name": config.parent.name,
            "mib": round(
                sum(f.stat().st_size for f in config.parent.glob("*.safetensors")) / 2**20, 2
            ),
        }
        for config in sorted(folder.glob("pretrained/*/config.json") if folder else ())
    ]


def collect() -> dict[str, Any]:
    """Return versions, devices and domains as plain data."""
    return {
        "rectiflow": _version("rectiflow"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "devices": _devices(),
        "domains": {
            domain.name: {
                "version": _version(f"rectiflow-{domain.name}"),
                "checkpoints": _checkpoints(domain),
                "install": None if domain.folder() else domain.install_line,
            }
            for domain in DOMAINS
        },
    }


def _text(info: dict[str, Any]) -> str:
    lines = [
        f"rectiflow {info['rectiflow']}, Python {info['python']}, {info['platform']}",
        "libraries: " + ", ".join(f"{n} {v or 'absent'}" for n, v in info["libraries"].items()),
    ]
    for device in info["devices"]:
        facts = ", ".join(f"{k} {v}" for k, v in device.items() if k != "name")
        lines.append(f"device {device['name']}: {facts}")
    for name, domain in info["domains"].items():
        shipped = ", ".join(f"{c['name']} ({c['mib']} MiB)" for c in domain["checkpoints"])
        state = domain["install"] and f"not installed: {domain['install']}"
        lines.append(
            f"domain {name}: "
            + (state or f"{domain['version']}, shipped checkpoints: {shipped or 'none'}")
        )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Print versions, devices, installed domains and shipped checkpoints."""
    parser = argparse.ArgumentParser(prog="rectiflow info", description=main.__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    info = collect()
    sys.stdout.write((json.dumps(info, indent=2) if args.json else _text(info)) + "\n")
    return 0
