"""What noise is drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rectiflow.spaces import Product, Space
from rectiflow.states import State, leaves, map_state


class Source(ABC):
    """The law of ``x0``; a frozen dataclass."""

    @abstractmethod
    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw one point for each point of ``x``, of the same shape, device and dtype."""

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw points of shape ``(b, *event)``."""
        form = torch.empty(*shape, device=device, dtype=dtype)
        drawn = self.sample_like(form, generator=generator)
        assert isinstance(drawn, Tensor)
        return drawn


@dataclass(frozen=True)
class Normal(Source):
    """A normal distribution with independent coordinates.

    Parameters
    ----------
    mean : float, sequence or Tensor, default 0
        Broadcast to the event shape; kept as numbers.
    scale : float, sequence or Tensor, default 1
        Standard deviation, broadcast to the event shape; positive.

    Examples
    --------
    >>> import torch
    >>> Normal(scale=2.0).log_prob(torch.zeros(1, 3))
    tensor([-4.8363])
    """

    mean: Any = 0.0
    scale: Any = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "scale"):
            object.__setattr__(self, name, _numbers(getattr(self, name)))
        if not bool((torch.tensor(self.scale) > 0).all()):
            raise ValueError(f"the scale of a normal source must be positive, got {self.scale}")

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw ``mean + scale z`` with standard-normal z."""

        def draw(part: Tensor) -> Tensor:
            z = torch.randn(part.shape, generator=generator, device=part.device, dtype=part.dtype)
            return like(self.mean, z) + like(self.scale, z) * z

        return map_state(draw, x)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, shape ``(b,)``, summed over the event."""
        scale = torch.as_tensor(like(self.scale, x), dtype=x.dtype, device=x.device)
        z = (x - like(self.mean, x)) / scale
        terms = -0.5 * z.square() - scale.log() - 0.5 * math.log(2 * math.pi)
        return terms.reshape(len(x), -1).sum(1)

    def score(self, x: Tensor) -> Tensor:
        """Return ``grad log p(x) = -(x - mean) / scale²``."""
        return (like(self.mean, x) - x) / like(self.scale, x) ** 2

    def at_score(self, score: Tensor) -> Tensor:
        """Return the point with this score, the inverse of :meth:`score`."""
        return like(self.mean, score) - like(self.scale, score) ** 2 * score


@dataclass(frozen=True)
class Mixture(Source):
    """A mixture of sources.

    Parameters
    ----------
    components : sequence of Source
        At least one; :meth:`log_prob` needs one that has it in each.
    weights : sequence of float, optional
        Positive; normalised to sum to one. Equal by default.
    """

    components: Sequence[Source]
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        components = tuple(self.components)
        weights = [1.0] * len(components) if self.weights is None else list(self.weights)
        if not components or len(weights) != len(components) or min(weights) <= 0:
            raise ValueError(
                f"a mixture needs one positive weight per component, got {len(components)} "
                f"components and weights {weights}"
            )
        object.__setattr__(self, "components", components)
        object.__setattr__(self, "weights", tuple(w / sum(weights) for w in weights))

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw a component for each point, then a point of that component."""
        first = leaves(x)[0]
        weights = torch.tensor(self.weights, device=first.device)
        which = torch.multinomial(weights, len(first), replacement=True, generator=generator)

        def pick(*drawn: Tensor) -> Tensor:
            index = which.reshape(1, -1, *(1,) * (drawn[0].ndim - 1))
            return torch.take_along_dim(torch.stack(drawn), index, dim=0).squeeze(0)

        return map_state(
            pick, *(part.sample_like(x, generator=generator) for part in self.components)
        )

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, shape ``(b,)``.

        Raises
        ------
        TypeError
            When a component has no density.
        """
        terms = []
        for weight, part in zip(self.weights or (), self.components, strict=True):
            log_prob = getattr(part, "log_prob", None)
            if log_prob is None:
                raise TypeError(f"a mixture has a density if its parts do, got {part!r}")
            terms.append(math.log(weight) + log_prob(x))
        return torch.logsumexp(torch.stack(terms), dim=0)


@dataclass(frozen=True, eq=False)
class Empirical(Source):
    """Points of a data set, drawn uniformly with replacement (image-to-image flows).

    Parameters
    ----------
    points : State, shape (n, *event)
        The data set; parts of one point stay together.
    """

    points: State

    def __post_init__(self) -> None:
        sizes = {part.shape[0] for part in leaves(self.points)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"an empirical source needs one number of points in all parts, got {sorted(sizes)}"
            )

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw as many points as ``x`` has, of its event shape."""
        held = leaves(self.points)[0]
        where = held.device if generator is None else generator.device
        size = (leaves(x)[0].shape[0],)
        index = torch.randint(len(held), size, generator=generator, device=where).to(held.device)

        def pick(part: Tensor, like: Tensor) -> Tensor:
            if part.shape[1:] != like.shape[1:]:
                raise ValueError(
                    f"event shape {tuple(like.shape[1:])} does not match the data set, got "
                    f"{tuple(part.shape[1:])}"
                )
            return part[index].to(like)

        return map_state(pick, self.points, x)


@dataclass(frozen=True)
class Prior(Source):
    """The canonical noise of a space: uniform rotations, part by part on a product.

    Parameters
    ----------
    space : Space
    """

    space: Space

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw one point for each point of ``x``."""
        if isinstance(self.space, Product) and isinstance(x, dict):
            parts = self.space.parts.items()
            drawn = {k: Prior(s).sample_like(x[k], generator=generator) for k, s in parts}
            return drawn  # type: ignore[return-value]

        def draw(part: Tensor) -> Any:
            shape = part.shape[: part.ndim - self.space.point_ndim]
            return self.space.prior(
                shape, generator=generator, device=part.device, dtype=part.dtype
            )

        return map_state(draw, x)


def like(value: Any, x: Tensor) -> Any:
    """Return numbers as a tensor like ``x``; one number stays as it is."""
    return x.new_tensor(value) if isinstance(value, tuple) else value


def _numbers(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.tolist()
    return tuple(_numbers(v) for v in value) if isinstance(value, Sequence) else float(value)


NORMAL = Normal()
"""The standard normal, shared: making one checks its scale."""
