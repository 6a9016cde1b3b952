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
    device of the state, and passes the condition on.

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

    def field(x: State, t: float | Tensor) -> State:
        like = x if isinstance(x, Tensor) else leaves(x)[0]
        batch = like.shape[:1]
        times = t.to(like).expand(batch) if isinstance(t, Tensor) else like.new_full(batch, t)
        return model(x, times, *extra)

    return field


class Counted:
    """A velocity field that counts its evaluations; see :func:`counted`."""

    def __init__(self, field: VelocityField) -> None:
        self.field = field
        self.calls = 0

    def __call__(self, x: State, t: float | Tensor) -> State:
        """Evaluate the field and count one call."""
        self.calls += 1
        return self.field(x, t)


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
