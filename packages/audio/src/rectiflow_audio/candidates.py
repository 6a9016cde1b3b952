"""Choice among several estimates of one sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

Score = Callable[[Tensor, str], float]
"""Takes a wave ``(n,)`` at 16 kHz and the query; larger is better. CLAPScore is one."""


class Pick(Protocol):
    """A rule that makes one estimate of several."""

    def __call__(
        self,
        mels: Float[Tensor, "k frames mels"],
        query: str,
        render: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "frames mels"]:
        """Return a log-mel; ``render`` turns one into a wave for rules that listen."""
        ...


@dataclass(frozen=True)
class Medoid:
    """The candidate nearest to all others: the most typical one, chosen without any network."""

    def __call__(self, mels: Tensor, query: str, render: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the candidate with the smallest mean distance to the others."""
        distance = torch.cdist(mels.flatten(1)[None], mels.flatten(1)[None], p=1)[0]
        return mels[int(distance.sum(0).argmin())]


@dataclass(frozen=True)
class Mean:
    """The mean of the candidates' magnitudes: nearest to the truth on average, least detailed."""

    def __call__(self, mels: Tensor, query: str, render: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the logarithm of the mean magnitude."""
        return mels.logsumexp(0) - torch.log(torch.tensor(float(len(mels))))


@dataclass(frozen=True)
class Best:
    """The candidate with the largest score.

    Parameters
    ----------
    score : callable
        ``score(wave, query)``.
    """

    score: Score

    def __call__(self, mels: Tensor, query: str, render: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the candidate whose wave scores best; the first of equals."""
        scores = [self.score(render(mel), query) for mel in mels]
        return mels[max(range(len(scores)), key=scores.__getitem__)]
