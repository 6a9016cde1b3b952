"""Where the torsions of natural chains lie: a table of favoured (phi, psi)."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_protein.metrics.geometry import share, torsions
from rectiflow_protein.residues import THREE_LETTER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CELL = 5  # degrees
FAVOURED = "#"

_GLYCINE = THREE_LETTER.index("GLY")


@lru_cache(maxsize=1)
def favoured() -> Bool[Tensor, "psi phi"]:
    """Table of cells of 5 degrees from -180; rows are psi, columns phi.

    The favoured cells are the densest that hold 98 % of the residues of 802 natural chains, glycine
    left out. ``tools/ramachandran_regions.py`` makes the table.
    """
    text = files("rectiflow_protein.metrics").joinpath("ramachandran.txt").read_text("ascii")
    return torch.tensor([[sign == FAVOURED for sign in line] for line in text.splitlines()][::-1])


def ramachandran_fraction(
    coords: Float[Tensor, "*b n a 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    aatype: Int[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b"]:
    """Share of residues whose (phi, psi) lies in the favoured regions, see :func:`favoured`.

    Natural chains score 0.98.

    Parameters
    ----------
    coords, mask
        As for :func:`~rectiflow_protein.metrics.torsions`.
    aatype : Tensor, shape (..., n), optional
        Residue types; glycine, which is free to turn, is not counted. None is by default.

    Returns
    -------
    Tensor, shape (...)
        In [0, 1]; NaN where no residue has both torsions.
    """
    phi, psi, _ = torsions(coords, mask)
    known = (phi + psi).isfinite()
    if aatype is not None:
        known &= aatype != _GLYCINE
    table = favoured().to(phi.device)
    cells = [
        (torch.rad2deg(x.nan_to_num()).add(180).div(CELL).long()).remainder(len(table))
        for x in (psi, phi)
    ]
    return share(table[cells[0], cells[1]], known)
