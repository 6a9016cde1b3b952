"""A watertight copy of any mesh, and how far it is from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rectiflow_shape.geometry.distance import SignedDistance
from rectiflow_shape.geometry.extract import BOX, extract
from rectiflow_shape.geometry.mesh import Mesh, normalise

_POINTS = 50_000


@dataclass(frozen=True)
class Conversion:
    """A watertight manifold mesh, and its distances to the input, in the input's units.

    Attributes
    ----------
    mesh : Mesh
        In the input's place.
    mean, largest : float
        From points of the input's outer surface to the copy: what was swallowed shows here.
    mean_back, largest_back : float
        From points of the copy to the input: what was thickened shows here.
    cell : float
        Side of a cell: what is thinner may be swallowed.
    thickness : float
        Half of the thickness that sheets were given.
    """

    mesh: Mesh
    mean: float
    largest: float
    mean_back: float
    largest_back: float
    cell: float
    thickness: float


def watertight(mesh: Mesh, *, depth: int = 8, thickness: float | None = None) -> Conversion:
    """Extract the surface of the inside of a mesh.

    Parameters
    ----------
    mesh : Mesh
        Any that :class:`SignedDistance` takes.
    depth : int, default 8
        Of the lattice: 2^depth cells along the longest side.
    thickness : float, optional
        Half of the thickness that sheets are given, in the mesh's units; a cell if absent. Solids
        are not thickened.

    Raises
    ------
    ValueError
        If it has no inside that the lattice can see.
    """
    whole, placement = normalise(mesh)
    cell = 2 * BOX / 2**depth
    half = cell if thickness is None else thickness / placement.scale
    distance = SignedDistance(whole, half)
    made = extract(lambda points: -distance(points), depth=depth).mesh
    generator = torch.Generator().manual_seed(0)
    plain, copy = SignedDistance(whole), SignedDistance(made)
    there = copy(plain.surface(_POINTS, generator)[0]).abs().numpy() * placement.scale
    back = plain(copy.surface(_POINTS, generator)[0]).abs().numpy() * placement.scale
    return Conversion(
        placement.restore(made),
        *(float(f(d)) for d in (there, back) for f in (np.mean, np.max)),
        cell=cell * placement.scale,
        thickness=half * placement.scale,
    )
