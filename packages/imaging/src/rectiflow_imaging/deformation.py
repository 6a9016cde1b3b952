"""Displacement fields: warping, composition, random diffeomorphisms, and how they fold.

A field ``(b, n, *space)`` of a square or cubic image of side S holds displacements in shares of S,
of the first axis of space first; ``warp(v, f)(p) = v(p + S f(p))``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Padding = Literal["zeros", "border"]


def warp(
    values: Tensor, field: Tensor, *, padding: Padding = "zeros", nearest: bool = False
) -> Tensor:
    """Return ``values(p + S field(p))``, linear between pixels.

    Parameters
    ----------
    values : Tensor, shape (b, c, *space)
    field : Tensor, shape (b, n, *space)
    padding : {"zeros", "border"}
        What lies beyond the image.
    nearest : bool, default False
        Take the nearest pixel instead, as labels need it.

    Raises
    ------
    ValueError
        When sides differ, or the field does not belong to the image.
    """
    space = field.shape[2:]
    if len(set(space)) != 1 or field.shape[1] != len(space) or values.shape[2:] != space:
        raise ValueError(
            "a field holds one channel for each axis of a square or cubic image, got a field of "
            f"shape {tuple(field.shape)} for values of shape {tuple(values.shape)}."
        )
    side = space[0]
    places = torch.stack(
        torch.meshgrid(*[torch.arange(n, device=field.device) for n in space], indexing="ij")
    ).to(field)
    where = (places + side * field) / ((side - 1) / 2) - 1
    return functional.grid_sample(
        values,
        where.flip(1).movedim(1, -1),
        mode="nearest" if nearest else "bilinear",
        padding_mode=padding,
        align_corners=True,
    )


def compose(first: Tensor, *others: Tensor, padding: Padding = "border") -> Tensor:
    """Return the field of applying the first, then the others on top: ``b + warp(a, b)``."""
    for other in others:
        first = other + warp(first, other, padding=padding)
    return first


def integrate(velocity: Tensor, counts: Tensor) -> Tensor:
    """Compose a velocity with itself, as often as each row counts.

    Parameters
    ----------
    velocity : Tensor, shape (b, n, *space)
    counts : Tensor of int, shape (b,)
    """
    found = torch.zeros_like(velocity)
    left = counts.reshape(-1, *(1,) * (velocity.ndim - 1))
    for step in range(int(counts.max())):
        found = compose(found, velocity * (step < left))
    return found


def resized(field: Tensor, side: int) -> Tensor:
    """Return the middle of a field, magnified to an image of another side.

    Numbers stay shares of the side they are used at: they grow by the ratio of the sides, and the
    middle half of the grid covers the image.
    """
    scaled = field * (side / field.shape[-1])
    mode = "bilinear" if field.ndim == 4 else "trilinear"
    wide = functional.interpolate(
        scaled, size=[2 * side] * (field.ndim - 2), mode=mode, align_corners=False
    )
    for axis in range(2, field.ndim):
        wide = wide.narrow(axis, side // 2, side)
    return wide


@dataclass(frozen=True)
class RandomField:
    """Random diffeomorphisms of DRDM: the stronger, the later the step t of its diffusion.

    Parameters
    ----------
    grid : int, default 64
        Side of the grid on which velocities are drawn, whatever the image.
    scale : float, default 4e-5
        Of the velocities, in shares of that grid.
    weak : float, default 0.08
        Scale of the second velocity, which moves the image alone, relative to the first.

    References
    ----------
    Zheng et al., "Deformation-Recovery Diffusion Model (DRDM): Instance Deformation for Image
    Manipulation and Synthesis" (Medical Image Analysis 2026).
    """

    grid: int = 64
    scale: float = 4e-5
    weak: float = 0.08

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of the grids whose sum is a velocity; without the two coarsest, nearly affine."""
        return tuple(self.grid >> k for k in range(min(5, self.grid.bit_length() - 3)))

    def noise(
        self, batch: int, axes: int, *, generator: torch.Generator | None = None
    ) -> list[Tensor]:
        """Draw what a pair of velocities is made of: a grid for each side, twice."""
        device = "cpu" if generator is None else generator.device
        return [
            torch.randn(batch, axes, *(side,) * axes, generator=generator, device=device)
            for side in (*self.sides, *self.sides)
        ]

    def velocity(self, noise: list[Tensor], scale: float) -> Tensor:
        """Return the sum of the grids, each magnified, coarser ones stronger."""
        axes = noise[0].ndim - 2
        parts = [
            functional.interpolate(
                scale * drawn * (self.grid / drawn.shape[-1]),
                size=[self.grid] * axes,
                mode="bilinear" if axes == 2 else "trilinear",
                align_corners=False,
            )
            for drawn in noise
        ]
        return torch.stack(parts).sum(0)

    def __call__(self, noise: list[Tensor], t: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Return the deformation of an image, and the clean one that a network is to undo.

        Parameters
        ----------
        noise : list of Tensor
            As :meth:`noise` draws it.
        t : Tensor of int, shape (b,)
            Steps of the diffusion.
        side : int
            Of the image.

        Returns
        -------
        field, label : Tensor, shape (b, n, *space)
        """
        half = len(noise) // 2
        clean = self.velocity(noise[:half], self.scale)
        moved = compose(self.velocity(noise[half:], self.weak * self.scale), clean)
        strong, mild = self.counts(t)
        fields = integrate(moved, strong), integrate(clean, mild)
        return resized(fields[0], side), resized(fields[1], side)

    def counts(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return how often each of the two velocities is composed at a step."""
        steps = t.double()
        return (2 * steps**1.3 / 3).floor().clamp(1, 200).long(), (steps**0.6).floor().long()


def jacobian(field: Tensor) -> Tensor:
    """Return ``det(I + d(S field)/dp)`` by central differences, shape (b, *space).

    One-sided at the border; where it is negative the map folds.
    """
    axes = field.shape[1]
    slopes = torch.gradient(field * field.shape[-1], dim=list(range(2, field.ndim)))
    matrix = torch.stack(slopes, 2).movedim((1, 2), (-2, -1))  # (b, *space, of, along)
    return torch.linalg.det(matrix + torch.eye(axes).to(matrix))


def folded(field: Tensor) -> Tensor:
    """Return the share of pixels where the map folds, shape (b,)."""
    return (jacobian(field) < 0).flatten(1).double().mean(1)


def magnitude(field: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the largest displacement in shares of the side, each of shape (b,)."""
    lengths = torch.linalg.vector_norm(field, dim=1).flatten(1)
    return lengths.mean(1), lengths.amax(1)
