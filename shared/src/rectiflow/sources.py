"""What noise is drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rectiflow.spaces import Product, Space
from rectiflow.states import State, leaves, map_state


class Source(ABC):
    """The law of ``x0``."""

    @abstractmethod
    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Draw points of shape ``(b, *event)``."""

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw one point for each point of ``x``, of the same shape, device and dtype."""

        def draw(part: Tensor) -> Tensor:
            where = {"device": part.device, "dtype": part.dtype}
            return _tensor(self.sample(part.shape, generator=generator, **where))  # type: ignore[arg-type]

        return map_state(draw, x)


class Normal(Source):
    """A normal distribution with independent coordinates.

    Parameters
    ----------
    mean : float or Tensor, default 0
        Broadcast to the event shape.
    scale : float or Tensor, default 1
        Standard deviation, broadcast to the event shape; positive.

    Examples
    --------
    >>> import torch
    >>> Normal(scale=2.0).log_prob(torch.zeros(1, 3))
    tensor([-4.8363])
    """

    def __init__(self, mean: float | Tensor = 0.0, scale: float | Tensor = 1.0) -> None:
        if not bool((torch.as_tensor(scale) > 0).all()):
            raise ValueError(f"the scale of a normal source must be positive, got {scale}")
        self.mean = mean
        self.scale = scale

    def __repr__(self) -> str:
        return f"Normal(mean={self.mean}, scale={self.scale})"

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw ``mean + scale z`` with standard-normal z of ``shape``."""
        z = torch.randn(*shape, generator=generator, device=device, dtype=dtype)
        mean, scale = _as(self.mean, z), _as(self.scale, z)
        return mean + scale * z

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, shape ``(b,)``, summed over the event."""
        mean, scale = _as(self.mean, x), _as(self.scale, x)
        z = (x - mean) / scale
        log_scale = scale.log() if isinstance(scale, Tensor) else math.log(scale)
        terms = -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)
        return terms.reshape(len(x), -1).sum(1)

    def score(self, x: Tensor) -> Tensor:
        """Return ``grad log p(x) = -(x - mean) / scale²``."""
        return -(x - _as(self.mean, x)) / _as(self.scale, x) ** 2

    def at_score(self, score: Tensor) -> Tensor:
        """Return the point with this score, the inverse of :meth:`score`."""
        return _as(self.mean, score) - _as(self.scale, score) ** 2 * score


class Mixture(Source):
    """A mixture of sources.

    Parameters
    ----------
    components : sequence of Source
        At least one; :meth:`log_prob` needs one that has it in each.
    weights : sequence of float, optional
        Positive; normalised to sum to one. Equal by default.
    """

    def __init__(
        self, components: Sequence[Source], weights: Sequence[float] | None = None
    ) -> None:
        self.components = tuple(components)
        weights = [1.0] * len(self.components) if weights is None else list(weights)
        if not self.components or len(weights) != len(self.components) or min(weights) <= 0:
            raise ValueError(
                f"a mixture needs one positive weight per component, got {len(self.components)} "
                f"components and weights {weights}"
            )
        self.weights = tuple(weight / sum(weights) for weight in weights)

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw a component for each point, then a point of that component."""
        weights = torch.tensor(self.weights, device=device)
        which = torch.multinomial(weights, shape[0], replacement=True, generator=generator)
        drawn = [
            _tensor(part.sample(shape, generator=generator, device=device, dtype=dtype))
            for part in self.components
        ]
        index = which.reshape(1, -1, *(1,) * (len(shape) - 1))
        return torch.take_along_dim(torch.stack(drawn), index, dim=0).squeeze(0)

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, shape ``(b,)``.

        Raises
        ------
        TypeError
            When a component has no density.
        """
        terms = []
        for weight, part in zip(self.weights, self.components, strict=True):
            log_prob = getattr(part, "log_prob", None)
            if log_prob is None:
                raise TypeError(f"a mixture has a density if its parts do, got {part!r}")
            terms.append(math.log(weight) + log_prob(x))
        return torch.logsumexp(torch.stack(terms), dim=0)


class Empirical(Source):
    """Points of a data set, drawn uniformly with replacement (image-to-image flows).

    Parameters
    ----------
    points : State, shape (n, *event)
        The data set.
    """

    def __init__(self, points: State) -> None:
        sizes = {part.shape[0] for part in leaves(points)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(
                f"an empirical source needs one number of points in all parts, got {sorted(sizes)}"
            )
        self.points = points
        (self.size,) = sizes

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw ``shape[0]`` points; the rest of ``shape`` must be the data's event shape."""
        points = self.points
        if isinstance(points, dict) or tuple(points.shape[1:]) != tuple(shape[1:]):
            found = sorted(points) if isinstance(points, dict) else tuple(points.shape[1:])
            raise ValueError(
                f"event shape {tuple(shape[1:])} does not match the data set, got {found}. "
                "Use sample_like for points of several parts."
            )
        return points[self._draw(shape[0], generator)].to(device=device, dtype=dtype)

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw as many points as ``x`` has; parts of one point stay together."""
        index = self._draw(leaves(x)[0].shape[0], generator)
        return map_state(lambda part, like: part[index].to(like), self.points, x)

    def _draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        device = leaves(self.points)[0].device
        where = device if generator is None else generator.device
        return torch.randint(self.size, (count,), generator=generator, device=where).to(device)


class Prior(Source):
    """The canonical noise of a space: uniform rotations, part by part on a product.

    Parameters
    ----------
    space : Space
    """

    def __init__(self, space: Space) -> None:
        self.space = space

    def __repr__(self) -> str:
        return f"Prior({type(self.space).__name__}())"

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Draw points; ``shape`` is batch and event, without a point's own coordinates."""
        return self.space.prior(shape, generator=generator, device=device, dtype=dtype)

    def sample_like(self, x: State, *, generator: torch.Generator | None = None) -> State:
        """Draw one point for each point of ``x``."""
        if isinstance(self.space, Product) and isinstance(x, dict):
            return {
                name: _tensor(Prior(space).sample_like(x[name], generator=generator))
                for name, space in self.space.parts.items()
            }

        def draw(part: Tensor) -> Tensor:
            shape = part.shape[: part.ndim - self.space.point_ndim]
            return _tensor(
                self.sample(shape, generator=generator, device=part.device, dtype=part.dtype)
            )

        return map_state(draw, x)


class FromCallable(Source):
    """A source from a function.

    Parameters
    ----------
    draw : callable
        ``draw(shape, *, generator, device, dtype) -> Tensor``.
    log_density : callable, optional
        ``log_density(x) -> (b,)``.
    """

    def __init__(
        self,
        draw: Callable[..., Tensor],
        log_density: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.draw = draw
        self.log_density = log_density

    def sample(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Call the function, and check that it kept to ``shape``."""
        x = self.draw(shape, generator=generator, device=device, dtype=dtype)
        if tuple(x.shape) != tuple(shape):
            raise ValueError(
                f"the source's function returned shape {tuple(x.shape)}; expected {tuple(shape)}"
            )
        return x

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density, shape ``(b,)``.

        Raises
        ------
        TypeError
            When no ``log_density`` was given.
        """
        if self.log_density is None:
            raise TypeError("this source has no density; expected log_density at construction")
        return self.log_density(x)


def _as(value: float | Tensor, like: Tensor) -> float | Tensor:
    return value.to(like) if isinstance(value, Tensor) else value


def _tensor(x: State) -> Tensor:
    """Narrow a state that this module knows to be one tensor."""
    if isinstance(x, dict):
        raise TypeError(f"expected a source of single tensors, got parts {sorted(x)}")
    return x
