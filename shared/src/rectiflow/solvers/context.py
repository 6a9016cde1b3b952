"""What a move is given besides the field, the state and the times, and what it hands on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, map_state, select, settle

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField
    from rectiflow.randomness import KeyedNoise

Time: TypeAlias = float | Tensor
"""A number, or a tensor of shape ``(b,)`` with one time per row (float64, on the host)."""

Correction: TypeAlias = Callable[[State, Time, State], tuple[State, State]]
"""Takes state, time and velocity at the start of a move; returns the state and velocity to use."""

_DEEPEST = 4  # no method here looks further back


class Memory(NamedTuple):
    """What the last moves hand on: values by name, newest first, each with its time.

    A value, with the batch axis of the state: :meth:`rows` and :meth:`cat` take it apart and put it
    together like the state it belongs to. It knows the last move, so that a gap or a turn is seen.

    Attributes
    ----------
    start, stop : float or Tensor, shape (b,)
        Where the last move began and ended.
    values : mapping of str to tuple of (time, State)
        ``"velocity"`` and ``"state"`` at the start of a move, ``"data"`` and ``"average"`` there,
        ``"carried"`` for the next first stage. A row that lacks a value has a NaN for its time.
    """

    start: Time
    stop: Time
    values: Mapping[str, tuple[tuple[Time, State], ...]]

    def get(self, name: str) -> tuple[tuple[Time, State], ...]:
        """Return the values of a name, newest first; none if it was not handed on."""
        return self.values.get(name, ())

    def newest(self, name: str, instead: State) -> tuple[Time, State]:
        """Return the newest value of a name; if there is none, another one at no time."""
        return self.values.get(name, ((math.nan, instead),))[0]

    def rows(self, index: Any) -> Memory:
        """Return the memory of some rows: a slice, or indices or a mask on the host."""

        def time(t: Time) -> Time:
            return t[index] if isinstance(t, Tensor) else t

        return Memory(
            time(self.start),
            time(self.stop),
            {
                name: tuple((time(t), map_state(lambda a: a[index], x)) for t, x in chain)
                for name, chain in self.values.items()
            },
        )

    @staticmethod
    def cat(memories: Sequence[Memory | None], sizes: Sequence[int]) -> Memory | None:
        """Put together the memories of batches of the given sizes; None remembers nothing.

        The parts may differ in their times and in how much they remember.
        """
        known = [NOTHING if memory is None else memory for memory in memories]

        def times(ts: Sequence[Time]) -> Tensor:
            return torch.cat([_rows_of(t, size) for t, size in zip(ts, sizes, strict=True)])

        values = {}
        for name in {name: None for memory in known for name in memory.values}:
            chains = [memory.get(name) for memory in known]
            like = max(chains, key=len)[0][1]
            depth = max(map(len, chains))
            filled = [
                (*chain, *((math.nan, _zeros(like, size)),) * (depth - len(chain)))
                for chain, size in zip(chains, sizes, strict=True)
            ]
            values[name] = tuple(
                (times([t for t, _ in row]), _cat([x for _, x in row]))
                for row in zip(*filled, strict=True)
            )
        if all(memory is None for memory in memories):
            return None
        return Memory(times([m.start for m in known]), times([m.stop for m in known]), values)


NOTHING = Memory(math.nan, math.nan, {})


class Context(NamedTuple):
    """What a move is given besides field, state and times; :func:`integrate` makes it.

    Attributes
    ----------
    space : Space
        How points move.
    noise : KeyedNoise or None
        Random draws of this move, for stochastic solvers.
    memory : Memory or None
        What the move before handed on.
    reads : mapping of str to int, optional
        Which values later moves read, and how many of each; None keeps all.
    correct : callable, optional
        Changes state and velocity at the start of the move; see :class:`~rectiflow.steering.Steer`.
    """

    space: Space = Euclidean()
    noise: KeyedNoise | None = None
    memory: Memory | None = None
    reads: Mapping[str, int] | None = None
    correct: Correction | None = None

    def begin(
        self, field: VelocityField, x: State, start: Time, known: State | None = None
    ) -> tuple[State, State]:
        """Return the state and the velocity that a move begins with, corrected if so wished.

        The velocity is evaluated unless one is ``known`` that takes its place.
        """
        v = field(x, start) if known is None else known
        return (x, v) if self.correct is None else self.correct(x, start, v)

    def past(self, start: Time, stop: Time) -> Memory:
        """Return the memory as far as it leads straight to the move from ``start`` to ``stop``.

        After a gap or a turn nothing is left of it, so that a multistep method restarts by itself.
        """
        memory = self.memory
        if memory is None:
            return NOTHING
        if isinstance(start, Tensor) and torch.compiler.is_compiling():
            return memory  # the loop compiles straight runs only
        straight = (memory.stop == start) & ((stop > start) == (memory.stop > memory.start))
        if isinstance(straight, Tensor):
            straight = settle(straight)
        if not isinstance(straight, Tensor):
            return memory if straight else NOTHING
        values = {
            name: tuple((select(straight, t, math.nan), value) for t, value in chain)
            for name, chain in memory.values.items()
        }
        return memory._replace(values=values)

    def wants(self, name: str) -> bool:
        """Tell whether later moves read a value of this name."""
        return self.reads is None or name in self.reads

    def remember(self, start: Time, stop: Time, **left: State) -> Memory | None:
        """Return the memory after the move from ``start`` to ``stop``, which leaves these values.

        A value that a move does not leave is forgotten, so that no chain has a hole in it.
        """
        if self.reads is not None and not self.reads:
            return None
        values, past = {}, None
        for name, value in left.items():
            depth = _DEEPEST if self.reads is None else self.reads.get(name, 0)
            if depth > 1 and past is None:
                past = self.past(start, stop)
            if depth:
                older = past.get(name)[: depth - 1] if past else ()
                values[name] = ((start, value), *older)
        return Memory(start, stop, values)


def has(t: Time) -> bool | Tensor:
    """Tell which rows have a value of this time."""
    if not isinstance(t, Tensor):
        return not math.isnan(t)
    return True if torch.compiler.is_compiling() else settle(~t.isnan())


def _rows_of(t: Time, size: int) -> Tensor:
    return t if isinstance(t, Tensor) else torch.full((size,), t, dtype=torch.float64)


def _cat(states: Sequence[State]) -> State:
    return map_state(lambda *parts: torch.cat(parts), *states)


def _zeros(like: State, size: int) -> State:
    return map_state(lambda a: a.new_zeros(size, *a.shape[1:]), like)
