"""A structure to try things on, of this package's own making."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from rectiflow_protein.io import Backbone

HELICAL_HAIRPIN = Path(__file__).parent / "helical_hairpin.pdb"
"""File of :func:`helical_hairpin`."""

# (phi, psi) in degrees. The loop was found by a random search over the usual regions for two
# antiparallel helices 9 Å apart that do not touch.
_HELIX = (-62.0, -42.0)
_HELIX_LENGTH = 18
_LOOP = ((56.0, 50.0), (-88.0, -5.0), (-90.0, 144.0), (-55.0, -34.0), (-125.0, 138.0))


def helical_hairpin() -> Backbone:
    """Build two antiparallel alpha helices joined by a loop, 41 residues of ideal geometry.

    ``write_structure(HELICAL_HAIRPIN, helical_hairpin())`` makes the file that ships.
    """
    from rectiflow_protein.data.synthetic import backbone_from_torsions
    from rectiflow_protein.io import Backbone

    helix = (_HELIX,) * _HELIX_LENGTH
    torsions = torch.tensor([*helix, *_LOOP, *helix], dtype=torch.float64)
    coords = backbone_from_torsions(*torch.deg2rad(torsions).unbind(-1))
    return Backbone.from_coords(coords - coords[:, 1].mean(0), name=HELICAL_HAIRPIN.stem)
