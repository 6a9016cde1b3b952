"""The interface of a space: how to go from point to point, and what noise is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from rectiflow.states import State


class Space(ABC):
    """A space of points ``x`` with tangent vectors ``v``.

    Velocities are tangent vectors at the point where they are evaluated. ``move(x, v, h)`` is how
    every solver advances a state, so a solver written once runs on every space.

    Attributes
    ----------
    point_ndim : int
        Trailing axes of a state that are the coordinates of one point (0 where each number is a
        point of its own); :meth:`prior` adds them to its shape.
    is_flat : bool
        Whether velocities of different points may be added.
    """

    point_ndim: int = 0
    is_flat: bool = False

    @abstractmethod
    def log(self, x: State, y: State) -> State:
        """Return the tangent vector at ``x`` whose geodesic reaches ``y`` in unit time."""

    def exp(self, x: State, v: State) -> State:
        """Follow the geodesic from ``x`` with velocity ``v`` for unit time."""
        return self.move(x, v, 1.0)

    @abstractmethod
    def move(self, x: State, v: State, h: float | Tensor) -> State:
        """Follow the geodesic from ``x`` with velocity ``v`` for time ``h`` (negative: back)."""

    def dexp(self, w: State, v: State) -> State:
        """Return the velocity, in the moving frame, of ``exp(x, w)`` while ``w`` changes by ``v``.

        It is ``v`` itself on flat spaces.
        """
        raise TypeError(
            f"losses of maps need the derivative of the exponential map, got a "
            f"{type(self).__name__} without one; expected its method dexp(w, v)."
        )

    def geodesic(self, x0: State, x1: State, t: float | Tensor) -> State:
        """Return the point at time ``t`` on the shortest path from ``x0`` to ``x1``.

        ``t`` is a number or a tensor whose leading axes match the points'; it may lie outside
        ``[0, 1]``.
        """
        return self.move(x0, self.log(x0, x1), t)

    @abstractmethod
    def prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Draw the canonical noise of this space; ``shape`` is batch and event, not coordinates."""
