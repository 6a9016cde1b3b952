"""A flow: everything that training and sampling of one velocity field must agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rectiflow.couplings import Coupling, Independent
from rectiflow.fields import VelocityField, bind
from rectiflow.paths import Linear, Path
from rectiflow.premetrics import MeanSquared, Premetric
from rectiflow.sources import Normal, Prior, Source
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, batch_of, map_state
from rectiflow.time_density import TimeDensity, Uniform


@dataclass(frozen=True)
class LossOutput:
    """A training loss and what it was computed from.

    Attributes
    ----------
    loss : Tensor, shape ()
        Mean of ``per_sample``; differentiable.
    per_sample : Tensor, shape (b,)
    t : Tensor, shape (b,)
    x_t : State
        Points where the model was asked.
    prediction, target : State
        Velocities, tangent vectors at ``x_t``.
    """

    loss: Tensor
    per_sample: Tensor
    t: Tensor
    x_t: State
    prediction: State
    target: State


@dataclass(frozen=True)
class Flow:
    """A rectified flow between a source and data.

    The minimiser of its loss is ``E[dx_t/dt | x_t]``, whose ODE carries the source to the data.

    Parameters
    ----------
    path : Path, default :class:`~rectiflow.paths.Linear`
        On curved spaces the linear path, which means geodesics of constant speed.
    space : Space, default :class:`~rectiflow.spaces.Euclidean`
    source : Source, optional
        Standard normal on flat space, else the space's own prior.
    coupling : Coupling, default :class:`~rectiflow.couplings.Independent`
    density : TimeDensity, default uniform
    premetric : Premetric, default mean squared error
    weight : callable, optional
        ``weight(t) -> (b,)`` factors of the per-sample cost; 1 by default.

    Raises
    ------
    ValueError
        When a curved space is combined with a path that is not linear.

    References
    ----------
    Liu et al., "Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified
    Flow" (ICLR 2023).

    Examples
    --------
    >>> import torch
    >>> generator = torch.Generator().manual_seed(0)
    >>> out = Flow().loss(lambda x, t: torch.zeros_like(x), torch.zeros(4, 2), generator=generator)
    >>> out.per_sample.shape
    torch.Size([4])
    """

    path: Path = field(default_factory=Linear)
    space: Space = field(default_factory=Euclidean)
    source: Source | None = None
    coupling: Coupling = field(default_factory=Independent)
    density: TimeDensity = field(default_factory=Uniform)
    premetric: Premetric = field(default_factory=MeanSquared)
    weight: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.space, Euclidean) and self.path != Linear():
            raise ValueError(
                f"only the linear path is defined on curved spaces, got {self.path!r} on "
                f"{type(self.space).__name__}. Use path=Linear(), and another clock in the sampler."
            )

    @property
    def noise(self) -> Source:
        """The source in force: the one given, or the space's own noise."""
        if self.source is not None:
            return self.source
        return Normal() if isinstance(self.space, Euclidean) else Prior(self.space)

    def at(self, step: int) -> Flow:
        """Return the flow in force at a training step; only annealed couplings depend on it."""
        return replace(self, coupling=self.coupling.at(step))

    def interpolate(self, x0: State, x1: State, t: Tensor) -> tuple[State, State]:
        """Return the point ``x_t`` and the target velocity there.

        On curved spaces the velocity of a geodesic in its own moving frame does not depend on t,
        so it is ``log(x0, x1)``.
        """
        if isinstance(self.space, Euclidean):
            return self.path.interpolate(x0, x1, t)
        return self.space.geodesic(x0, x1, t), self.space.log(x0, x1)

    def loss(
        self,
        model: Callable[..., State],
        x1: State,
        cond: Any = None,
        *,
        x0: State | None = None,
        t: Tensor | None = None,
        mask: Tensor | Mapping[str, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> LossOutput:
        """Return the flow-matching loss of a batch of data.

        Parameters
        ----------
        model : callable
            ``model(x_t, t)``, or ``model(x_t, t, cond)`` when ``cond`` is given, with ``t`` of
            shape ``(b,)``; returns tangent vectors at ``x_t``.
        x1 : State, shape (b, *event)
            Data. Half precision is raised to float32; only the network runs in less.
        cond : optional
            Passed on to the model; row i belongs to ``x1[i]``.
        x0 : State, optional
            Noise of each sample, for stored pairs; drawn from the source by default.
        t : Tensor, shape (b,), optional
            Times; drawn from the density by default.
        mask : Tensor or mapping, shape (b, *leading event axes), optional
            True where real, for the premetric.
        generator : torch.Generator, optional
            Source of all randomness: noise first, then times.

        Returns
        -------
        LossOutput

        Raises
        ------
        ValueError
            When shapes do not fit, or the coupling needs an ``x0`` that is missing.
        """
        x1 = map_state(_at_least_float32, x1)
        batch, device, dtype = batch_of(x1)
        if x0 is not None:
            x0 = map_state(_at_least_float32, x0)
            _check_same_shapes(x0, x1, "x0")
        x0 = self.coupling.draw(x1, self.noise, x0=x0, generator=generator)
        if t is None:
            t = self.density.sample(batch, generator=generator, device=device, dtype=dtype)
        elif t.shape != (batch,):
            raise ValueError(f"t must have shape ({batch},), got {tuple(t.shape)}")
        x_t, target = self.interpolate(x0, x1, t)
        prediction = model(x_t, t) if cond is None else model(x_t, t, cond)
        _check_same_shapes(prediction, target, "the model's output")
        per_sample = self.premetric(prediction, target, mask)
        if self.weight is not None:
            per_sample = self.weight(t) * per_sample
        return LossOutput(per_sample.mean(), per_sample, t, x_t, prediction, target)

    def velocity(self, model: Callable[..., State], cond: Any = None) -> VelocityField:
        """Return a model's velocity field, for the solvers; see :func:`rectiflow.fields.bind`."""
        return bind(model, cond)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_same_shapes(found: State, expected: State, name: str) -> None:
    """Refuse shapes that would broadcast silently."""
    if _shapes(found) != _shapes(expected):
        raise ValueError(f"{name} must have shape {_shapes(expected)}, got {_shapes(found)}")


def _shapes(x: State) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    if isinstance(x, dict):
        return {name: tuple(part.shape) for name, part in x.items()}
    return tuple(x.shape)
