"""Ways to step a state in time with one network: PDE-Refiner, as a flow, and the plain guess.

A step is ``u(t + dt) = u + 0.3 y``; what is learnt is the scaled change ``y`` given ``u``. A way
says what a network is trained on (:meth:`Stepping.loss`) and how it steps
(:meth:`Stepping.change`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

CLOCK = 1000.0
"""The time that the network is told where there is nothing but noise."""

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``network(cat(u, y'), time, numbers)``."""


class Stepping(ABC):
    """A way to learn and to make steps."""

    @abstractmethod
    def loss(
        self,
        network: Network,
        u: Float[Tensor, "b 1 n"],
        y: Float[Tensor, "b 1 n"],
        numbers: Float[Tensor, "b k"],
        generator: torch.Generator,
    ) -> Float[Tensor, " b"]:
        """Return the loss of each step from ``u`` whose scaled change is ``y``."""

    @abstractmethod
    def change(
        self,
        network: Network,
        u: Float[Tensor, "b 1 n"],
        numbers: Float[Tensor, "b k"],
        draw: Callable[[], Tensor],
    ) -> Float[Tensor, "b 1 n"]:
        """Return the scaled change of ``u``; ``draw()`` is fresh unit noise of its shape."""

    @property
    @abstractmethod
    def calls(self) -> int:
        """Calls of the network in one step."""


def _error(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over space, sum over channels."""
    return (found - wanted).square().mean(-1).sum(1)


def _told(network: Network, u: Tensor, y: Tensor, time: Tensor | float, numbers: Tensor) -> Tensor:
    times = torch.as_tensor(time, dtype=u.dtype, device=u.device).expand(len(u))
    return network(torch.cat([u, y], 1), times, numbers)


@dataclass(frozen=True)
class OneStep(Stepping):
    """The plain guess by least squares: what PDE-Refiner is compared with."""

    calls = 1

    def loss(
        self, network: Network, u: Tensor, y: Tensor, numbers: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the squared error."""
        return _error(_told(network, u, torch.zeros_like(y), CLOCK, numbers), y)

    def change(
        self, network: Network, u: Tensor, numbers: Tensor, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Return the guess."""
        return _told(network, u, torch.zeros_like(u), CLOCK, numbers)


@dataclass(frozen=True)
class Refinement(Stepping):
    r"""PDE-Refiner: a guess, then a few refinements under ever less noise.

    With :math:`\beta_i = \sigma^{(K - i) / K}` and :math:`\bar\alpha_i = \prod (1 - \beta)` the
    network predicts :math:`\sqrt{\bar\alpha} \epsilon - \sqrt{1 - \bar\alpha} y`; at level K there
    is nothing but noise, and the prediction is the negative guess.

    Parameters
    ----------
    steps : int
        Refinements after the guess, K.
    smallest : float
        Variance of the noise in the last one, sigma.

    References
    ----------
    Lippe et al., "PDE-Refiner" (NeurIPS 2023), algorithm 1 and its form as a diffusion.
    """

    steps: int = 3
    smallest: float = 4e-7

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.smallest < 1:
            raise ValueError(
                f"steps must be at least 1 and smallest lie between 0 and 1, got {self.steps} and "
                f"{self.smallest:g}."
            )

    @property
    def calls(self) -> int:
        """Calls of the network in one step."""
        return self.steps + 1

    @cached_property
    def betas(self) -> Float[Tensor, " k"]:
        """Noise that each level adds, float64; the last is 1."""
        falls = torch.arange(self.steps, -1, -1, dtype=torch.float64) / self.steps
        return self.smallest**falls

    @cached_property
    def kept(self) -> Float[Tensor, " k"]:
        """Share of the variance that is the data's at each level, float64; the last is 0."""
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def noise(self) -> Float[Tensor, " k"]:
        """The rest, without the cancellation of ``1 - kept`` at the first level."""
        return -torch.expm1(torch.log1p(-self.betas).cumsum(0))

    @cached_property
    def times(self) -> Float[Tensor, " k"]:
        """Time of each level on the straight path from noise at 0 to data at 1."""
        a, s = self.kept.sqrt(), self.noise.sqrt()
        return a / (a + s)

    def clock(self, level: Tensor | int) -> Tensor | float:
        """Return the time that the network is told at a level."""
        return level * (CLOCK / self.steps)

    def noised(
        self, y: Float[Tensor, "b 1 n"], noise: Float[Tensor, "b 1 n"], level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the change under the noise of levels ``(b,)``, and what is to be predicted."""
        shape = (-1, *(1,) * (y.ndim - 1))
        a, s = (each.to(y)[level].sqrt().reshape(shape) for each in (self.kept, self.noise))
        return a * y + s * noise, a * noise - s * y

    def loss(
        self, network: Network, u: Tensor, y: Tensor, numbers: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the squared error of the prediction at a level drawn for each."""
        level = torch.randint(self.calls, (len(y),), generator=generator, device=y.device)
        noise = torch.randn(y.shape, generator=generator, device=y.device, dtype=y.dtype)
        seen, wanted = self.noised(y, noise, level)
        return _error(_told(network, u, seen, self.clock(level), numbers), wanted)

    def chain(
        self, network: Network, u: Tensor, numbers: Tensor, draw: Callable[[], Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return the states of the ancestral sampler, noise first, and what was predicted."""
        y = draw()
        states, said = [y], []
        for level in range(self.steps, -1, -1):
            kept, noise = self.kept[level], self.noise[level]
            said.append(_told(network, u, y, self.clock(level), numbers))
            guess = kept.sqrt() * y - noise.sqrt() * said[-1]
            if level:
                # Of q(y_{level-1} | y_level, guess), whose step is the beta of this level.
                beta, before = self.betas[level], self.noise[level - 1]
                y = self.kept[level - 1].sqrt() * beta / noise * guess
                y = y + (1 - beta).sqrt() * before / noise * states[-1]
                y = y + (before / noise * beta).sqrt() * draw()
            else:
                y = guess
            states.append(y.to(u))
            y = states[-1]
        return states, said

    def change(
        self, network: Network, u: Tensor, numbers: Tensor, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Return the end of the ancestral chain, as published."""
        return self.chain(network, u, numbers, draw)[0][-1]


@dataclass(frozen=True)
class RefinementFlow(Refinement):
    """The same network as PDE-Refiner, stepped as a flow: no noise but the first.

    The levels lie on the straight path at :attr:`Refinement.times`, dense near the data, and
    Euler's steps between them are those of DDIM.
    """

    def change(
        self, network: Network, u: Tensor, numbers: Tensor, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Integrate the core's flow over the levels."""
        levels = {time: level for level, time in enumerate(self.times.tolist())}

        def velocity(y: Tensor, t: Tensor | float) -> Tensor:
            level = levels[float(t)]
            a, s = self.kept[level].sqrt(), self.noise[level].sqrt()
            y = y * (a + s)
            said = _told(network, u, y, self.clock(level), numbers)
            return ((a - s) * y - (a + s) * said).to(u)  # data - noise of the two predictions

        moves = plan([*self.times.flip(0).tolist(), 1.0], Euler())
        return integrate(velocity, draw(), moves)  # type: ignore[arg-type]
