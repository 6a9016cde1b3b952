"""What a solver is: one move of a state from one time to another."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, zip_longest
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State, combine, select

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

__all__ = ["Move", "Solver", "by_length", "combine", "of_times"]


class Move(NamedTuple):
    """One move of a plan: from ``start`` to ``stop`` with ``solver``."""

    start: float
    stop: float
    solver: Solver


class Solver(ABC):
    """A rule that advances a state from one time to another, up or down.

    Solvers are values, frozen dataclasses: equal, hashable, printed as they are made, and nothing
    is kept on them. What a method remembers goes out with the state.

    Attributes
    ----------
    order : int
        Order of the global error on a smooth field.
    nfe : int
        Velocity evaluations per move, once started.
    flat_only : bool
        True when it adds velocities of different points, which only a flat space allows.
    traceable : bool
        False when its program depends on the numbers, so that it cannot be compiled.
    reads : mapping of str to int
        Which values of :class:`Memory` it reads, and how many of each.
    leaves : tuple of str
        Which values it hands on.
    """

    order: int
    nfe: int
    flat_only: bool = True
    traceable: bool = True
    reads: Mapping[str, int] = MappingProxyType({})
    leaves: tuple[str, ...] = ()

    @abstractmethod
    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` from ``start`` to ``stop``.

        Parameters
        ----------
        field : VelocityField
            The velocity.
        x : State, shape (b, *event)
            The state at ``start``; it is left as it is.
        start, stop : float, or Tensor of shape (b,)
            Times of the move, down where ``stop < start``. Tensors hold one time per row, float64
            on the host, and each row moves as it would alone.
        context : Context
            The space, the noise and the memory.

        Returns
        -------
        (State, Memory or None)
            The state at ``stop``, and ``context.remember(start, stop, ...)`` of what is left for
            the next move.
        """

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """Return the evaluations of a move, given how many values of each name are known."""
        return self.nfe

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out this solver along a grid; some methods end or start differently."""
        return [Move(start, stop, self) for start, stop in pairwise(times)]


def of_times(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Remember what a function makes of numbers: runs repeat their grids. Tensors are not kept."""
    remembered = functools.lru_cache(maxsize=8192)(fn)

    @functools.wraps(fn)
    def call(*args: Any) -> Any:
        for arg in args:
            if isinstance(arg, Tensor):
                return fn(*args)
        return remembered(*args)

    return call


def by_length(
    known: Sequence[bool | Tensor], weights_of: Callable[[int], Sequence[Time]]
) -> list[Time]:
    """Return the weights of a method that takes as many past values as a row has.

    Parameters
    ----------
    known : sequence of bool or Tensor
        Which rows have the first past value, the second, ...
    weights_of : callable
        The weights, given how many past values there are. Past values that a row lacks get 0.
    """
    certain = next((i for i, has in enumerate(known) if has is not True), len(known))
    weights = list(weights_of(certain))
    for count in range(certain + 1, len(known) + 1):
        if known[count - 1] is False:
            break
        pairs = zip_longest(weights_of(count), weights, fillvalue=0.0)
        weights = [select(known[count - 1], long, short) for long, short in pairs]
    return weights + [0.0] * (1 + len(known) - len(weights))
