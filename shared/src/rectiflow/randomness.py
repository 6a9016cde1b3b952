"""Random numbers that depend on where they are used, not on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def counter_seed(*counters: int | str) -> int:
    """Hash counters to a seed in ``[0, 2**63)``.

    The same counters give the same seed on every machine and in every process, so a draw that is
    keyed by (seed, rank, step) or (seed, sample index) needs no stored generator state.

    Parameters
    ----------
    *counters : int or str
        What the draw belongs to, from the coarsest to the finest.

    Examples
    --------
    >>> counter_seed(0, "noise", 7) == counter_seed(0, "noise", 7)
    True
    >>> counter_seed(0, 11) == counter_seed(0, 1, 1)
    False
    """
    digest = hashlib.sha256(repr(counters).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def counter_generator(*counters: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on ``device``, seeded by :func:`counter_seed`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(counter_seed(*counters))
    return generator
