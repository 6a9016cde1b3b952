"""Random numbers that depend on where they are used, not on what was drawn before."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

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


def coin(share: float, generator: torch.Generator) -> bool:
    """Toss a coin that falls on True in this share of tosses.

    Nothing waits for the generator's device: a generator of another device than the CPU moves on,
    and its state, which is kept on the host, decides.
    """
    drawn = torch.rand((), generator=generator, device=generator.device)
    if generator.device.type != "cpu":
        state = generator.get_state().numpy().tobytes().hex()
        drawn = torch.rand((), generator=counter_generator("coin", state))
    return bool(drawn < share)


@dataclass(frozen=True)
class KeyedNoise:
    """Normal numbers keyed by (seed, sample, step): what a stochastic solver draws.

    The same key gives the same numbers whatever the batch, the shard and the device: each sample
    has a generator of its own on the CPU, and what it draws is moved to where it is needed. (The
    generators of devices differ from each other; the copy overlaps with the network.) Small samples
    have the numbers of many moves made at once, since seeding a generator costs more than drawing.

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
        later = object.__new__(type(self))  # as replace does, without its cost in every move
        later.__dict__.update(self.__dict__, step=self.step + moves)
        return later

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
        shapes = tuple(tuple(part.shape[1:]) for part in parts)
        # Of how many moves the numbers are made at once: by the size of a row, not of the batch.
        moves = max(1, _AT_ONCE // max(1, sum(map(math.prod, shapes))))
        block, move = divmod(self.step, moves)
        double = tuple(part.dtype == torch.float64 for part in parts)
        drawn = _drawn(
            self.seed, self.samples, block, stage, moves, shapes, double, parts[0].device
        )
        noise = [made[move].to(part, copy=True) for made, part in zip(drawn, parts, strict=True)]
        return dict(zip(names, noise, strict=True)) if isinstance(x, dict) else noise[0]


_AT_ONCE = 2**13  # numbers of one sample


@functools.lru_cache(maxsize=4)  # a move or two draw from each block before the next is made
def _drawn(
    seed: int,
    samples: tuple[int, ...],
    block: int,
    stage: int,
    moves: int,
    shapes: tuple[tuple[int, ...], ...],
    double: tuple[bool, ...],
    device: torch.device,
) -> list[torch.Tensor]:
    """Draw what a block of moves needs, each part of shape ``(moves, b, *shape)``."""
    dtypes = [torch.float64 if wide else torch.float32 for wide in double]
    generator = torch.Generator()
    with torch.inference_mode(False), torch.no_grad():  # a later run may want gradients
        drawn = [
            torch.empty(moves, len(samples), *shape, dtype=dtype)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        for row, sample in enumerate(samples):
            generator.manual_seed(counter_seed("noise", seed, sample, block, stage))
            for part in drawn:
                form = moves, *part.shape[2:]
                part[:, row] = torch.randn(form, generator=generator, dtype=part.dtype)
        return [part.to(device, non_blocking=True) for part in drawn]
