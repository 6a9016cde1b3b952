"""Products of named spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rectiflow.spaces.base import Space
from rectiflow.states import State


@dataclass(frozen=True)
class Product(Space):
    """A product of named spaces; its states are flat dicts with the same names.

    Parameters
    ----------
    parts : mapping of str to Space
        For a chain of rigid frames: ``{"trans": Euclidean(), "rot": Rotations()}``.
    """

    parts: Mapping[str, Space]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a product needs at least one part, got none; expected name: space")
        object.__setattr__(self, "parts", dict(self.parts))

    def __hash__(self) -> int:
        return hash(frozenset(self.parts.items()))

    is_flat = property(lambda self: all(space.is_flat for space in self.parts.values()))

    def _each(self, fn: Callable[[Space, str], State], *states: State) -> State:
        for state in states:
            if not isinstance(state, dict) or state.keys() != self.parts.keys():
                found = sorted(state) if isinstance(state, dict) else type(state).__name__
                raise ValueError(
                    f"state does not fit the product space, got {found}; "
                    f"expected a dict with {sorted(self.parts)}"
                )
        moved: dict[str, Tensor] = {}
        for name, space in self.parts.items():
            part = fn(space, name)
            assert isinstance(part, Tensor)
            moved[name] = part
        return moved

    def log(self, x: State, y: State) -> State:
        """Take the logarithm part by part."""
        return self._each(lambda s, k: s.log(x[k], y[k]), x, y)  # type: ignore[index]

    def move(self, x: State, v: State, h: float | Tensor) -> State:
        """Move part by part, all for the same time."""
        return self._each(lambda s, k: s.move(x[k], v[k], h), x, v)  # type: ignore[index]

    def dexp(self, w: State, v: State) -> State:
        """Take the derivative of the exponential part by part."""
        return self._each(lambda s, k: s.dexp(w[k], v[k]), w, v)  # type: ignore[index]

    def geodesic(self, x0: State, x1: State, t: float | Tensor) -> State:
        """Interpolate part by part, all at the same time."""
        return self._each(lambda s, k: s.geodesic(x0[k], x1[k], t), x0, x1)  # type: ignore[index]

    def prior(
        self,
        shape: Sequence[int] | Mapping[str, Sequence[int]],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Draw each part's noise; ``shape`` is one for all parts or one per name."""

        def draw(space: Space, name: str) -> State:
            own = shape[name] if isinstance(shape, Mapping) else shape
            return space.prior(own, generator=generator, device=device, dtype=dtype)

        return self._each(draw)
