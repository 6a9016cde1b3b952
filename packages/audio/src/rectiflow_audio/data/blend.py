"""Sounds of a label that are made of several clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from rectiflow.randomness import coin

from rectiflow_audio.frontend import SAMPLE_RATE

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


_BEAT = (0.09, 0.25)
"""Seconds from one beat of a rhythm to the next, at least and at most."""

_BAR = 8
"""Beats after which a rhythm begins anew."""

_STRUCK = 0.4
"""Share of beats on which a part is heard."""


@dataclass(frozen=True)
class Blend:
    """Two or three clips at once, where their sum is a sound of the label too.

    A drum loop is kick, snare and hi-hat together, and two dogs that bark are barking dogs: a
    small collection gives many more sounds this way than it has clips.

    Parameters
    ----------
    parts : mapping of str to sequence of str
        For each label that may be blended, the labels of what it is made of; its own among them,
        or alone: ``{"drum_loop": ["kick_drum", "snare_drum", "hi_hat"], "rain": ["rain"]}``.
    probability : float, default 0.3
        That a clip of such a label gives way to a blend.
    level_db : float, default 6.0
        Largest difference of a part from the level of the others, up or down.
    rhythmic : sequence of str, optional
        Labels whose parts are struck again and again, each in a pattern of its own on one beat.

    Examples
    --------
    >>> blend = Blend({"choir": ["singer"]}, probability=1.0)
    >>> blend.drawn("choir", torch.Generator().manual_seed(0))
    ['singer', 'singer', 'singer']
    >>> blend.drawn("singer", torch.Generator().manual_seed(0))
    []
    """

    parts: Mapping[str, Sequence[str]]
    probability: float = 0.3
    level_db: float = 6.0
    rhythmic: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], got {self.probability}.")
        if empty := [label for label, parts in self.parts.items() if not parts]:
            raise ValueError(
                f"a blend is made of something, got no parts of {empty[0]!r}; expected labels. "
                "Leave the label out if it is not to be blended."
            )

    def drawn(self, label: str, generator: torch.Generator) -> list[str]:
        """Return the labels of the parts, different ones where there are enough; often none."""
        parts = self.parts.get(label)
        if not parts or not coin(self.probability, generator):
            return []
        number = int(torch.randint(2, 4, (), generator=generator))
        turns = torch.randperm(len(parts), generator=generator).tolist()
        return [parts[turns[i % len(turns)]] for i in range(number)]

    def sum(
        self, label: str, waves: Sequence[Float[Tensor, " n"]], generator: torch.Generator
    ) -> Float[Tensor, " n"]:
        """Add waves of one length, brought to one power and then to levels drawn at random."""
        stacked = torch.stack([*waves])
        if label in self.rhythmic:
            stacked = struck(stacked, generator)
        levels = self.level_db * (2 * torch.rand(len(waves), generator=generator) - 1)
        sizes = stacked.square().mean(1).sqrt().clamp_min(1e-8)
        return (stacked * (10 ** (levels / 20) / sizes)[:, None]).sum(0)


def struck(waves: Float[Tensor, "k n"], generator: torch.Generator) -> Float[Tensor, "k n"]:
    """Repeat each wave in a pattern of its own, all on one beat; ends go on at the beginning."""
    count, samples = waves.shape
    low, high = (round(SAMPLE_RATE * beat) for beat in _BEAT)
    beat = int(torch.randint(low, high, (), generator=generator))
    slots = torch.arange(0, samples, beat)
    loudness = torch.rand(count, _BAR, generator=generator)
    hits = torch.rand(count, _BAR, generator=generator) < _STRUCK
    hits[:, 0] = True
    pulses = waves.new_zeros(count, samples)
    pulses[:, slots] = (hits * (0.3 + 0.7 * loudness))[:, torch.arange(len(slots)) % _BAR]
    return torch.fft.irfft(torch.fft.rfft(waves) * torch.fft.rfft(pulses), n=samples)
