"""All metrics of a backbone that need no other structure and no outside program."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_protein.metrics import geometry
from rectiflow_protein.metrics.ramachandran import ramachandran_fraction
from rectiflow_protein.secondary_structure import COIL, HELIX, STRAND, dssp

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int


def secondary_structure_fractions(
    coords: Float[Tensor, "*b n 4 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> dict[str, Float[Tensor, "*b"]]:
    """Shares of helix, strand and coil by DSSP; arguments as for :func:`backbone_metrics`."""
    codes = dssp(coords, mask=mask)
    real = torch.ones_like(codes, dtype=torch.bool) if mask is None else mask.bool()
    count = real.sum(-1)
    names = {"helix": HELIX, "strand": STRAND, "coil": COIL}
    return {name: ((codes == code) & real).sum(-1) / count for name, code in names.items()}


def backbone_metrics(
    coords: Float[Tensor, "*b n 4 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    aatype: Int[Tensor, "*b n"] | None = None,
) -> dict[str, Float[Tensor, "*b"]]:
    """Geometry, compactness and secondary structure of each backbone.

    Parameters
    ----------
    coords : Tensor, shape (..., n, 4, 3)
        N, CA, C, O in ångström.
    mask : Tensor, shape (..., n), optional
        True for real residues.
    aatype : Tensor, shape (..., n), optional
        Residue types: a cis bond before proline is valid, glycine has any torsions.

    Returns
    -------
    dict of Tensor, shape (...)
        ``ca_ca_valid``, ``ca_ca_strict``, ``ca_ca_bonded`` (trans or cis), ``ca_ca_deviation`` (Å),
        ``clashes`` (CA pairs below 1 Å), ``close_contacts`` (CA pairs below 3 Å per 100 residues),
        ``contacts`` (those below 3.5 Å three or more residues apart), ``peptide_valid``,
        ``ramachandran``, ``radius_of_gyration`` (Å), ``helix``, ``strand``, ``coil``.
    """
    ca = coords[..., 1, :]
    peptide = geometry.peptide_geometry(coords, mask, aatype)
    bonds = peptide.length.isfinite().sum(-1)
    return {
        "ca_ca_valid": geometry.ca_ca_valid_fraction(ca, mask),
        "ca_ca_strict": geometry.ca_ca_strict_fraction(ca, mask, aatype),
        "ca_ca_bonded": geometry.ca_ca_bonded_fraction(ca, mask),
        "ca_ca_deviation": geometry.ca_ca_deviation(ca, mask),
        "clashes": geometry.ca_clashes(ca, mask).to(ca.dtype),
        "close_contacts": geometry.close_contacts_per_100(ca, mask),
        "contacts": geometry.contacts_per_100(ca, mask),
        "peptide_valid": peptide.valid.sum(-1) / bonds,
        "ramachandran": ramachandran_fraction(coords, mask, aatype),
        "radius_of_gyration": geometry.radius_of_gyration(ca, mask),
        **secondary_structure_fractions(coords, mask),
    }
