"""What a wrong velocity costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from rectiflow.states import State

Mask: TypeAlias = Tensor | Mapping[str, Tensor] | None
"""True where real, shape ``(b, *leading event axes)``; one for all parts or one per
masked part."""


class Premetric(ABC):
    """A cost per sample, zero only for equal arguments."""

    @abstractmethod
    def __call__(self, prediction: State, target: State, mask: Mask = None) -> Tensor:
        """Return the cost of each sample.

        Parameters
        ----------
        prediction, target : State, shape (b, *event)
        mask : Tensor or mapping, shape (b, *leading event axes), optional
            True where real. Masked entries count neither in sums nor in sizes; a sample without
            any real entry costs 0. One for all parts of a dict, or one per masked part.

        Returns
        -------
        Tensor, shape (b,)

        Raises
        ------
        ValueError
            When shapes or parts do not fit.
        """


class DifferencePremetric(Premetric):
    """A premetric that is a function of the difference of its arguments.

    Half precision is raised to float32 before the difference is taken. On dict states the costs
    of the parts are added; :class:`PartWeights` weighs them.
    """

    def __call__(self, prediction: State, target: State, mask: Mask = None) -> Tensor:
        """Return the cost of each sample, shape ``(b,)``."""
        if isinstance(target, dict):
            _check_parts(prediction, list(target))
            _check_mask(mask, list(target))
            parts = [self(prediction[k], target[k], _mask_of(mask, k)) for k in target]  # type: ignore[index]
            return torch.stack(parts).sum(0)
        if isinstance(prediction, dict) or isinstance(mask, Mapping):
            raise ValueError(
                "prediction and mask have named parts but the target is one tensor; "
                "expected all of one form"
            )
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
                f"{tuple(target.shape)}"
            )
        wide = torch.promote_types(prediction.dtype, target.dtype)
        wide = torch.promote_types(wide, torch.float32)
        return self._masked(prediction.to(wide) - target.to(wide), mask)

    def _masked(self, error: Tensor, mask: Tensor | None) -> Tensor:
        batch, size = error.shape[0], error[0].numel()
        if mask is None:
            return self.cost(error.reshape(batch, -1), error.new_full((batch,), size))
        if mask.dtype != torch.bool or mask.ndim < 1 or mask.shape != error.shape[: mask.ndim]:
            raise ValueError(
                f"a mask must be boolean and fit the leading axes of {tuple(error.shape)}, got "
                f"{mask.dtype} of shape {tuple(mask.shape)}"
            )
        # Selected, not multiplied: padding may hold NaN.
        full = mask.reshape(*mask.shape, *(1,) * (error.ndim - mask.ndim))
        error = torch.where(full, error, 0.0).reshape(batch, -1)
        count = mask.reshape(batch, -1).sum(1) * (size // mask[0].numel())
        return self.cost(error, count.clamp(min=1).to(error.dtype))

    @abstractmethod
    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the cost of ``error (b, n)``, zero where masked, with ``count (b,)`` real entries.

        Returns
        -------
        Tensor, shape (b,)
        """


@dataclass(frozen=True)
class MeanSquared(DifferencePremetric):
    """The mean of squared errors."""

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return ``|e|² / n``."""
        return error.square().sum(1) / count


@dataclass(frozen=True)
class RootMeanSquared(DifferencePremetric):
    """The root of the mean of squared errors, per sample."""

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return ``|e| / sqrt(n)``; its gradient at a zero error is zero."""
        return torch.linalg.vector_norm(error, dim=1) / count.sqrt()


class HuberRule(ABC):
    """How the width c of a pseudo-Huber cost follows from the number of entries."""

    @abstractmethod
    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the cost of ``error (b, n)`` with ``count (b,)`` real entries."""


@dataclass(frozen=True)
class IctHuber(HuberRule):
    """``sqrt(|e|² + c²) - c`` with ``c = factor sqrt(n)``.

    References
    ----------
    Song and Dhariwal, "Improved Techniques for Training Consistency Models" (ICLR 2024).
    """

    factor: float = 0.00054

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the class formula."""
        return _huber(error.square().sum(1), self.factor * count.sqrt())


@dataclass(frozen=True)
class RfppHuber(HuberRule):
    """``(sqrt(|e|² + c²) - c) / n`` with ``c = factor n``, as the rfpp code has it.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024); the paper states
    iCT's c, its official code this one.
    """

    factor: float = 0.00054

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the class formula."""
        return _huber(error.square().sum(1), self.factor * count) / count


@dataclass(frozen=True)
class ElementwiseHuber(HuberRule):
    """The mean over entries of ``sqrt(e² + c²) - c``.

    References
    ----------
    Wang et al., "Rectified Diffusion" (ICLR 2025), official code.
    """

    c: float = 1e-3

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the class formula."""
        return _huber(error.square(), torch.full_like(error, self.c)).sum(1) / count


@dataclass(frozen=True)
class PseudoHuber(DifferencePremetric):
    """Quadratic for small errors and linear for large ones, so that outliers weigh less.

    Parameters
    ----------
    rule : HuberRule, default :class:`IctHuber`
        The width c and the normalisation; :class:`RfppHuber` or :class:`ElementwiseHuber`.
    """

    rule: HuberRule = field(default_factory=IctHuber)

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the cost that the rule gives."""
        return self.rule.cost(error, count)


class PartWeights(Premetric):
    """A weighted sum over the parts of a dict state.

    Parameters
    ----------
    parts : mapping of str to (float, Premetric)
        Weight and cost of each part; all parts must be named.

    Examples
    --------
    >>> se3 = PartWeights({"trans": (1.0, MeanSquared()), "rot": (0.5, MeanSquared())})
    """

    def __init__(self, parts: Mapping[str, tuple[float, Premetric]]) -> None:
        self.parts = dict(parts)

    def __call__(self, prediction: State, target: State, mask: Mask = None) -> Tensor:
        """Return the weighted sum over the parts, shape ``(b,)``."""
        for state in (prediction, target):
            _check_parts(state, list(self.parts))
        _check_mask(mask, list(self.parts))
        costs = [
            weight * premetric(prediction[name], target[name], _mask_of(mask, name))  # type: ignore[index]
            for name, (weight, premetric) in self.parts.items()
        ]
        return torch.stack(costs).sum(0)


def _check_parts(state: State, names: list[str]) -> None:
    found = sorted(state) if isinstance(state, dict) else "one tensor"
    if found != sorted(names):
        raise ValueError(f"the states must have parts {sorted(names)}, got {found}")


def _huber(squared: Tensor, c: Tensor) -> Tensor:
    """Return ``sqrt(squared + c²) - c`` without cancellation for small errors."""
    return squared / ((squared + c * c).sqrt() + c)


def _check_mask(mask: Mask, names: list[str]) -> None:
    if isinstance(mask, Mapping) and not mask.keys() <= set(names):
        raise ValueError(f"masks must be named like the parts {sorted(names)}, got {sorted(mask)}")


def _mask_of(mask: Mask, name: str) -> Tensor | None:
    return mask.get(name) if isinstance(mask, Mapping) else mask
