"""How noise is paired with data in training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self, TypeAlias

import torch
from torch import Tensor

from rectiflow.premetrics import Mask
from rectiflow.sources import Normal, Source, like
from rectiflow.spaces import Space
from rectiflow.states import State, leaves, map_state, squares

Cost: TypeAlias = Callable[[State, State], Tensor]
"""``cost(x0, x1) -> (b, b)``: entry i, j is the cost of sending ``x0[i]`` to ``x1[j]``."""

Schedule: TypeAlias = Callable[[int], float]
"""A number for each training step."""


class Coupling:
    """The joint law of noise and data, given a batch of data; a frozen dataclass.

    Only noise is drawn or permuted, never data, so conditions that belong to the data stay with
    it. Subclasses say how noise is made for data (:meth:`fresh`), which may depend on the data, or
    what becomes of noise that is stored with it (:meth:`stored`).
    """

    in_loader: ClassVar[bool] = False
    """Whether the pairing is work for the loader's processes rather than for the step."""

    def draw(
        self,
        x1: State,
        source: Source,
        *,
        x0: State | None = None,
        mask: Mask = None,
        generator: torch.Generator | None = None,
    ) -> State:
        """Return the noise to pair with ``x1``, row by row.

        Parameters
        ----------
        x1 : State, shape (b, *event)
        source : Source
            Where fresh noise comes from.
        x0 : State, optional
            Noise that is paired with the data already, such as a stored pair's.
        mask : Tensor or mapping, optional
            True where ``x1`` is real.
        generator : torch.Generator, optional

        Raises
        ------
        ValueError
            When ``x0`` is missing and fresh noise would silently undo the pairing.
        """
        if x0 is None:
            return self.fresh(x1, source, mask, generator)
        return self.stored(x0, source, generator)

    def at(self, step: int) -> Self:
        """Return the coupling in force at a training step; most do not depend on it."""
        del step
        return self

    def fresh(
        self, x1: State, source: Source, mask: Mask, generator: torch.Generator | None
    ) -> State:
        """Draw noise for data that has none."""
        raise ValueError(
            f"{type(self).__name__} needs the stored noise of each sample, got x0=None. Pass "
            "x0 from the pair store, or use Independent() to draw fresh noise."
        )

    def stored(self, x0: State, source: Source, generator: torch.Generator | None) -> State:
        """Return the noise to use where the data comes with ``x0``."""
        return x0


@dataclass(frozen=True)
class Independent(Coupling):
    """Noise that knows nothing of the data it is paired with."""

    def fresh(
        self, x1: State, source: Source, mask: Mask, generator: torch.Generator | None
    ) -> State:
        """Draw from the source."""
        return source.sample_like(x1, generator=generator)


@dataclass(frozen=True)
class Paired(Coupling):
    """Stored pairs, as in reflow: noise comes with the data or not at all."""


@dataclass(frozen=True)
class SquaredDistance:
    """The cost ``|x0[i] - x1[j]|²`` over all parts."""

    def __call__(self, x0: State, x1: State) -> Tensor:
        """Return the cost of each pair, shape ``(b, b)``."""
        costs = []
        for p, q in zip(leaves(x0), leaves(x1), strict=True):
            flat_p, flat_q = (part.reshape(len(part), -1).double() for part in (p, q))
            costs.append(torch.cdist(flat_p, flat_q).square())
        return torch.stack(costs).sum(0)


@dataclass(frozen=True)
class GeodesicCost:
    """The cost ``|log(x0[i], x1[j])|²`` of a space, for :class:`MinibatchOT`."""

    space: Space

    def __call__(self, x0: State, x1: State) -> Tensor:
        """Return the cost of each pair, shape ``(b, b)``."""
        rows = []
        for i in range(leaves(x0)[0].shape[0]):
            start = map_state(lambda p, q, i=i: p[i : i + 1].expand_as(q), x0, x1)
            rows.append(squares(self.space.log(start, x1)))
        return torch.stack(rows)


