"""What a wrong velocity costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor

from rectiflow.states import State, check_like

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
        check_like(prediction, target, "the prediction")
        if isinstance(target, dict):
            _check_mask(mask, list(target))
            parts = [self(prediction[k], target[k], _mask_of(mask, k)) for k in target]  # type: ignore[index]
            return torch.stack(parts).sum(0)
        assert isinstance(prediction, Tensor)
        if isinstance(mask, Mapping):
            raise ValueError(
                f"the state is one tensor but the mask has parts {sorted(mask)}; expected one mask"
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


@dataclass(frozen=True)
class PseudoHuber(DifferencePremetric):
    """``sqrt(|e|² + c²) - c`` with ``c = factor n^power``: quadratic, then linear in the error.

    The defaults are iCT's; ``PseudoHuber(power=1, mean=True)`` is what the rfpp code has, while its
    paper states iCT's c.

    Parameters
    ----------
    factor : float, default 0.00054
    power : float, default 0.5
        How the width grows with the number of entries n.
    mean : bool, default False
        Divide by n.

    References
    ----------
    Song and Dhariwal, "Improved Techniques for Training Consistency Models" (ICLR 2024);
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024).
    """

    factor: float = 0.00054
    power: float = 0.5
    mean: bool = False

    def cost(self, error: Tensor, count: Tensor) -> Tensor:
        """Return the class formula."""
        cost = _huber(error.square().sum(1), self.factor * count**self.power)
        return cost / count if self.mean else cost


@dataclass(frozen=True)
class ElementwiseHuber(DifferencePremetric):
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

    parts: Mapping[str, tuple[float, Premetric]] = field(hash=False)

    def __call__(self, prediction: State, target: State, mask: Mask = None) -> Tensor:
        """Return the weighted sum over the parts, shape ``(b,)``."""
        check_like(prediction, target, "the prediction")
        if not isinstance(target, dict) or target.keys() != self.parts.keys():
            found = sorted(target) if isinstance(target, dict) else "one tensor"
            raise ValueError(f"the states must have parts {sorted(self.parts)}, got {found}")
        _check_mask(mask, list(self.parts))
        costs = [
            weight * premetric(prediction[name], target[name], _mask_of(mask, name))  # type: ignore[index]
            for name, (weight, premetric) in self.parts.items()
        ]
        return torch.stack(costs).sum(0)


def _huber(squared: Tensor, c: Tensor) -> Tensor:
    """Return ``sqrt(squared + c²) - c`` without cancellation for small errors."""
    return squared / ((squared + c * c).sqrt() + c)


def _check_mask(mask: Mask, names: list[str]) -> None:
    if isinstance(mask, Mapping) and not mask.keys() <= set(names):
        raise ValueError(f"masks must be named like the parts {sorted(names)}, got {sorted(mask)}")


def _mask_of(mask: Mask, name: str) -> Tensor | None:
    return mask.get(name) if isinstance(mask, Mapping) else mask
