"""RDDM: what a network predicts of residual and noise, its loss, and its samplers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from rectiflow.inverse import Clocks, two_clocks
from rectiflow.randomness import KeyedNoise
from torch import Tensor

Network = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""``network(x, k)`` returns the outputs that the objective names, in order."""


class Parts(NamedTuple):
    """A point taken apart: ``x = data + a residual + b noise``."""

    residual: Tensor
    noise: Tensor
    data: Tensor


class Objective(ABC):
    """What the outputs of a network are."""

    @abstractmethod
    def targets(self, parts: Parts) -> tuple[Tensor, ...]:
        """Return what they should be."""

    @abstractmethod
    def parts(self, said: Sequence[Tensor], x: Tensor, degraded: Tensor, a: Tensor, b: Tensor):
        """Return the parts of a point by what a network said; residual and data within [-1, 1]."""


@dataclass(frozen=True)
class ResidualNoise(Objective):
    """The residual, and the noise."""

    def targets(self, parts: Parts) -> tuple[Tensor, ...]:
        """Return both."""
        return parts.residual, parts.noise

    def parts(self, said: Sequence[Tensor], x: Tensor, degraded: Tensor, a: Tensor, b: Tensor):
        """See :class:`Objective`."""
        residual, noise = _inside(said[0]), said[1]
        return Parts(residual, noise, _inside(x - a * residual - b * noise))


@dataclass(frozen=True)
class ResidualAlone(Objective):
    """The residual; the noise follows from what is degraded."""

    def targets(self, parts: Parts) -> tuple[Tensor, ...]:
        """Return it."""
        return (parts.residual,)

    def parts(self, said: Sequence[Tensor], x: Tensor, degraded: Tensor, a: Tensor, b: Tensor):
        """See :class:`Objective`."""
        residual = _inside(said[0])
        noise = (x - degraded - (a - 1) * residual) / b
        return Parts(residual, noise, _inside(degraded - residual))


@dataclass(frozen=True)
class NoiseAlone(Objective):
    """The noise; the data follows from what is degraded."""

    def targets(self, parts: Parts) -> tuple[Tensor, ...]:
        """Return it."""
        return (parts.noise,)

    def parts(self, said: Sequence[Tensor], x: Tensor, degraded: Tensor, a: Tensor, b: Tensor):
        """See :class:`Objective`."""
        data = _inside((x - a * degraded - b * said[0]) / (1 - a).clamp_min(1e-6))
        return Parts(_inside(degraded - data), said[0], data)


@dataclass(frozen=True)
class DataNoise(Objective):
    """The data, and the noise."""

    def targets(self, parts: Parts) -> tuple[Tensor, ...]:
        """Return both."""
        return parts.data, parts.noise

    def parts(self, said: Sequence[Tensor], x: Tensor, degraded: Tensor, a: Tensor, b: Tensor):
        """See :class:`Objective`."""
        return Parts(_inside(degraded - said[0]), said[1], _inside(said[0]))


@dataclass(frozen=True)
class ResidualDiffusion:
    """Images between degraded and clean, by two clocks.

    Parameters
    ----------
    objective : Objective
    steps : int, default 1000
        Of training.
    total : float, default 0.01
        Variance of the noise at the degraded end: 0.01 for restoration, 1 for generation.
    is_conditioned : bool, default True
        Whether the network sees what is degraded beside the point; without, it generates.

    References
    ----------
    Liu et al., "Residual Denoising Diffusion Models" (CVPR 2024).
    """

    objective: Objective = field(default_factory=ResidualNoise)
    steps: int = 1000
    total: float = 0.01
    is_conditioned: bool = True

    @property
    def clocks(self) -> Clocks:
        """Shares and levels of all steps, from the degraded end."""
        return Clocks.of_training(self.steps, total=self.total)

    def point(self, data: Tensor, degraded: Tensor, k: Tensor, noise: Tensor) -> Tensor:
        """Return the point of each row at its step ``k``, counted from the clean end."""
        a, b = self._at(k, data)
        return data + a * (degraded - data) + b * noise

    def loss(
        self, network: Network, data: Tensor, degraded: Tensor, k: Tensor, noise: Tensor
    ) -> Tensor:
        """Return the loss of each row: mean absolute errors, summed over the outputs."""
        said = network(self._seen(self.point(data, degraded, k, noise), degraded), k)
        targets = self.objective.targets(Parts(degraded - data, noise, data))
        errors = [(s - t).abs().flatten(1).mean(1) for s, t in zip(said, targets, strict=True)]
        return torch.stack(errors).sum(0)

    @torch.no_grad()
    def sample(
        self,
        network: Network,
        degraded: Tensor,
        start: Tensor,
        *,
        count: int | None = None,
        eta: float = 0.0,
        noise: KeyedNoise | None = None,
    ) -> Tensor:
        """Carry degraded images to clean ones by :func:`rectiflow.inverse.two_clocks`.

        Parameters
        ----------
        network : callable
        degraded : Tensor, shape (b, c, h, w)
            Zeros for generation.
        start : Tensor
            Noise of the first point.
        count : int, optional
            How many of the steps; all if absent. With all, and ``eta = 1``, it is ancestral
            sampling.
        eta : float, default 0
            Share of the noise that is drawn afresh.
        noise : KeyedNoise, optional
            For ``eta`` above 0.
        """
        every = self.clocks
        few = torch.linspace(-1, self.steps - 1, (count or self.steps) + 1).long()[1:].flip(0)
        shares = [every.shares[self.steps - 1 - int(k)] for k in few]
        levels = [every.levels[self.steps - 1 - int(k)] for k in few]
        steps = dict(zip(zip(shares, levels, strict=True), few.tolist(), strict=True))

        def parts(x: Tensor, a: float, b: float) -> Parts:
            k = torch.full((len(x),), steps[a, b], device=x.device)
            said = network(self._seen(x, degraded), k)
            return self.objective.parts(said, x, degraded, *x.new_tensor([a, b]))

        def predict(x: Tensor, a: float, b: float) -> tuple[Tensor, Tensor]:
            found = parts(x, a, b)
            if eta == 0:
                return found.residual, found.noise
            # The posterior is told by residual and data; where they are clipped, not the noise.
            return found.residual, (x - a * found.residual - found.data) / b

        x = degraded + every.levels[0] * start
        if len(few) > 1:
            told = Clocks(tuple(shares), tuple(levels))
            x = two_clocks(predict, x, told, eta=eta, noise=noise)
        return parts(x, shares[-1], levels[-1]).data

    def _at(self, k: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *(1,) * (like.ndim - 1))
        shares, levels = (
            torch.tensor(clock[::-1]).to(like)[k].reshape(shape)
            for clock in (self.clocks.shares, self.clocks.levels)
        )
        return shares, levels

    def _seen(self, x: Tensor, degraded: Tensor) -> Tensor:
        return torch.cat([x, degraded], 1) if self.is_conditioned else x


def _inside(x: Tensor) -> Tensor:
    return x.clamp(-1, 1)
