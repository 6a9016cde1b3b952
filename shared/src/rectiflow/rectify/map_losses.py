"""What trains a network of maps: three equations that hold along the paths of a flow.

Each loss compares what the network says with a target that is equal to it at the exact map, on
flat and on curved spaces. No gradient flows through derivatives, nor through targets.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rectiflow.flow import Flow
from rectiflow.spaces import Space
from rectiflow.states import State, batch_of, expand_time, map_state, select
from rectiflow.storage.records import state_of
from rectiflow.time_density import TimeDensity, Uniform

MeanVelocity: TypeAlias = Callable[[State, Tensor, Tensor], State]
"""``u(x, s, t)`` with times ``(b,)``."""

Along: TypeAlias = Callable[[Callable[[Tensor], State], Tensor], State]
"""``rate(f, span)``: the derivative of ``f(h)`` at 0, for each row; spans tell the scale."""


@dataclass(frozen=True)
class Forward:
    """The derivative by forward-mode differentiation; attention runs unfused."""

    def __call__(self, f: Callable[[Tensor], State], span: Tensor) -> State:
        """Return ``df/dh`` at 0."""
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(f, (torch.zeros_like(span),), (torch.ones_like(span),))[1]


@dataclass(frozen=True)
class Difference:
    """The derivative by a one-sided difference of second order: any network, fused kernels too.

    Parameters
    ----------
    step : float, default 0.02
        Share of the span; steps below 1e-3 are not taken, which float32 would drown.
    """

    step: float = 0.02

    def __call__(self, f: Callable[[Tensor], State], span: Tensor) -> State:
        """Return ``(4 f(h) - 3 f(0) - f(2h)) / 2h`` towards the end of the span."""
        h = torch.where(span < 0, -1.0, 1.0) * (self.step * span.abs()).clamp_min(1e-3)
        return map_state(
            lambda zero, one, two: (4 * one - 3 * zero - two) / (2 * expand_time(h, zero)),
            *(f(k * h) for k in range(3)),
        )


class MapLoss(ABC):
    """An equation of the exact map."""

    @abstractmethod
    def __call__(
        self,
        mean: MeanVelocity,
        field: Callable[[State, Tensor], State],
        x: State,
        s: Tensor,
        t: Tensor,
        velocity: State,
        space: Space,
    ) -> tuple[State, State]:
        """Return what the network says and what it should have said.

        Parameters
        ----------
        mean : callable
            The network's mean velocity; gradients flow through it.
        field : callable
            The flow's velocity ``(x, t)``: a teacher's, or the network's own.
        x : State
            Training points at ``s``.
        s, t : Tensor, shape (b,)
            With ``s <= t``; rows where they agree learn the velocity itself.
        velocity : State
            At the points: of the pair of noise and data, or a teacher's.
        space : Space
        """


@dataclass(frozen=True)
class MeanFlow(MapLoss):
    r"""The end of the way does not change while its start moves along the flow (Eulerian form).

    With :math:`h = t - s`, the rate :math:`\dot u` along the path, and the Jacobian J of the
    exponential map (1 on flat space):

    .. math:: J(-h u)\,\bigl(u - h\,\mathrm{sg}[\dot u]\bigr) = v

    so that a network of mean velocities regresses velocities, as in flow matching. The improved
    form: the path is followed by the field, not by the line of the pair.

    Parameters
    ----------
    rate : callable, default :class:`Forward`

    References
    ----------
    Geng et al., "Mean Flows for One-step Generative Modeling" (NeurIPS 2025) and "Improved Mean
    Flows" (arXiv 2512.02012).
    """

    rate: Along = field(default_factory=Forward)

    def __call__(
        self,
        mean: MeanVelocity,
        field: Callable[[State, Tensor], State],
        x: State,
        s: Tensor,
        t: Tensor,
        velocity: State,
        space: Space,
    ) -> tuple[State, State]:
        """Return the velocity that the map means, and the velocity."""
        span = t - s
        with torch.no_grad():
            v = field(x, s)
            rate = self.rate(lambda h: mean(space.move(x, v, h), s + h, t), span)
        u = mean(x, s, t)
        return space.dexp(_scaled(u, -span), _plus(u, rate, -span)), velocity


@dataclass(frozen=True)
class Lagrangian(MapLoss):
    r"""The end of the way moves as the flow does.

    .. math:: J(h u)\,\bigl(u + h\,\mathrm{sg}[\partial_t u]\bigr)
              = \mathrm{sg}\,[v(X_{s,t}(x), t)]

    Parameters
    ----------
    rate : callable, default :class:`Forward`

    References
    ----------
    Boffi et al., "Flow Map Matching" (arXiv 2406.07507), section 3.
    """

    rate: Along = field(default_factory=Forward)

    def __call__(
        self,
        mean: MeanVelocity,
        field: Callable[[State, Tensor], State],
        x: State,
        s: Tensor,
        t: Tensor,
        velocity: State,
        space: Space,
    ) -> tuple[State, State]:
        """Return the velocity of the end, and the flow's velocity there."""
        span = t - s
        u = mean(x, s, t)
        with torch.no_grad():
            rate = self.rate(lambda h: mean(x, s, t + h), -span)
            end = field(space.move(x, u, span), t)
        said = space.dexp(_scaled(u, span), _plus(u, rate, span))
        return said, select(span == 0, velocity, end)


