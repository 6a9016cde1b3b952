"""Flat space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.spaces.base import Space
from rectiflow.states import State, combine, map_state


@dataclass(frozen=True)
class Euclidean(Space):
    """R^n, of any event shape: straight lines, standard-normal noise.

    Dict states are taken part by part, so that several flat parts need no :class:`Product`.
    """

    is_flat = True

    def log(self, x: State, y: State) -> State:
        """Return ``y - x``."""
        return map_state(torch.sub, y, x)

    def move(self, x: State, v: State, h: float | Tensor) -> State:
        """Return ``x + h v``."""
        return combine((1.0, h), (x, v))

    def dexp(self, w: State, v: State) -> State:
        """Return ``v``."""
        return v

    def geodesic(self, x0: State, x1: State, t: float | Tensor) -> State:
        """Return ``(1 - t) x0 + t x1``."""
        return combine((1 - t, t), (x0, x1))

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
