"""Linear operators: what an instrument makes of a sample, with its adjoint and its inverses.

Longer than 400 lines because the operators are small and are read beside each other.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

_LOOSE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Relative tolerance of the dot-product test, by dtype."""


class LinearOperator(ABC):
    """A linear map of events, ``(b, *event) -> (b, *reading)``; rows do not mix.

    ``operator(x)`` applies it. ``first @ second`` applies the second, then the first. Operators
    are deterministic: noise belongs to the measurement.
    """

    tight: float | None = None
    """The number c for which ``A^T A`` is c times a projection, where there is one."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return ``A x``."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``A^T y``: ``<A x, y> = <x, A^T y>``."""

    def solve(self, b: Tensor, rho: float, *, start: Tensor | None = None) -> Tensor:
        """Return the z of ``(A^T A + rho I) z = b``; with ``rho = 0`` the shortest, for b in range.

        In closed form where ``A^T A`` is a multiple of a projection, else by conjugate gradients.
        """
        if self.tight is not None:
            seen = self.adjoint(self(b)) / self.tight
            rest = 0.0 if rho == 0 else (b - seen) / rho
            return seen / (self.tight + rho) + rest
        return conjugate_gradients(lambda z: self.adjoint(self(z)) + rho * z, b, start=start)

    def pinv(self, y: Tensor) -> Tensor:
        """Return the shortest x that comes nearest to ``A x = y``."""
        return self.solve(self.adjoint(y), 0.0)

    def norm(self, like: Tensor, *, steps: int = 50) -> float:
        """Return the largest singular value, by power iteration on one event like ``like``."""
        x = torch.ones_like(like[:1]) + 0.5 * torch.arange(like[:1].numel()).to(like).cos().reshape(
            like[:1].shape
        )
        for _ in range(steps):
            x = self.adjoint(self(x / x.norm()))
        return math.sqrt(x.norm().item())

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composed(self, other)


@dataclass(frozen=True, eq=False)
class Composed(LinearOperator):
    """``first`` after ``second``; made by ``first @ second``."""

    first: LinearOperator
    second: LinearOperator

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``first(second(x))``."""
        return self.first(self.second(x))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``second^T first^T y``."""
        return self.second.adjoint(self.first.adjoint(y))


@dataclass(frozen=True, eq=False)
class Mask(LinearOperator):
    """What is kept of an event, with zeros elsewhere.

    Parameters
    ----------
    keep : Tensor
        True (or 1) where it is measured; broadcast to an event.
    """

    keep: Tensor
    tight = 1.0

    def __post_init__(self) -> None:
        if not bool(((self.keep == 0) | (self.keep == 1)).all()):
            raise ValueError("a mask must hold only 0 and 1, got other values; expected booleans.")
        object.__setattr__(self, "keep", self.keep.bool())

    def __call__(self, x: Tensor) -> Tensor:
        """Return the kept values, and 0 elsewhere."""
        last = x.shape[1:][-self.keep.ndim :] if self.keep.ndim else ()
        if self.keep.ndim >= x.ndim or any(
            k not in (1, n) for k, n in zip(self.keep.shape, last, strict=True)
        ):
            raise ValueError(
                f"a mask must fit the event, got shape {tuple(self.keep.shape)} for events of "
                f"shape {tuple(x.shape[1:])}."
            )
        return torch.where(self.keep.to(x.device), x, torch.zeros_like(x))

    adjoint = __call__  # type: ignore[assignment]  # a mask is its own


