"""Stacks of samples that agree along the stack: a prior for slices, total variation between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.inverse.consistency import Constrained
from rectiflow.inverse.measurement import Measurement
from rectiflow.inverse.operators import LinearOperator, conjugate_gradients


class Split(NamedTuple):
    """Where the alternating directions are: the sample, its differences, and their duals."""

    x: Tensor
    z: Tensor
    u: Tensor


@dataclass(frozen=True, eq=False)
class TotalVariation:
    r"""``min |A x - y|² / 2 + lam |D x|_1``, D the circular forward difference along axes.

    By the alternating direction method of multipliers: ``(A^T A + rho D^T D) x = A^T y + rho D^T (z
    - u)``, ``z = soft(D x + u, lam / rho)``, ``u += D x - z``.

    Parameters
    ----------
    measurement : Measurement
        Of a linear operator.
    axis : int or tuple of int, default 0
        Of the batch along which samples lie in a row: 0 when each slice is a row of the batch.
        Differences along several axes are stacked in front.
    lam : float, default 0.04
        Weight of the variation.
    rho : float, default 10
        Of the method; it changes the speed, not the result.
    inner : int, default 1
        Steps of conjugate gradients in each iteration.
    periodic : bool, default True
        Whether the last is followed by the first, as in the paper; else by nothing.

    References
    ----------
    Chung et al., "Solving 3D Inverse Problems using Pre-trained 2D Diffusion Models"
    (DiffusionMBIR, CVPR 2023). Boyd et al., "Distributed Optimization and Statistical Learning via
    ADMM" (2011).
    """

    measurement: Measurement
    axis: int | tuple[int, ...] = 0
    lam: float = 0.04
    rho: float = 10.0
    inner: int = 1
    periodic: bool = True

    def __post_init__(self) -> None:
        if not self.measurement.is_linear or self.lam < 0 or self.rho <= 0 or self.inner < 1:
            raise ValueError(
                "total variation takes a linear operator, lam >= 0, rho > 0 and inner >= 1, got "
                f"{type(self.measurement.operator).__name__}, {self.lam}, {self.rho}, {self.inner}."
            )

    def begin(self, x: Tensor) -> Split:
        """Return the first split of a stack."""
        zeros = torch.zeros_like(self._forward(x))
        return Split(x, zeros, zeros)

    def iterate(self, split: Split) -> Split:
        """Make one iteration."""
        operator = self.measurement.operator
        assert isinstance(operator, LinearOperator)

        def normal(rows: Tensor) -> Tensor:
            x = rows[0]
            smooth = self._back(self._forward(x))
            return (operator.adjoint(operator(x)) + self.rho * smooth)[None]

        right = operator.adjoint(self.measurement.y.to(split.x)).expand_as(split.x)
        right = right + self.rho * self._back(split.z - split.u)
        # The whole stack is one system: one row.
        x = conjugate_gradients(normal, right[None], start=split.x[None], steps=self.inner)[0]
        jumps = self._forward(x)
        raised = jumps + split.u
        z = raised.sign() * (raised.abs() - self.lam / self.rho).clamp_min(0)
        return Split(x, z, split.u + jumps - z)

    def solve(self, x: Tensor, iterations: int) -> Split:
        """Make iterations from a stack."""
        split = self.begin(x)
        for _ in range(iterations):
            split = self.iterate(split)
        return split

    def correction(self) -> Constrained:
        """Return a correction for one run: an iteration on each data prediction.

        Differences and duals are kept from move to move, so that each run needs its own. The noise
        of the same evaluation is put back, ``x = t D' + (1 - t) E``; the paper works on the noisy
        state itself, which only its variance-exploding path allows.
        """
        return Constrained(self._warm())

    def _warm(self) -> Callable[[Any], Any]:
        split: Split | None = None

        def project(data: Tensor) -> Tensor:
            nonlocal split
            split = self.iterate(self.begin(data) if split is None else split._replace(x=data))
            return split.x

        return project

    def _forward(self, x: Tensor) -> Tensor:
        if isinstance(self.axis, int):
            return self._ended(x.roll(-1, self.axis) - x, self.axis)
        return torch.stack([self._ended(x.roll(-1, axis) - x, axis) for axis in self.axis])

    def _back(self, z: Tensor) -> Tensor:
        if isinstance(self.axis, int):
            ended = self._ended(z, self.axis)
            return ended.roll(1, self.axis) - ended
        parts = [self._ended(part, axis) for part, axis in zip(z, self.axis, strict=True)]
        rolled = [part.roll(1, axis) - part for part, axis in zip(parts, self.axis, strict=True)]
        return torch.stack(rolled).sum(0)

    def _ended(self, jumps: Tensor, axis: int) -> Tensor:
        """Leave out the jump from the last to the first, unless the axis is a circle."""
        if self.periodic:
            return jumps
        return jumps.index_fill(axis, torch.tensor([jumps.shape[axis] - 1], device=jumps.device), 0)
