"""Flat space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.spaces.base import Space
from rectiflow.states import State, expand_time, map_state


@dataclass(frozen=True)
class Euclidean(Space):
    """R^n, of any event shape: straight lines, standard-normal noise.

    Dict states are taken part by part, so that several flat parts need no :class:`Product`.
    """

    is_flat = True

    def log(self, x: State, y: State) -> State:
        """Return ``y - x``."""
        return map_state(torch.sub, y, x)

    def exp(self, x: State, v: State) -> State:
        """Return ``x + v``."""
        return map_state(torch.add, x, v)

    def move(self, x: State, v: State, h: float | Tensor) -> State:
        """Return ``x + h v``."""

        def advance(a: Tensor, b: Tensor) -> Tensor:
            step = expand_time(h, b)
            if isinstance(step, Tensor):
                return torch.addcmul(a, step, b)
            return torch.add(a, b, alpha=step)

        return map_state(advance, x, v)

    def dexp(self, w: State, v: State) -> State:
        """Return ``v``."""
        return v

    def geodesic(self, x0: State, x1: State, t: float | Tensor) -> State:
        """Return ``(1 - t) x0 + t x1``."""

        def point(a: Tensor, b: Tensor) -> Tensor:
            s = expand_time(t, a)
            return torch.lerp(a, b, s if isinstance(s, Tensor) else float(s))

        return map_state(point, x0, x1)

    def prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw standard-normal noise of ``shape``."""
        return torch.randn(*shape, generator=generator, device=device, dtype=dtype)