@dataclass(frozen=True)
class Semigroup(MapLoss):
    r"""Two jumps are one, :math:`X_{s,t} = X_{m,t} \circ X_{s,m}`: no derivative at all.

    With :class:`Halvings` this is the training of shortcut models.

    Parameters
    ----------
    at : float, default 0.5
        The part of the way at which m lies.

    References
    ----------
    Frans et al., "One Step Diffusion via Shortcut Models" (ICLR 2025); Boffi et al. (2024).
    """

    at: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.at < 1:
            raise ValueError(f"the middle must lie inside the way, got {self.at}; expected 0 to 1.")

    def __call__(
        self,
        mean: MeanVelocity,
        field: Callable[[State, Tensor], State],
        x: State,
        s: Tensor,
        t: Tensor,
        velocity: State,
        space: Space,
    ) -> tuple[State, State]:
        """Return the mean velocity of one jump, and that of two."""
        span = t - s
        middle = s + self.at * span
        with torch.no_grad():
            half = space.move(x, mean(x, s, middle), middle - s)
            end = space.move(half, mean(half, middle, t), t - middle)
            two = _scaled(space.log(x, end), 1 / torch.where(span == 0, 1.0, span))
        return mean(x, s, t), select(span == 0, velocity, two)


@dataclass(frozen=True)
class Spans:
    """The law of the two times: two draws from a density, in their order.

    Parameters
    ----------
    density : TimeDensity, default uniform
    instant : float, default 0.5
        Share of rows where both agree, which learn velocities.
    latest : float, default 1.0
        The latest start; below 1 for networks that predict the data, whose velocity is singular.
    """

    density: TimeDensity = field(default_factory=Uniform)
    instant: float = 0.5
    latest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.instant <= 1:
            raise ValueError(f"instant must be a share from 0 to 1, got {self.instant}.")

    def sample(
        self, n: int, generator: torch.Generator, device: Any, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return ``s <= t``, of shape ``(n,)``."""
        told: Any = {"generator": generator, "device": device, "dtype": dtype}
        one, other = self.density.sample(n, **told), self.density.sample(n, **told)
        s, t = torch.minimum(one, other).clamp(max=self.latest), torch.maximum(one, other)
        chance = torch.rand(n, generator=generator, device=device)
        return s, torch.where(chance < self.instant, s, t)


@dataclass(frozen=True)
class Halvings(Spans):
    """The ways of shortcut models: 1, 1/2, 1/4, ... long, from a multiple of their length.

    Parameters
    ----------
    levels : int, default 7
        Lengths down to ``2^(1 - levels)``.
    """

    levels: int = 7

    def sample(
        self, n: int, generator: torch.Generator, device: Any, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return ``s <= t``, of shape ``(n,)``; rows without a way have times of the density."""
        told: Any = {"generator": generator, "device": device}
        parts = 2.0 ** torch.randint(self.levels, (n,), **told)
        s = (torch.rand(n, **told) * parts).floor() / parts
        at_once = torch.rand(n, **told) < self.instant
        still = self.density.sample(n, dtype=dtype, **told)
        s = torch.where(at_once, still.clamp(max=self.latest), s.to(dtype))
        return s, torch.where(at_once, s, s + (1 / parts).to(dtype))


class FlowMapObjective(nn.Module):
    """Trains a network of maps on data, on stored pairs, or by a teacher's velocities.

    Parameters
    ----------
    network : nn.Module
        ``network(x, t, until=t)`` or ``network(x, t, cond, until=t)``, from
        :func:`~rectiflow.rectify.to_map`; says what the flow's prediction says.
    flow : Flow
        Path, coupling, source, prediction, premetric and weight; its density is not used.
    loss : MapLoss, default :class:`MeanFlow`
    spans : Spans, optional
    teacher : nn.Module, optional
        A network of the same flow, frozen: its velocities take the place of those of pairs.

    Notes
    -----
    A batch is one of :class:`~rectiflow.training.FlowObjective`.
    """

    def __init__(
        self,
        network: nn.Module,
        flow: Flow,
        loss: MapLoss | None = None,
        spans: Spans | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if not getattr(network, "is_map", True):
            raise ValueError(
                f"the {type(network).__name__} is no network of maps; expected what "
                "rectiflow.rectify.to_map(network) makes of it."
            )
        self.network, self.flow = network, flow
        self.loss, self.spans = loss or MeanFlow(), spans or Spans()
        self.teacher = None if teacher is None else teacher.eval().requires_grad_(False)

    def bound(self, network: nn.Module, batch: Mapping[str, Tensor]) -> Callable[..., State]:
        """Return a network as ``(x, t, **until)``, told what the batch tells."""
        condition = state_of(batch, "cond")
        extra = () if condition is None else (condition,)
        return lambda x, t, **until: network(x, t, *extra, **until)

    def masks(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return ``mask`` and ``moving``, as for :meth:`Flow.points`."""
        return {"mask": batch.get("mask"), "moving": batch.get("moving")}

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch, and its part of ways of no length."""
        x1 = state_of(batch, "x1")
        if x1 is None:
            raise KeyError(f"batch has no data 'x1', got {sorted(batch)}.")
        flow, masks = self.flow, self.masks(batch)
        size, device, dtype = batch_of(x1)
        s, t = self.spans.sample(size, generator, device, dtype)
        x0 = state_of(batch, "x0")
        (point,) = flow.points(x1, x0=x0, t=s, **masks, generator=generator)
        own = self.bound(self.network, batch)

        def mean(x: State, s: Tensor, t: Tensor) -> State:
            return flow.prediction.velocity(own(x, s, until=t), x, s, flow.path)

        def field(x: State, t: Tensor) -> State:
            if self.teacher is None:
                return mean(x, t, t)
            said = self.bound(self.teacher, batch)(x, t)
            return flow.prediction.velocity(said, x, t, flow.path)

        velocity = point.velocity
        if self.teacher is not None:
            with torch.no_grad():
                velocity = field(point.x, s)
        said, target = self.loss(mean, field, point.x, s, t, velocity, flow.space)
        cost = flow.premetric(said, target, masks["mask"])
        cost = cost if flow.weight is None else flow.weight(s) * cost
        still = (s == t).to(cost.dtype)
        instant = (cost.detach() * still).sum() / still.sum().clamp_min(1)
        return {"loss": cost.mean(), "instant": instant}


def _scaled(v: State, h: Tensor) -> State:
    return map_state(lambda part: expand_time(h, part) * part, v)


def _plus(u: State, rate: State, h: Tensor) -> State:
    """Return ``u + h rate``."""
    return map_state(lambda a, b: a + expand_time(h, b) * b, u, rate)