@dataclass(frozen=True)
class MinibatchOT(Coupling):
    """Exact optimal assignment between the noise and the data of a batch.

    Both batches are kept whole: noise is permuted so that the summed cost is least. On conditional
    data the assignment makes noise depend on the condition, which hurts; use
    :class:`Independent` there, or a cost that keeps the classes apart.

    Parameters
    ----------
    cost : callable, default :class:`SquaredDistance`
        ``cost(x0, x1) -> (b, b)``; :class:`GeodesicCost` on curved spaces.

    Notes
    -----
    O(b³) on the CPU: about 2 ms at b = 128 and 100 ms at b = 512.
    :class:`~rectiflow.training.data.FlowData` has it done where batches are loaded.

    References
    ----------
    Pooladian et al., "Multisample Flow Matching" (ICML 2023); Tong et al., "Improving and
    Generalizing Flow-Based Generative Models with Minibatch Optimal Transport" (TMLR 2024).
    """

    cost: Cost = field(default_factory=SquaredDistance)
    in_loader = True

    def fresh(
        self, x1: State, source: Source, mask: Mask, generator: torch.Generator | None
    ) -> State:
        """Draw from the source, in the order that fits ``x1`` best."""
        return self.assign(source.sample_like(x1, generator=generator), x1)

    def assign(self, x0: State, x1: State) -> State:
        """Return the rows of ``x0`` in the order that fits ``x1`` best.

        Raises
        ------
        ValueError
            When the cost is not a finite ``(b, b)`` matrix.
        """
        from scipy.optimize import linear_sum_assignment

        cost = self.cost(x0, x1).detach().double().cpu()
        size = leaves(x1)[0].shape[0]
        if cost.shape != (size, size) or not bool(cost.isfinite().all()):
            raise ValueError(
                f"the coupling cost must be a finite matrix of shape {(size, size)}, got shape "
                f"{tuple(cost.shape)} with finite={bool(cost.isfinite().all())}"
            )
        # Transposed, row j is a data point and its column is the noise that goes to it.
        _, order = linear_sum_assignment(cost.T.numpy())
        index = torch.from_numpy(order)
        return map_state(lambda part: part[index.to(part.device)], x0)


@dataclass(frozen=True)
class Annealed(Coupling):
    r"""Stored pairs whose noise is gradually freed of, or tied to, fresh noise.

    :math:`x_0^\beta = \sqrt{1 - \beta^2}\, x_0 + \beta\, x_0'` with fresh :math:`x_0'`; at
    :math:`\beta = 1` noise and data are independent, at 0 they are the stored pairs. The law of
    :math:`x_0^\beta` is the source at every :math:`\beta`, which needs a normal source.

    Parameters
    ----------
    beta : callable
        Schedule over training steps with values in ``[0, 1]``, such as :class:`LinearAnnealing`.
    step : int, default 0
        The step in force; :meth:`at` returns the coupling of another one.

    References
    ----------
    Zhu et al., "SlimFlow: Training Smaller One-Step Diffusion Models with Rectified Flow"
    (ECCV 2024), Eq. (8).
    """

    beta: Schedule
    step: int = 0

    def at(self, step: int) -> Self:
        """Return the coupling at a training step."""
        return replace(self, step=step)

    def stored(self, x0: State, source: Source, generator: torch.Generator | None) -> State:
        """Mix the stored noise with fresh noise.

        Raises
        ------
        ValueError
            When the source is not normal, or beta leaves ``[0, 1]``.
        """
        if not isinstance(source, Normal):
            raise ValueError(
                f"annealed pairs need a normal source, got {source!r}; expected "
                "rectiflow.Normal, whose law does not change when two draws are mixed"
            )
        beta = self.beta(self.step)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta must stay in [0, 1], got {beta} at step {self.step}")
        if beta == 0:
            return x0
        keep = math.sqrt(1 - beta**2)

        def blend(old: Tensor, new: Tensor) -> Tensor:
            mean = like(source.mean, old)
            return mean + keep * (old - mean) + beta * (new - mean)

        return map_state(blend, x0, source.sample_like(x0, generator=generator))


@dataclass(frozen=True)
class _Annealing(ABC):
    warmup: int

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"annealing needs at least one warm-up step, got {self.warmup}")

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return beta at a training step."""


class LinearAnnealing(_Annealing):
    """``beta(k) = 1 - min(1, k / warmup)``."""

    def __call__(self, step: int) -> float:
        """Return beta at a training step."""
        return 1 - min(1.0, step / self.warmup)


class CosineAnnealing(_Annealing):
    """``beta(k) = (1 + cos(pi min(1, k / warmup))) / 2``."""

    def __call__(self, step: int) -> float:
        """Return beta at a training step."""
        return (1 + math.cos(math.pi * min(1.0, step / self.warmup))) / 2


class ExponentialAnnealing(_Annealing):
    """``beta(k) = exp(-k / warmup)``, which never ends in exact pairs."""

    def __call__(self, step: int) -> float:
        """Return beta at a training step."""
        return math.exp(-step / self.warmup)
