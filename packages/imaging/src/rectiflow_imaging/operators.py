"""Instruments: tomography along parallel rays, magnetic resonance, and blur.

Events are images ``(b, c, h, w)``; a volume is a batch of its slices. Super-resolution is
:class:`rectiflow.inverse.Downsample`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rectiflow.inverse import LinearOperator, Matrix
from torch import Tensor


def view_angles(count: int, *, arc: float = math.pi) -> list[float]:
    """Return angles spread evenly over an arc, in radians.

    Raises
    ------
    ValueError
        When there is none.
    """
    if count < 1:
        raise ValueError(f"a scan must have at least one view, got {count}.")
    return [arc * i / count for i in range(count)]


@dataclass(frozen=True, eq=False)
class ParallelBeam(LinearOperator):
    """Sums of square images along parallel rays: ``(b, c, s, s) -> (b, c, views, s)``.

    As scikit-image's ``radon`` samples them, linear between pixels, about the middle pixel. It is a
    sparse matrix, whose transpose is the adjoint to rounding.

    Parameters
    ----------
    side : int
        Of the images; rays that miss the inscribed circle see less than all of it.
    angles : sequence of float
        Radians; at 0 rays run down the columns.
    """

    side: int
    angles: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_matrix", _rays(self.side, self.angles))

    def __call__(self, x: Tensor) -> Tensor:
        """Return the sinogram."""
        matrix: Matrix = self._matrix  # type: ignore[attr-defined]
        return matrix(x).unflatten(-1, (len(self.angles), self.side))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the back-projection, without a filter."""
        matrix: Matrix = self._matrix  # type: ignore[attr-defined]
        return matrix.adjoint(y.flatten(-2))

    def filtered(self, y: Tensor) -> Tensor:
        """Return the filtered back-projection of a sinogram: exact for ever more views.

        References
        ----------
        Kak & Slaney, "Principles of Computerized Tomographic Imaging" (1988), chapter 3.
        """
        size = max(64, 2 ** math.ceil(math.log2(2 * self.side)))
        ramp = y.new_zeros(size)
        ramp[0] = 0.25
        odd = torch.arange(1, size, 2, device=y.device)
        ramp[odd] = -1 / (math.pi * torch.minimum(odd, size - odd).to(y)) ** 2
        gain = 2 * torch.fft.rfft(ramp).real
        smooth = torch.fft.irfft(torch.fft.rfft(y, size) * gain, size)[..., : self.side]
        middle = self.side // 2
        along = torch.arange(self.side, device=y.device, dtype=y.dtype) - middle
        found = y.new_zeros(*y.shape[:-2], self.side, self.side)
        for i, angle in enumerate(self.angles):
            place = along * math.cos(angle) - along[:, None] * math.sin(angle) + middle
            inside = (place >= 0) & (place <= self.side - 1)
            first = place.floor().clamp(0, self.side - 2)
            weight, low = place - first, first.long()
            row = smooth[..., i, :]
            value = row[..., low] * (1 - weight) + row[..., low + 1] * weight
            found = found + torch.where(inside, value, 0)
        return found * (math.pi / (2 * len(self.angles)))


def _rays(side: int, angles: Sequence[float]) -> Matrix:
    middle = side // 2
    along = torch.arange(side, dtype=torch.float64) - middle
    y, x = torch.meshgrid(along, along, indexing="ij")
    bins = torch.arange(side).expand(side, side)
    rays, pixels, weights = [], [], []
    for i, angle in enumerate(angles):
        across = math.cos(angle) * x + math.sin(angle) * y + middle
        down = math.cos(angle) * y - math.sin(angle) * x + middle
        column, row = across.floor(), down.floor()
        for right in (0, 1):
            for below in (0, 1):
                c, r = (column + right).long(), (row + below).long()
                part_x = (across - column) if right else (1 - across + column)
                part_y = (down - row) if below else (1 - down + row)
                seen = (c >= 0) & (c < side) & (r >= 0) & (r < side)
                rays.append((i * side + bins)[seen])
                pixels.append((r * side + c)[seen])
                weights.append((part_x * part_y)[seen])
    index = torch.stack([torch.cat(rays), torch.cat(pixels)])
    shape = (len(angles) * side, side * side)
    with warnings.catch_warnings():  # torch warns, once, that sparse tensors may go unchecked
        warnings.simplefilter("ignore")
        made = torch.sparse_coo_tensor(index, torch.cat(weights), shape, check_invariants=True)
    return Matrix(made, (side, side))


@dataclass(frozen=True, eq=False)
class Fourier(LinearOperator):
    """What a magnetic resonance scanner reads of real images: some of their Fourier transform.

    Readings are real and imaginary parts, ``(b, c, h, w, 2)``, zero where nothing was read; the
    transform keeps norms, and frequency 0 lies in the first corner.

    Parameters
    ----------
    keep : Tensor of bool, shape (h, w)
        Which frequencies are read.
    """

    keep: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Return the readings."""
        seen = torch.fft.fft2(x, norm="ortho") * self.keep.to(x.device)
        return torch.view_as_real(seen)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the real part of the inverse transform of what was read."""
        seen = torch.view_as_complex(y.contiguous()) * self.keep.to(y.device)
        return torch.fft.ifft2(seen, norm="ortho").real

    def solve(self, b: Tensor, rho: float, *, start: Tensor | None = None) -> Tensor:
        """Return the z of ``(A^T A + rho I) z = b``, in closed form.

        A real image has each frequency twice, and one of the two may be read.
        """
        keep = self.keep.to(b)
        gain = (keep + keep.flip(0, 1).roll((1, 1), (0, 1))) / 2 + rho
        gain = torch.where(gain > 1e-12, 1 / gain, 0)
        return torch.fft.ifft2(torch.fft.fft2(b) * gain).real


def random_lines(
    shape: tuple[int, int], factor: float, *, centre: float = 0.08, generator: torch.Generator
) -> Tensor:
    """Draw which lines of frequencies are read: the lowest, and others at random.

    Parameters
    ----------
    shape : tuple of int
        Of the images; lines run down the columns.
    factor : float
        How many times fewer lines than all.
    centre : float
        Share of the lines that is always read.

    Returns
    -------
    Tensor of bool, shape (h, w)
        For :class:`Fourier`.
    """
    high, wide = shape
    low = max(1, round(centre * wide))
    count = round(wide / factor)
    if count < low:
        raise ValueError(
            f"factor must leave the {low} lines of the centre, got {factor} for {wide} lines; "
            f"expected at most {wide / low:.1f}."
        )
    order = torch.arange(wide).roll(low // 2)  # the lowest frequencies of both signs first
    others = order[low:][torch.randperm(wide - low, generator=generator)[: count - low]]
    keep = torch.zeros(wide, dtype=torch.bool)
    keep[torch.cat([order[:low], others])] = True
    return keep.expand(high, wide).clone()


def gaussian_kernel(sigma: float) -> Tensor:
    """Return a square kernel for :class:`rectiflow.inverse.Blur`, cut at three widths."""
    reach = max(1, math.ceil(3 * sigma))
    line = torch.exp(-(torch.arange(-reach, reach + 1).double() ** 2) / (2 * sigma**2))
    kernel = line[:, None] * line
    return kernel / kernel.sum()
