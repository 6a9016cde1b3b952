"""Velocity fields: any callable of a state and a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from torch import Tensor

from rectiflow.states import State, leaves

VelocityField: TypeAlias = Callable[[State, float | Tensor], State]
"""A velocity ``v(x, t)`` with its conditions already bound; ``t`` is one time for the batch."""


def bind(model: Callable[..., State], cond: Any = None) -> VelocityField:
    """Turn a network into a velocity field.

    The field broadcasts its time to the shape ``(b,)`` that networks take, in the dtype and on the
    device of the state, and passes the condition on. That of a network of maps, from
    :func:`rectiflow.rectify.to_map`, also takes where a move ends, ``field(x, t, until)``, and then
    returns the mean velocity of the way.

    Parameters
    ----------
    model : callable
        ``model(x, t)``, or ``model(x, t, cond)`` when ``cond`` is given.
    cond : optional
        Anything the network understands, of the batch size of the states to come.

    Returns
    -------
    VelocityField

    Examples
    --------
    >>> import torch
    >>> field = bind(lambda x, t: x * t[:, None])
    >>> field(torch.ones(2, 1), 0.5)
    tensor([[0.5000],
            [0.5000]])
    """
    extra = () if cond is None else (cond,)

    def field(x: State, t: float | Tensor, until: float | Tensor | None = None) -> State:
        end = {} if until is None else {"until": _times(until, x)}
        return model(x, _times(t, x), *extra, **end)

    return field


def _times(t: float | Tensor, x: State) -> Tensor:
    """Return a time for each row of a state."""
    like = x if isinstance(x, Tensor) else leaves(x)[0]
    batch = like.shape[:1]
    return t.to(like).expand(batch) if isinstance(t, Tensor) else like.new_full(batch, t)


class Counted:
    """A velocity field that counts its evaluations; see :func:`counted`."""

    def __init__(self, field: VelocityField) -> None:
        self.field = field
        self.calls = 0

    def __call__(self, x: State, t: float | Tensor, *until: float | Tensor) -> State:
        """Evaluate the field and count one call."""
        self.calls += 1
        return self.field(x, t, *until)


def counted(field: VelocityField) -> Counted:
    """Wrap a field so that ``.calls`` tells how often it was evaluated (the NFE).

    Examples
    --------
    >>> import torch
    >>> field = counted(lambda x, t: -x)
    >>> _ = field(torch.ones(1), 0.0), field(torch.ones(1), 1.0)
    >>> field.calls
    2
    """
    return Counted(field)
