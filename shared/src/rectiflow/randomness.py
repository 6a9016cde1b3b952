"""Random numbers that depend on where they are used, not on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from rectiflow.states import State, leaves


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


@dataclass(frozen=True)
class KeyedNoise:
    """Normal numbers keyed by (seed, sample, step): what a stochastic solver draws.

    The same key gives the same numbers whatever the batch, the shard and the device: each sample
    has a generator of its own on the CPU, and what it draws is moved to where it is needed. (The
    generators of devices differ from each other; the copy overlaps with the network.)

    Parameters
    ----------
    seed : int
    samples : sequence of int
        The number of each row's sample, unique in the whole run.
    step : int, default 0
        Number of the move. The loop counts on from here; to go on with a run, give the number of
        moves already made.

    Examples
    --------
    >>> import torch
    >>> whole = KeyedNoise(0, range(4)).like(torch.zeros(4, 2))
    >>> part = KeyedNoise(0, [2, 3]).like(torch.zeros(2, 2))
    >>> bool((whole[2:] == part).all())
    True
    """

    seed: int
    samples: Sequence[int]
    step: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.samples, tuple):
            object.__setattr__(self, "samples", tuple(map(int, self.samples)))

    def later(self, moves: int) -> KeyedNoise:
        """Return the noise after so many more moves."""
        return replace(self, step=self.step + moves)

    def like(self, x: State, stage: int = 0) -> State:
        """Draw standard-normal numbers of the shape of ``x``; each stage of a move has its own.

        Raises
        ------
        ValueError
            When the number of rows is not that of the samples.
        """
        rows = len(leaves(x)[0])
        if rows != len(self.samples):
            raise ValueError(
                f"noise needs one sample number per row, got {len(self.samples)} for {rows} rows; "
                "expected KeyedNoise(seed, samples) with as many samples as the batch has rows"
            )
        names = sorted(x) if isinstance(x, dict) else [""]
        parts = [x[name] for name in names] if isinstance(x, dict) else [x]
        generator = torch.Generator()
        drawn: list[list[torch.Tensor]] = [[] for _ in parts]
        for sample in self.samples:
            generator.manual_seed(counter_seed("noise", self.seed, sample, self.step, stage))
            for part, rows_of in zip(parts, drawn, strict=True):
                dtype = part.dtype if part.dtype == torch.float64 else torch.float32
                rows_of.append(torch.randn(part.shape[1:], generator=generator, dtype=dtype))
        noise = [torch.stack(n).to(p, non_blocking=True) for n, p in zip(drawn, parts, strict=True)]
        return dict(zip(names, noise, strict=True)) if isinstance(x, dict) else noise[0]