@dataclass(frozen=True, eq=False)
class Matrix(LinearOperator):
    """A matrix, dense or sparse, that acts on the last axes of an event, taken together.

    Parameters
    ----------
    rows : Tensor, shape (m, n)
    shape : tuple of int, optional
        Of the axes whose product is n; ``(n,)`` if absent.
    """

    rows: Tensor
    shape: tuple[int, ...] | None = None
    _back: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        shape = (self.rows.shape[1],) if self.shape is None else tuple(self.shape)
        if math.prod(shape) != self.rows.shape[1]:
            raise ValueError(
                f"a matrix of {self.rows.shape[1]} columns cannot act on axes {shape}; expected "
                f"axes with a product of {self.rows.shape[1]}."
            )
        object.__setattr__(self, "shape", shape)
        back = self.rows.transpose(0, 1)
        if self.rows.is_sparse:  # compressed rows, both ways, are many times faster
            with warnings.catch_warnings():  # torch calls them a beta, once per process
                warnings.simplefilter("ignore")
                back = back.coalesce().to_sparse_csr()
                object.__setattr__(self, "rows", self.rows.coalesce().to_sparse_csr())
        object.__setattr__(self, "_back", back)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the product, its rows in place of the axes."""
        assert self.shape is not None
        count = len(self.shape)
        if x.ndim <= count or tuple(x.shape[-count:]) != self.shape:
            raise ValueError(
                f"the matrix acts on axes {self.shape}, got events of shape {tuple(x.shape[1:])}."
            )
        return self._apply(self.rows, x.flatten(-count))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the product with the transposed matrix."""
        assert self.shape is not None
        if y.shape[-1] != self.rows.shape[0]:
            raise ValueError(
                f"the matrix has {self.rows.shape[0]} rows, got readings of shape "
                f"{tuple(y.shape[1:])}."
            )
        return self._apply(self._back, y).unflatten(-1, self.shape)

    def _apply(self, rows: Tensor, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return (rows.to(x) @ flat.T).T.reshape(*x.shape[:-1], -1)


@dataclass(frozen=True, eq=False)
class Blur(LinearOperator):
    """Convolution of the last axes with a kernel, of the size of the event.

    Parameters
    ----------
    kernel : Tensor
        One axis for each that is blurred, of odd sizes; its middle is the origin.
    periodic : bool, default True
        Whether the event repeats; else there are zeros beyond it.
    """

    kernel: Tensor
    periodic: bool = True

    def __post_init__(self) -> None:
        if any(n % 2 == 0 for n in self.kernel.shape):
            raise ValueError(
                f"a kernel must have odd sizes, got {tuple(self.kernel.shape)}: its middle is the "
                "origin."
            )

    def __call__(self, x: Tensor) -> Tensor:
        """Return the convolution."""
        return self._filter(x, adjoint=False)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the correlation."""
        return self._filter(y, adjoint=True)

    def solve(self, b: Tensor, rho: float, *, start: Tensor | None = None) -> Tensor:
        """Return the z of ``(A^T A + rho I) z = b``: in closed form where the event repeats."""
        if not self.periodic:
            return super().solve(b, rho, start=start)
        gain = self._spectrum(b).abs().square() + rho
        gain = torch.where(gain > gain.max() * 1e-12, 1 / gain, 0)
        return self._inverse(torch.fft.rfftn(b, dim=self._axes) * gain, b)

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(-self.kernel.ndim, 0))

    def _size(self, x: Tensor) -> list[int]:
        sizes = [x.shape[i] for i in self._axes]
        if any(k > n for k, n in zip(self.kernel.shape, sizes, strict=True)):
            raise ValueError(
                f"the kernel must not be larger than the event, got {tuple(self.kernel.shape)} for "
                f"axes of {tuple(sizes)}."
            )
        if self.periodic:
            return sizes
        return [n + k - 1 for n, k in zip(sizes, self.kernel.shape, strict=True)]

    def _spectrum(self, x: Tensor) -> Tensor:
        size = self._size(x)
        wide = x.new_zeros(size)
        wide[tuple(slice(k) for k in self.kernel.shape)] = self.kernel.to(x)
        shifts = [-(k // 2) for k in self.kernel.shape]
        return torch.fft.rfftn(wide.roll(shifts, self._axes))

    def _inverse(self, spectrum: Tensor, like: Tensor) -> Tensor:
        made = torch.fft.irfftn(spectrum, s=self._size(like), dim=self._axes)
        return made[(..., *(slice(like.shape[i]) for i in self._axes))]

    def _filter(self, x: Tensor, *, adjoint: bool) -> Tensor:
        by = self._spectrum(x)
        seen = torch.fft.rfftn(x, s=self._size(x), dim=self._axes)
        return self._inverse(seen * (by.conj() if adjoint else by), x)


@dataclass(frozen=True, eq=False)
class Downsample(LinearOperator):
    """Means of blocks: average pooling of the last axes.

    Parameters
    ----------
    factors : tuple of int
        Size of a block along each of the last axes.
    """

    factors: tuple[int, ...]

    @property
    def tight(self) -> float:  # type: ignore[override]
        """One over the size of a block."""
        return 1 / math.prod(self.factors)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the means of blocks."""
        for i, factor in zip(range(-len(self.factors), 0), self.factors, strict=True):
            if x.shape[i] % factor:
                raise ValueError(
                    f"blocks of {self.factors} must fill the event, got axes of "
                    f"{tuple(x.shape[-len(self.factors) :])}."
                )
            x = x.unflatten(i, (-1, factor)).mean(i)
        return x

    def adjoint(self, y: Tensor) -> Tensor:
        """Return blocks of equal shares."""
        for i, factor in zip(range(-len(self.factors), 0), self.factors, strict=True):
            y = y.repeat_interleave(factor, i) / factor
        return y


@dataclass(frozen=True, eq=False)
class STFT(LinearOperator):
    """The short-time Fourier transform of the last axis, as an isometry: ``A^T A = I``.

    Frames reach beyond both ends, the window is scaled so that its squares sum to one over the
    frames, and frequencies that stand for two count twice. ``Mask(keep) @ STFT(...)`` is a mask of
    the spectrogram. Readings are real and imaginary parts, ``(..., frames, size/2 + 1, 2)``.

    Parameters
    ----------
    samples : int
        Of an event.
    size : int
        Samples of a frame, even.
    hop : int
        Between frames; a divisor of the size, at most half of it.
    """

    samples: int
    size: int = 512
    hop: int = 128
    tight = 1.0

    def __post_init__(self) -> None:
        if self.size % 2 or self.hop < 1 or self.size % self.hop or 2 * self.hop > self.size:
            raise ValueError(
                f"frames must be even and hops divide them twice or more, got size={self.size}, "
                f"hop={self.hop}; expected e.g. size=512, hop=128."
            )

    @property
    def frames(self) -> int:
        """How many frames cover the samples."""
        return (self.samples + self.size - 2) // self.hop + 1

    def __call__(self, x: Tensor) -> Tensor:
        """Return the transform."""
        if x.shape[-1] != self.samples:
            raise ValueError(f"events must have {self.samples} samples, got {x.shape[-1]}.")
        right = (self.frames - 1) * self.hop + 1 - self.samples
        padded = torch.nn.functional.pad(x, (self.size - 1, right))
        framed = padded.unfold(-1, self.size, self.hop) * self._window(x)
        return torch.view_as_real(torch.fft.rfft(framed, norm="ortho")) * self._twice(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the overlap-add of the inverse transforms."""
        spectrum = torch.view_as_complex((y / self._twice(y)).contiguous())
        framed = torch.fft.irfft(spectrum, n=self.size, norm="ortho") * self._window(y)
        total = (self.frames - 1) * self.hop + self.size
        rows = framed.flatten(0, -3).transpose(-1, -2)
        whole = torch.nn.functional.fold(rows, (1, total), (1, self.size), stride=(1, self.hop))
        whole = whole.reshape(*framed.shape[:-2], total)
        return whole[..., self.size - 1 : self.size - 1 + self.samples]

    def _window(self, like: Tensor) -> Tensor:
        window = torch.hann_window(self.size, dtype=like.dtype, device=like.device).sqrt()
        total = window.square().reshape(-1, self.hop).sum(0)
        return window / total.repeat(self.size // self.hop).sqrt()

    def _twice(self, like: Tensor) -> Tensor:
        weight = like.new_full((self.size // 2 + 1, 1), math.sqrt(2))
        weight[0] = weight[-1] = 1
        return weight


@dataclass(frozen=True, eq=False)
class Linear(LinearOperator):
    """Any linear callable; its adjoint is checked when it is made.

    Parameters
    ----------
    forward : callable
        ``forward(x)`` of a batch.
    shape : tuple of int
        Of an event.
    backward : callable, optional
        The adjoint; by reverse-mode differentiation if absent.
    dtype : torch.dtype
        Of the check.

    Raises
    ------
    ValueError
        When the dot-product test fails: not linear, or not the adjoint.

    Examples
    --------
    >>> double = Linear(lambda x: 2 * x, (3,))
    >>> double.pinv(torch.tensor([[2.0, 4.0, 6.0]]))
    tensor([[1., 2., 3.]])
    """

    forward: Callable[[Tensor], Tensor]
    shape: Sequence[int]
    backward: Callable[[Tensor], Tensor] | None = None
    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        check_adjoint(self, self.shape, dtype=self.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``forward(x)``."""
        return self.forward(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return ``backward(y)``, or what differentiation gives."""
        if self.backward is not None:
            return self.backward(y)
        zeros = torch.zeros(len(y), *self.shape, dtype=y.dtype, device=y.device)
        return torch.func.vjp(self.forward, zeros)[1](y)[0]


def check_adjoint(
    operator: LinearOperator, shape: Sequence[int], *, dtype: torch.dtype = torch.float64
) -> None:
    """Test ``<A x, y> = <x, A^T y>`` on random events of a shape.

    Raises
    ------
    ValueError
        When the two differ by more than rounding.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, *shape, generator=generator, dtype=dtype)
    seen = operator(x)
    y = torch.randn(seen.shape, generator=generator, dtype=dtype)
    left, right = (seen * y).sum(), (x * operator.adjoint(y)).sum()
    scale = max((seen.norm() * y.norm()).item(), torch.finfo(dtype).tiny)
    gap = (left - right).abs().item() / scale
    if not gap <= _LOOSE.get(dtype, 1e-2):
        raise ValueError(
            f"the adjoint does not belong to the operator, got <Ax, y> and <x, A^T y> {gap:.2g} of "
            "their size apart; expected a linear map and its transpose."
        )


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    b: Tensor,
    *,
    start: Tensor | None = None,
    steps: int = 500,
    tolerance: float = 1e-13,
) -> Tensor:
    """Solve ``apply(x) = b`` for a symmetric positive map, each row by itself.

    A row stops at a residual of ``tolerance`` of its right-hand side (no less than rounding).

    References
    ----------
    Hestenes & Stiefel, "Methods of Conjugate Gradients" (1952).
    """
    axes = tuple(range(1, b.ndim))
    goal = max(tolerance, 8 * torch.finfo(b.dtype).eps) ** 2 * b.square().sum(axes, keepdim=True)
    x = torch.zeros_like(b) if start is None else start
    r = b if start is None else b - apply(x)
    p, size = r, r.square().sum(axes, keepdim=True)
    for _ in range(steps):
        if bool((size <= goal).all()):
            break
        image = apply(p)
        going = size > goal
        step = torch.where(going, size / (p * image).sum(axes, keepdim=True), 0.0)
        x, r = x + step * p, r - step * image
        new = r.square().sum(axes, keepdim=True)
        p = r + torch.where(going, new / size, 0.0) * p
        size = new
    return x
