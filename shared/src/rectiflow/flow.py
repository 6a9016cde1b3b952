"""A flow: everything that training and sampling of one velocity field must agree on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rectiflow.couplings import Coupling, Independent
from rectiflow.fields import VelocityField, bind
from rectiflow.paths import Linear
from rectiflow.predictions import Bridge, Point, Prediction, Velocity
from rectiflow.premetrics import Mask, MeanSquared, Premetric
from rectiflow.sources import Source
from rectiflow.spaces import Space
from rectiflow.states import State, batch_of, check_like, map_state
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
        What it said and should have said: velocities, or what :class:`Flow` names.
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

    The minimiser of its loss is ``E[dx_t/dt | x_t]``, whose ODE carries the source to the data, or
    another prediction from which that velocity follows.

    Parameters
    ----------
    path : Bridge, default :class:`~rectiflow.paths.Linear`
        A :class:`~rectiflow.paths.Path`, a :class:`~rectiflow.geodesics.Geodesic` on a curved
        space, or an :class:`~rectiflow.interpolants.Interpolant`.
    prediction : Prediction, default :class:`~rectiflow.predictions.Velocity`
        What the model says: or :class:`~rectiflow.predictions.Data`,
        :class:`~rectiflow.predictions.Noise`, :class:`~rectiflow.predictions.Score`.
    source : Source, optional
        Standard normal on flat space, else the space's own prior.
    coupling : Coupling, default :class:`~rectiflow.couplings.Independent`
    density : TimeDensity, default uniform
    premetric : Premetric, default mean squared error
        Of the model's output, in the terms of its prediction.
    weight : callable, optional
        ``weight(t) -> (b,)`` factors of the per-sample cost; 1 by default.

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

    path: Bridge = field(default_factory=Linear)
    prediction: Prediction = field(default_factory=Velocity)
    source: Source | None = None
    coupling: Coupling = field(default_factory=Independent)
    density: TimeDensity = field(default_factory=Uniform)
    premetric: Premetric = field(default_factory=MeanSquared)
    weight: Callable[[Tensor], Tensor] | None = None

    @property
    def space(self) -> Space:
        """Where the states live; what ``integrate`` needs of a curved flow."""
        return self.path.space

    @property
    def noise(self) -> Source:
        """The source in force: the one given, or the space's own noise."""
        return self.path.prior if self.source is None else self.source

    def at(self, step: int) -> Flow:
        """Return the flow in force at a training step; only annealed couplings depend on it."""
        return replace(self, coupling=self.coupling.at(step))

    def noise_for(
        self,
        x1: State,
        *,
        x0: State | None = None,
        mask: Mask = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Return the noise that the coupling pairs with a batch of data; see :meth:`points`."""
        x1 = map_state(_at_least_float32, x1)
        if x0 is not None:
            x0 = map_state(_at_least_float32, x0)
            check_like(x0, x1, "x0")
        return self.coupling.draw(x1, self.noise, x0=x0, mask=mask, generator=generator)

    def points(
        self,
        x1: State,
        *,
        x0: State | None = None,
        t: Tensor | None = None,
        mask: Mask = None,
        moving: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Point, ...]:
        """Draw noise and times for a batch of data, and put it between the two.

        Parameters
        ----------
        x1 : State, shape (b, *event)
            Data. Half precision is raised to float32; only the network runs in less.
        x0, t : optional
            Noise and times ``(b,)`` that are known; drawn from coupling and density by default.
        mask : Tensor or mapping, shape (b, *leading event axes), optional
            True where real.
        moving : Tensor, shape (b, *leading event axes), optional
            False where the data is given: there ``x_t`` is the data and its velocity zero.
        generator : torch.Generator, optional
            Source of all randomness: noise first, then times, then what the path needs.

        Returns
        -------
        tuple of Point
            One, or the two of an antithetic pair.

        Raises
        ------
        ValueError
            When shapes do not fit, or the coupling needs an ``x0`` that is missing.
        """
        x1 = map_state(_at_least_float32, x1)
        x0 = self.noise_for(x1, x0=x0, mask=mask, generator=generator)
        batch, device, dtype = batch_of(x1)
        if t is None:
            t = self.density.sample(batch, generator=generator, device=device, dtype=dtype)
        elif t.shape != (batch,):
            raise ValueError(f"t must have shape ({batch},), got {tuple(t.shape)}")
        points = self.path.points(x0, x1, t, generator)
        return points if moving is None else tuple(_held(point, moving) for point in points)

    def loss(
        self,
        model: Callable[..., State],
        x1: State,
        cond: Any = None,
        *,
        x0: State | None = None,
        t: Tensor | None = None,
        mask: Mask = None,
        moving: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> LossOutput:
        """Return the flow-matching loss of a batch of data.

        Parameters
        ----------
        model : callable
            ``model(x_t, t)``, or ``model(x_t, t, cond)`` when ``cond`` is given, with ``t`` of
            shape ``(b,)``; returns the prediction, of the shape of its target.
        x1, x0, t, mask, moving, generator
            As for :meth:`points`; the premetric takes the mask too.
        cond : optional
            Passed on to the model; row i belongs to ``x1[i]``.

        Returns
        -------
        LossOutput
            Of the first point, and the mean cost of both where there are two.

        Raises
        ------
        ValueError
            As :meth:`points`, or when the model's output does not have the shape of its target.
        """
        points = self.points(x1, x0=x0, t=t, mask=mask, moving=moving, generator=generator)
        extra = () if cond is None else (cond,)
        said = [model(point.x, point.t, *extra) for point in points]
        targets = [self.prediction.target(point) for point in points]
        costs = [self.premetric(p, v, mask) for p, v in zip(said, targets, strict=True)]
        per_sample = costs[0] if len(costs) == 1 else torch.stack(costs).mean(0)
        first = points[0]
        if self.weight is not None:
            per_sample = self.weight(first.t) * per_sample
        return LossOutput(per_sample.mean(), per_sample, first.t, first.x, said[0], targets[0])

    def velocity(self, model: Callable[..., State], cond: Any = None) -> VelocityField:
        """Return a model's velocity field, for the solvers.

        What the model predicts is turned into the velocity; times and condition are passed on by
        :func:`rectiflow.fields.bind`.
        """
        field = bind(model, cond)
        if self.prediction == Velocity():
            return field
        return lambda x, t, *until: self.prediction.velocity(field(x, t, *until), x, t, self.path)


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _held(point: Point, moving: Tensor) -> Point:
    """Put the data back where it is given."""

    def where(part: Tensor, other: Tensor | float) -> Tensor:
        free = moving.reshape(*moving.shape, *(1,) * (part.ndim - moving.ndim))
        return torch.where(free, part, other)

    x = map_state(where, point.x, point.data)
    return point._replace(x=x, velocity=map_state(lambda v: where(v, 0.0), point.velocity))
