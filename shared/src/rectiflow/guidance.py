"""Guidance: transforms of a velocity that compose with every solver, at every stage."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from rectiflow.fields import VelocityField, bind
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, batch_of, expand_time, map_state, select, settle

if TYPE_CHECKING:
    from rectiflow.solvers.base import Move

Guide: TypeAlias = Callable[[State, float | Tensor, State], State]
"""Takes the state, the time and the velocity there; returns the velocity to use instead."""

_FLAT = Euclidean()


def guided(field: VelocityField, *guides: Guide) -> VelocityField:
    """Return the field with each guide applied to its velocity, in the order given."""

    def velocity(x: State, t: float | Tensor) -> State:
        v = field(x, t)
        for guide in guides:
            v = guide(x, t, v)
        return v

    return velocity


def cfg(
    unconditional: VelocityField,
    w: float | Tensor,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> Guide:
    r"""Classifier-free guidance of a conditional field.

    .. math:: v = v_u + w\,(v_c - v_u)

    ``w = 1`` is the conditional field itself, and makes no unconditional call. A weaker model in
    place of the unconditional one is autoguidance.

    Parameters
    ----------
    unconditional : VelocityField
        The field without its condition.
    w : float or Tensor, shape (b,)
        Guidance weight, one for all samples or one for each. Papers that write
        ``(1 + w) v_c - w v_u`` mean one more here.
    interval : tuple of float, optional
        Guide only at times ``lo <= t <= hi``; elsewhere the conditional velocity, at no extra call.
    rescale : float, default 0
        In ``[0, 1]``: how far to bring the standard deviation of the guided velocity, per sample,
        back to that of the conditional one. Against over-saturation at large weights.

    Raises
    ------
    ValueError
        When the interval is not ordered, ``rescale`` is outside ``[0, 1]`` or ``w`` has a shape
        other than ``(b,)``.

    Notes
    -----
    Where some rows are inside the interval and others are not, and in a compiled region, both
    fields are evaluated and the interval selects one for each row.

    References
    ----------
    Ho & Salimans, "Classifier-Free Diffusion Guidance" (2022). Kynkäänniemi et al., "Applying
    Guidance in a Limited Interval" (NeurIPS 2024). Lin et al., "Common Diffusion Noise Schedules
    and Sample Steps are Flawed" (WACV 2024), Eqs. (14)-(16).
    """
    mix = _mixing(w, interval, rescale)
    if mix is None:
        return lambda x, t, v: v

    def guide(x: State, t: float | Tensor, v: State) -> State:
        return v if _is_inside(interval, t) is False else mix(t, v, unconditional(x, t))

    return guide


def batched_cfg(
    model: Callable[..., State],
    cond: Any,
    null: Any,
    w: float | Tensor,
    *,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
) -> VelocityField:
    """Return the field of :func:`cfg` with both halves in one call of the network, on ``2 b``.

    Parameters
    ----------
    model : callable
        ``model(x, t, cond)``.
    cond, null : Tensor, or mapping or sequence of them
        The condition of each sample and its empty counterpart, of one structure. A null condition
        of batch size 1 is repeated. They are stacked once, here.
    w, interval, rescale
        As in :func:`cfg`. Outside the interval, and at ``w = 1``, only the conditional half is
        computed.

    Raises
    ------
    ValueError
        As :func:`cfg`; and when the two conditions do not have one structure and batch size.
    """
    conditional = bind(model, cond)
    mix = _mixing(w, interval, rescale)
    if mix is None:
        return conditional

    stacked = bind(model, _stack(cond, null))

    def velocity(x: State, t: float | Tensor, *until: float | Tensor) -> State:
        if _is_inside(interval, t) is False:
            return conditional(x, t, *until)
        batch, _, _ = batch_of(x)
        both = stacked(map_state(lambda a: torch.cat((a, a)), x), t, *until)
        v, v_null = map_state(lambda a: a[:batch], both), map_state(lambda a: a[batch:], both)
        return mix(t, v, v_null)

    return velocity


@dataclass(frozen=True)
class RectifiedCFG:
    r"""Rectified-CFG++: guidance by what the two fields say half a step ahead, on the manifold.

    .. math:: u = x + \tfrac{h}{2} v_c(x, t), \qquad
              v = v_c(x, t) + (w - 1)\,t^{\gamma}\,\bigl(v_c(u, t + \tfrac{h}{2})
              - v_u(u, t + \tfrac{h}{2})\bigr)

    The point ``u`` lies where the conditional flow leads, so that no step leaves from where neither
    field was trained, as the extrapolation of :func:`batched_cfg` does. At ``w = 1`` it is the
    conditional field, at its cost; else three evaluations, two of them in one call of ``2 b`` rows.

    Parameters
    ----------
    gamma : float, default 0
        Above 0 guidance grows towards the data; 0 keeps it constant.

    References
    ----------
    Saini et al., "Rectified-CFG++ for Flow Based Models" (NeurIPS 2025), whose weight is ``w - 1``.
    """

    gamma: float = 0.0

    def __post_init__(self) -> None:
        if not self.gamma >= 0.0:
            raise ValueError(f"gamma must be at least 0, got {self.gamma}; 0 guides at all times")

    def field(
        self, model: Callable[..., State], cond: Any, null: Any, w: float, moves: Iterable[Move]
    ) -> VelocityField:
        """Return the guided field along a plan, whose steps say how far half a step is.

        Parameters
        ----------
        model, cond, null, w
            As for :func:`batched_cfg`; ``w`` is one number.
        moves : iterable of Move
            Towards the data.
        """
        conditional = bind(model, cond)
        if w == 1.0:
            return conditional
        stacked = bind(model, _stack(cond, null))
        steps = [(move.start, move.stop) for move in moves]
        starts = [start for start, _ in steps]

        def velocity(x: State, t: float | Tensor) -> State:
            if isinstance(t, Tensor):
                raise ValueError(f"{self} guides whole batches, got times per row; expected one")
            v = conditional(x, t)
            start, stop = steps[max(bisect_right(starts, t) - 1, 0)]
            half = min((stop - start) / 2, 1.0 - t)
            ahead = map_state(lambda a, b: a + half * b, x, v)
            batch, _, _ = batch_of(x)
            both = stacked(map_state(lambda a: torch.cat((a, a)), ahead), t + half)
            scale = (w - 1.0) * t**self.gamma
            return map_state(lambda a, b: a + scale * (b[:batch] - b[batch:]), v, both)

        return velocity


def compose(
    unconditional: VelocityField, conditional: Sequence[tuple[VelocityField, float | Tensor]]
) -> VelocityField:
    r"""Guide by several conditions at once, :math:`v = v_u + \sum_i w_i\,(v_i - v_u)`.

    Parameters
    ----------
    unconditional : VelocityField
        The field without any condition.
    conditional : sequence of (VelocityField, float or Tensor of shape (b,))
        Each condition's field and weight.
    """
    for _, w in conditional:
        _check_weight(w)

    def velocity(x: State, t: float | Tensor) -> State:
        v_null = unconditional(x, t)
        total = v_null
        for field, w in conditional:
            total = map_state(
                lambda s, a, b, w=w: s + expand_time(w, a) * (a - b), total, field(x, t), v_null
            )
        return total

    return velocity


def cfg_to_endpoint(
    x1_negative: State,
    w: float | Tensor,
    *,
    delta: float = 1.0,
    space: Space = _FLAT,
) -> Guide:
    r"""Residual guidance away from a fixed end point, at no extra call.

    The negative velocity is the straight one to the end point,
    :math:`v_n = (x_{neg} - x)/(1 - t)`, and :math:`v = \delta v_n + w\,(v_c - \delta v_n)`.

    Parameters
    ----------
    x1_negative : State
        The end point: the input of an image-to-image task (self-negative), or the data prediction
        of one unconditional evaluation at the first step (one-time negative).
    w : float or Tensor, shape (b,)
        Guidance weight; 1 is no guidance.
    delta : float, default 1
        Strength of the negative velocity.
    space : Space
        Where the states live; ``log`` takes the place of the difference.

    Raises
    ------
    ValueError
        When evaluated at t = 1, where there is no velocity to the end point.

    References
    ----------
    Kodaira et al., "StreamDiffusion" (ICCV 2025), section 3.2, in flow form.
    """
    _check_weight(w)

    def guide(x: State, t: float | Tensor, v: State) -> State:
        if not isinstance(t, Tensor) and t == 1.0:
            raise ValueError(
                "residual guidance has no velocity at the end point, got t=1.0; expected t < 1. "
                "Use a solver that does not evaluate there, such as Euler or Midpoint"
            )
        scale = delta / (1 - t)

        def mix(a: Tensor, to_negative: Tensor) -> Tensor:
            negative = expand_time(scale, to_negative) * to_negative
            return negative + expand_time(w, a) * (a - negative)

        return map_state(mix, v, space.log(x, x1_negative))

    return guide


def negative_once(
    unconditional: VelocityField, w: float, *, delta: float = 1.0, space: Space = _FLAT
) -> Guide:
    """Residual guidance whose end point is the unconditional prediction at the first time seen.

    One unconditional evaluation in all; the guide belongs to one run, from its first step on.

    Parameters
    ----------
    unconditional : VelocityField
        Evaluated once.
    w, delta, space
        As for :func:`cfg_to_endpoint`.

    References
    ----------
    Kodaira et al., "StreamDiffusion" (ICCV 2025), section 3.2, one-time negative.
    """
    known: list[Guide] = []

    def guide(x: State, t: float | Tensor, v: State) -> State:
        if not known:
            end = space.move(x, unconditional(x, t), 1 - t)
            known.append(cfg_to_endpoint(end, w, delta=delta, space=space))
        return known[0](x, t, v)

    return guide


def _mixing(
    w: float | Tensor, interval: tuple[float, float] | None, rescale: float
) -> Callable[[float | Tensor, State, State], State] | None:
    """Return how to mix two velocities at a time; None when nothing is to be mixed."""
    _check_weight(w)
    if interval is not None and not interval[0] <= interval[1]:
        raise ValueError(f"interval must be ordered, got {interval}; expected (lo, hi), lo <= hi")
    if not 0.0 <= rescale <= 1.0:
        raise ValueError(f"rescale must be in [0, 1], got {rescale}; expected 0 for none")
    if not isinstance(w, Tensor) and w == 1.0:
        return None

    def leaf(v: Tensor, v_null: Tensor) -> Tensor:
        mixed = v_null + expand_time(w, v) * (v - v_null)
        if not rescale:
            return mixed
        axes = tuple(range(1, v.ndim))
        ratio = v.std(axes, keepdim=True) / mixed.std(axes, keepdim=True)
        return mixed * (rescale * ratio + (1 - rescale))

    def mix(t: float | Tensor, v: State, v_null: State) -> State:
        return select(_is_inside(interval, t), map_state(leaf, v, v_null), v)

    return mix


def _is_inside(interval: tuple[float, float] | None, t: float | Tensor) -> bool | Tensor:
    return True if interval is None else settle((t >= interval[0]) & (t <= interval[1]))


def _check_weight(w: float | Tensor) -> None:
    if isinstance(w, Tensor) and w.ndim != 1:
        raise ValueError(
            f"guidance weights must have shape (b,), got {tuple(w.shape)}; expected one weight per "
            "sample, or a number for all"
        )


def _stack(cond: Any, null: Any) -> Any:
    """Put conditions and null conditions into one batch, conditions first."""
    if isinstance(cond, Tensor) and isinstance(null, Tensor):
        if null.shape[:1] == (1,):
            null = null.expand(len(cond), *null.shape[1:])
        if null.shape != cond.shape:
            raise ValueError(
                f"conditions must have one shape, got {tuple(cond.shape)} and null "
                f"{tuple(null.shape)}; expected the same, or a null condition of batch size 1"
            )
        return torch.cat((cond, null))
    if isinstance(cond, Mapping) and isinstance(null, Mapping) and cond.keys() == null.keys():
        return {name: _stack(cond[name], null[name]) for name in cond}
    if isinstance(cond, tuple | list) and isinstance(null, tuple | list) and len(cond) == len(null):
        return type(cond)(_stack(a, b) for a, b in zip(cond, null, strict=True))
    raise ValueError(
        f"conditions must have one structure, got {type(cond).__name__} and "
        f"{type(null).__name__}; expected tensors, or mappings or sequences of tensors alike"
    )


def guided_velocity(
    model: Callable[..., State],
    cond: Any,
    null: Any,
    w: float,
    *,
    rule: RectifiedCFG | None = None,
    moves: Iterable[Move] | None = None,
    interval: tuple[float, float] | None = None,
) -> VelocityField:
    """Return the field in float32, guided by a rule along a plan if one is given.

    Parameters
    ----------
    model, cond, null, w, interval
        As for :func:`batched_cfg`, which guides where no rule does.
    rule : RectifiedCFG, optional
        How guidance acts along ``moves``.
    """

    def velocity(x: State, t: float | Tensor, cond: Any, **until: float | Tensor) -> State:
        return map_state(Tensor.float, model(x, t, cond, **until))

    if rule is not None and moves is not None:
        return rule.field(velocity, cond, null, w, moves)
    return batched_cfg(velocity, cond, null, w, interval=interval)
