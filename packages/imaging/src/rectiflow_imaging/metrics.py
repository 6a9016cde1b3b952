"""How near an image is to another, and segmentations to each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def psnr(found: Tensor, truth: Tensor, *, span: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in dB, of values that span ``span``."""
    error = (found.double() - truth.double()).square().mean().item()
    return math.inf if error == 0 else 10 * math.log10(span**2 / error)


def ssim(found: Tensor, truth: Tensor, *, span: float = 1.0) -> float:
    """Return the structural similarity of slices ``(z, y, x)``, mean over windows of 7 x 7.

    References
    ----------
    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity" (2004).
    """

    def mean(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x[:, None], 7, 1)

    x, y = found.double(), truth.double()
    mx, my, scale = mean(x), mean(y), 49 / 48
    vx, vy = (mean(x * x) - mx * mx) * scale, (mean(y * y) - my * my) * scale
    both = (mean(x * y) - mx * my) * scale
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    similar = (2 * mx * my + c1) * (2 * both + c2)
    return (similar / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean().item()


def dice(found: Tensor, truth: Tensor) -> float:
    """Return twice the overlap over the sum of two masks, 1 where both are empty."""
    a, b = found.bool(), truth.bool()
    total = int(a.sum() + b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def stack_variation(values: Tensor) -> float:
    """Return the mean difference between neighbouring slices ``(z, y, x)``; 0 for one slice."""
    return values.diff(dim=0).abs().mean().item() if len(values) > 1 else 0.0


def energy_distance(found: Tensor, truth: Tensor) -> float:
    """Return the energy distance of two sets of images, rows, by the norm of their pixels.

    ``2 E|x - y| - E|x - x'| - E|y - y'|``, 0 for equal distributions; without bias.
    """
    x, y = found.flatten(1).double(), truth.flatten(1).double()

    def within(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return (2 * torch.cdist(x, y).mean() - within(x) - within(y)).item()
