"""Whether a request can fit into memory at all, said before hours are spent on it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch

from rectiflow.storage.reading import size_text


def total_memory(device: torch.device | str = "cpu") -> int:
    """Return the bytes of a device's memory."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_memory(device: torch.device) -> float:
    """Return the bytes that a device has left, those that this process could give back included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(
            free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        )
    limit, used = (_number(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    found = [limit - used] if limit else []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return float(min(found, default=total_memory()))


def require_memory(least: int, device: torch.device | str, what: str, hint: str) -> None:
    """Refuse what needs more memory than the device has, whatever else runs on it.

    Parameters
    ----------
    least : int
        Bytes that are needed at least.
    device : device
        Where.
    what : str
        What needs them, the subject of a sentence ("100000 residues").
    hint : str
        What to do, a sentence.

    Raises
    ------
    ValueError
        When it cannot fit.
    """
    total = total_memory(device)
    if least > total:
        raise ValueError(
            f"{what} need at least {size_text(least)} of memory, got {size_text(total)} on "
            f"{device}; expected less. {hint}"
        )


def _lines(path: str) -> Iterable[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else ()


def _number(path: str) -> int:
    text = next(iter(_lines(path)), "")
    return int(text) if text.isdecimal() else 0
