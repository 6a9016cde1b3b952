"""One description of where something ran: versions, processor, memory, accelerators."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import torch

LIBRARIES = ("rectiflow", "torch", "numpy", "lightning", "hydra-core", "safetensors")


def version_of(distribution: str) -> str | None:
    """Return the version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_machine() -> dict[str, Any]:
    """Return what numbers and speeds depend on, as plain data.

    Returns
    -------
    dict
        ``python``, ``platform``, ``libraries`` (versions), ``commit`` of the code if it lies in a
        checkout, and ``devices``: the processor, then each CUDA device.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        # What was built for which CUDA is in torch's own version only.
        "libraries": {name: version_of(name) for name in LIBRARIES}
        | {"torch": str(torch.__version__)},
        "commit": commit(),
        "devices": devices(),
    }


def devices() -> list[dict[str, Any]]:
    """Return the processor and each CUDA device with their sizes."""
    found: list[dict[str, Any]] = [
        {
            "name": "cpu",
            "model": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
            if hasattr(os, "sysconf")
            else None,
        }
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


def processor() -> str:
    """Return the name of the processor as its maker writes it, where the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def device_model(device: torch.device | str) -> str:
    """Return what is behind a device: the name of the card, or of the processor."""
    device = torch.device(device)
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


@cache
def commit() -> str | None:
    """Return the commit of the checkout this file lies in, ``+changes`` if it was edited."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty=+changes"]
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
