"""What a solver is: one move of a state from one time to another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from rectiflow.spaces import Euclidean, Product, Space
from rectiflow.states import State, map_state

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow.fields import VelocityField


@dataclass(slots=True)
class Record:
    """What is known of one past move.

    Attributes
    ----------
    t : float
        Time where the move started.
    x : State
        State there.
    v : State or None
        Velocity there; None when it was not evaluated.
    stop : float
        Time where the move ended.
    memo : object, optional
        What the solver leaves for whoever takes the next move.
    """

    t: float
    x: State
    v: State | None
    stop: float
    memo: Any = None


class History:
    """The most recent records of a trajectory, oldest first.

    All memory of a multistep method is here, so solver objects keep nothing and one plan may mix
    solvers.

    Parameters
    ----------
    size : int
        Number of records kept; 0 keeps none.
    """

    __slots__ = ("_records", "size")

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError(f"history size must not be negative, got {size}; expected 0 or more")
        self.size = size
        self._records: list[Record] = []

    def push(self, t: float, x: State, v: State | None, stop: float, memo: Any = None) -> None:
        """Add a record and drop the oldest beyond ``size``."""
        if self.size:
            self._records.append(Record(t, x, v, stop, memo))
            if len(self._records) > self.size:
                del self._records[0]

    def before(self, start: float, stop: float) -> list[Record]:
        """Return the records that lead straight to the move ``start -> stop``, newest first.

        The chain ends at a gap or a turn, so that a multistep method restarts by itself after a
        jump or a change of direction.
        """
        chain: list[Record] = []
        head, forward = start, stop > start
        for record in reversed(self._records):
            if record.stop != head or (record.stop > record.t) is not forward:
                break
            chain.append(record)
            head = record.t
        return chain

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __getitem__(self, index: int) -> Record:
        return self._records[index]


class Move(NamedTuple):
    """One step of a plan: from ``start`` to ``stop`` with ``solver``."""

    start: float
    stop: float
    solver: Solver


class Solver(ABC):
    """A rule that advances a state from one time to another, up or down.

    Solvers are values: nothing is kept on them between calls.

    Attributes
    ----------
    order : int
        Order of the global error on a smooth field.
    nfe : int
        Velocity evaluations per move, once started.
    memory : int
        Number of past records it reads.
    flat_only : bool
        True when it adds velocities of different points, which only a flat space allows.
    takes_tensor_times : bool
        True when ``start`` and ``stop`` may be 0-dim tensors, as compiled regions pass them.
    """

    order: int
    nfe: int
    memory: int = 0
    flat_only: bool = True
    takes_tensor_times: ClassVar[bool] = False

    @abstractmethod
    def step(
        self,
        field: VelocityField,
        x: State,
        start: float,
        stop: float,
        history: History,
        space: Space,
        v: State | None = None,
    ) -> State:
        """Advance ``x`` from ``start`` to ``stop``.

        Parameters
        ----------
        field : VelocityField
            The velocity.
        x : State
            The state at ``start``.
        start, stop : float
            Times of the move; ``stop < start`` goes towards noise.
        history : History
            Past moves; the solver reads it and adds its own.
        space : Space
            Moves the points.
        v : State, optional
            The velocity at ``(x, start)``, when it is already known.

        Returns
        -------
        State
            The state at ``stop``; ``x`` is left as it was.
        """

    def moves(self, grid: Sequence[float]) -> list[Move]:
        """Lay out this solver along a grid; multistep methods put their start and end here."""
        return [Move(start, stop, self) for start, stop in pairwise(grid)]


def is_flat(space: Space) -> bool:
    """Tell whether velocities of different points of ``space`` may be added."""
    if isinstance(space, Product):
        return all(is_flat(part) for part in space.parts.values())
    return isinstance(space, Euclidean)


def combine(weights: Sequence[float], states: Sequence[State]) -> State:
    """Return the weighted sum of states, part by part."""

    def total(*parts: Tensor) -> Tensor:
        out = weights[0] * parts[0]
        for weight, part in zip(weights[1:], parts[1:], strict=True):
            out = torch.add(out, part, alpha=weight)
        return out

    return map_state(total, *states)
