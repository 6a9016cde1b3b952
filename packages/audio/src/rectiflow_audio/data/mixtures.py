"""Mixtures of two sounds: what may be mixed, at which level, and by which factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

PEAK = 0.5
"""Peak of what the networks see; the front end brings every mixture to it."""

NOTHING_PROBABILITY = 1e-4
"""How often the authors ask for nothing."""

NOTHING_PHRASES = (
    "nothing",
    "no sound",
    "silence",
    "complete silence",
    "nothing can be heard",
    "there is no sound",
    "an empty recording",
)
"""Queries whose right answer is silence."""


class Mixture(NamedTuple):
    """A mixture and the sound to be found in it, both ``(..., n)``."""

    target: Tensor
    mixture: Tensor


def mix(
    target: Float[Tensor, "*batch n"],
    interferer: Float[Tensor, "*batch n"],
    snr_db: float | Float[Tensor, "*batch"],
    *,
    official: bool = False,
) -> Mixture:
    r"""Add an interferer at a signal-to-noise ratio of mean powers.

    .. math:: y = x + g\,z, \qquad g = \sqrt{\overline{x^2} / \overline{z^2}}\;10^{-s/20}

    Then target and mixture are both multiplied by the factor that brings the mixture's peak to
    :data:`PEAK`, as the front end does when it separates, so the target stays a part of the
    mixture.

    Parameters
    ----------
    target, interferer : Tensor, shape (..., n)
        Waves of one length and sample rate, means removed.
    snr_db : float or Tensor, shape (...,)
        Target over interferer in decibel.
    official : bool, default False
        Rescale as the authors do: the mixture alone, by 0.9 over its peak, and only where that
        passes 1.

    Raises
    ------
    ValueError
        If the lengths differ, or a wave is silent so that no ratio exists.

    References
    ----------
    Yuan et al., "FlowSep" (ICASSP 2025). Official code: Audio-AGI/FlowSep.

    Examples
    --------
    >>> made = mix(torch.tensor([1.0, -1.0]), torch.tensor([1.0, 1.0]), 0.0)
    >>> made.mixture, made.target
    (tensor([0.5000, 0.0000]), tensor([ 0.2500, -0.2500]))
    """
    if target.shape != interferer.shape:
        raise ValueError(
            f"target and interferer must have one shape, got {tuple(target.shape)} and "
            f"{tuple(interferer.shape)}. Crop or pad them to a common length first."
        )
    power, other = target.square().mean(-1), interferer.square().mean(-1)
    if not (bool((power > 0).all()) and bool((other > 0).all())):
        raise ValueError(
            "a silent wave has no signal-to-noise ratio, got mean powers "
            f"{power.min().item():g} (target) and {other.min().item():g} (interferer); expected "
            "both above 0. Leave silent clips out."
        )
    snr = torch.as_tensor(snr_db, dtype=target.dtype, device=target.device)
    gain = (power / other).sqrt() * 10 ** (-snr / 20)
    mixture = target + gain.unsqueeze(-1) * interferer
    peak = mixture.abs().amax(-1, keepdim=True)
    if official:
        return Mixture(target, mixture * torch.where(peak > 1, 0.9 / peak, torch.ones_like(peak)))
    factor = PEAK / (peak + 1e-8)
    return Mixture(target * factor, mixture * factor)


@dataclass(frozen=True)
class MixtureRules:
    """Which clips are mixed, and how loud.

    Parameters
    ----------
    snr_db : pair of float, default (-15, 15)
        Uniform range of the signal-to-noise ratio, ends included.
    ambiguous : mapping of str to sequence of str
        Labels that must not be mixed with the label they stand under, in either role, because a
        query for one would fit the other: ``{"drum_loop": ["kick_drum", "snare_drum"]}``.
    official : bool, default False
        The authors' rules: a whole number of decibel from -15 to 14, any other clip as
        interferer whatever its label, the mixture alone rescaled, and one query in ten thousand
        for nothing.
    """

    snr_db: tuple[float, float] = (-15.0, 15.0)
    ambiguous: Mapping[str, Sequence[str]] = field(default_factory=dict)
    official: bool = False

    def __post_init__(self) -> None:
        low, high = self.snr_db
        if not low <= high:
            raise ValueError(
                f"snr_db must be a range (low, high), got ({low}, {high}); expected low <= high."
            )

    def draw_snr(self, generator: torch.Generator) -> float:
        """Draw a signal-to-noise ratio in decibel."""
        if self.official:
            return float(torch.randint(-15, 15, (), generator=generator))
        low, high = self.snr_db
        unit = torch.rand((), generator=generator, dtype=torch.float64)
        return low + (high - low) * float(unit)

    def compatible(self, a: frozenset[str], b: frozenset[str]) -> bool:
        """Whether clips with these labels may be mixed: a query for one must not fit the other."""
        if self.official:
            return True
        return (
            a.isdisjoint(b)
            and a.isdisjoint(self._conflicts(b))
            and b.isdisjoint(self._conflicts(a))
        )

    def mix(
        self, target: Float[Tensor, " n"], interferer: Float[Tensor, " n"], snr_db: float
    ) -> Mixture:
        """Mix by :func:`mix`, rescaled by these rules."""
        return mix(target, interferer, snr_db, official=self.official)

    def _conflicts(self, labels: frozenset[str]) -> set[str]:
        return {other for label in labels for other in self.ambiguous.get(label, ())}


def labels_of(label: str, caption: str) -> frozenset[str]:
    """Return the set of a clip's labels; its caption stands in where there are none.

    Examples
    --------
    >>> sorted(labels_of("/m/05tny_,/m/0bt9lr", "a dog barks"))
    ['/m/05tny_', '/m/0bt9lr']
    >>> labels_of("", "A dog barks")
    frozenset({'a dog barks'})
    """
    found = frozenset(part.strip() for part in label.split(",") if part.strip())
    return found or frozenset({caption.strip().lower()})
