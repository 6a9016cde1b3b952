"""Is a backbone physically possible? Distances, angles, torsions, clashes, compactness."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rectiflow_protein.residues import CA_CA_DISTANCE, THREE_LETTER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CA_CA_LIMIT = 3.902  # Å; published: the ideal distance and 0.1
CA_CA_TOLERANCE = 0.1  # Å on either side, for the two-sided fraction
TRANS_RANGE = (3.65, 3.95)  # Å, of a trans peptide
CIS_RANGE = (2.8, 3.1)  # Å, of a cis peptide, which proline may have
CLASH = 1.0  # Å between any two CA; published
CONTACT = 3.5  # Å between CA three or more apart; natural chains have 1 in 2000 residues
CLOSE_CONTACT = 3.0  # Å between CA two or more apart; natural chains have next to none below

# Peptide bond of AlphaFold, with standard deviations: length C-N in Å (before proline), cosines.
C_N = (1.329, 0.014)
C_N_PROLINE = (1.341, 0.016)
COS_CA_C_N = (-0.4473, 0.0311)
COS_C_N_CA = (-0.5203, 0.0353)
DEVIATIONS = 12.0  # AlphaFold counts a violation beyond this many standard deviations

_PROLINE = THREE_LETTER.index("PRO")


class PeptideGeometry(NamedTuple):
    """Geometry of the bond from each residue to the next; NaN where there is none.

    ``length`` (..., n-1) is C-N in ångström, ``cos_ca_c_n`` and ``cos_c_n_ca`` are cosines of the
    angles at C and at N, ``valid`` is True where all three lie within 12 standard deviations of
    AlphaFold's values.
    """

    length: Tensor
    cos_ca_c_n: Tensor
    cos_c_n_ca: Tensor
    valid: Tensor


class Torsions(NamedTuple):
    """Backbone torsions (..., n) in radians, in (-pi, pi]; NaN where an atom is missing."""

    phi: Tensor
    psi: Tensor
    omega: Tensor


def ca_ca_distances(
    ca: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b n-1"]:
    """Distances of consecutive CA in ångström, NaN where either residue is masked out."""
    _check(ca)
    distance = torch.linalg.vector_norm(ca[..., 1:, :] - ca[..., :-1, :], dim=-1)
    return distance.masked_fill(~_bonded(ca, mask), torch.nan)


def ca_ca_valid_fraction(
    ca: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    upper: float = CA_CA_LIMIT,
    lower: float = -math.inf,
) -> Float[Tensor, "*b"]:
    """Share of consecutive CA distances in (lower, upper).

    The defaults are the published metric, which has no lower bound: a chain collapsed to a point
    scores 1. See :func:`ca_ca_strict_fraction` for one that does not.

    Parameters
    ----------
    ca : Tensor, shape (..., n, 3)
        CA positions in ångström.
    mask : Tensor, shape (..., n), optional
        True for real residues.
    upper, lower : float
        Bounds in ångström, both excluded.

    Returns
    -------
    Tensor, shape (...)
        In [0, 1]; NaN where there is no pair.
    """
    distance = ca_ca_distances(ca, mask)
    inside = (distance < upper) & (distance > lower)
    return share(inside, distance.isfinite())


def ca_ca_strict_fraction(
    ca: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    aatype: Int[Tensor, "*b n"] | None = None,
) -> Float[Tensor, "*b"]:
    """Share of consecutive CA distances within 0.1 Å of 3.802 Å on either side.

    Before proline the distance of a cis peptide (2.8 to 3.1 Å, 1 proline in 20) is valid too.

    Parameters
    ----------
    ca, mask
        As for :func:`ca_ca_valid_fraction`.
    aatype : Tensor, shape (..., n), optional
        Residue types; none is proline by default.
    """
    distance = ca_ca_distances(ca, mask)
    valid = (distance - CA_CA_DISTANCE).abs() < CA_CA_TOLERANCE
    if aatype is not None:
        cis = (distance > CIS_RANGE[0]) & (distance < CIS_RANGE[1])
        valid |= cis & (aatype[..., 1:] == _PROLINE)
    return share(valid, distance.isfinite())


def ca_ca_bonded_fraction(
    ca: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b"]:
    """Share of consecutive CA distances of a trans (3.65-3.95 Å) or cis (2.8-3.1 Å) peptide."""
    distance = ca_ca_distances(ca, mask)
    return share(bonded(distance), distance.isfinite())


def bonded(distance: Float[Tensor, "*b"]) -> Bool[Tensor, "*b"]:
    """Say which CA-CA distances, Å, are those of a trans or a cis peptide."""
    inside = [(distance > low) & (distance < high) for low, high in (TRANS_RANGE, CIS_RANGE)]
    return inside[0] | inside[1]


def ca_ca_deviation(
    ca: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b"]:
    """Mean of ``|d - 3.80209737096|`` over consecutive CA distances, in ångström (published)."""
    return (ca_ca_distances(ca, mask) - CA_CA_DISTANCE).abs().nanmean(-1)


def ca_clashes(
    ca: Float[Tensor, "*b n 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    *,
    cutoff: float = CLASH,
    separation: int = 1,
) -> Int[Tensor, "*b"]:
    """Count pairs of CA nearer than ``cutoff`` and at least ``separation`` residues apart.

    Parameters
    ----------
    ca, mask
        As for :func:`ca_ca_valid_fraction`.
    cutoff : float, default 1.0
        Ångström; the default is the published one.
    separation : int, default 1
        Smallest ``|i - j|`` of a pair.
    """
    _check(ca)
    n = ca.shape[-2]
    distance = torch.cdist(ca, ca, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = torch.ones(n, n, dtype=torch.bool, device=ca.device).triu(separation)
    real = _mask(ca, mask)
    counted = pairs & real[..., :, None] & real[..., None, :]
    return ((distance < cutoff) & counted).sum((-2, -1))


def close_contacts_per_100(
    ca: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b"]:
    """CA pairs nearer than 3 Å and two or more residues apart, per 100 residues."""
    count = ca_clashes(ca, mask, cutoff=CLOSE_CONTACT, separation=2)
    return 100 * count / _mask(ca, mask).sum(-1)


def contacts_per_100(
    ca: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b"]:
    """CA pairs nearer than 3.5 Å and three or more residues apart, per 100 residues."""
    count = ca_clashes(ca, mask, cutoff=CONTACT, separation=3)
    return 100 * count / _mask(ca, mask).sum(-1)


def peptide_geometry(
    coords: Float[Tensor, "*b n a 3"],
    mask: Bool[Tensor, "*b n"] | None = None,
    aatype: Int[Tensor, "*b n"] | None = None,
) -> PeptideGeometry:
    """Bond from each residue to the next, against AlphaFold's constants.

    Parameters
    ----------
    coords : Tensor, shape (..., n, a, 3)
        Ångström, atoms N, CA, C first.
    mask : Tensor, shape (..., n), optional
        True for real residues.
    aatype : Tensor, shape (..., n), optional
        Residue types; the bond before proline is 0.012 Å longer. None is proline by default.

    References
    ----------
    Jumper et al., "Highly accurate protein structure prediction with AlphaFold" (2021),
    supplementary section 1.9.11.
    """
    n, ca, c = _backbone(coords)
    bond = n[..., 1:, :] - c[..., :-1, :]
    length = torch.linalg.vector_norm(bond, dim=-1)
    cos_ca_c_n = _cosine(ca[..., :-1, :] - c[..., :-1, :], bond)
    cos_c_n_ca = _cosine(-bond, ca[..., 1:, :] - n[..., 1:, :])
    before_proline = torch.zeros_like(length, dtype=torch.bool)
    if aatype is not None:
        before_proline = aatype[..., 1:] == _PROLINE
    mean = torch.where(before_proline, C_N_PROLINE[0], C_N[0])
    deviation = torch.where(before_proline, C_N_PROLINE[1], C_N[1])
    valid = (length - mean).abs() <= DEVIATIONS * deviation
    for cosine, (ideal, spread) in ((cos_ca_c_n, COS_CA_C_N), (cos_c_n_ca, COS_C_N_CA)):
        valid = valid & ((cosine - ideal).abs() <= DEVIATIONS * spread)
    missing = ~_bonded(ca, mask)
    length, cos_ca_c_n, cos_c_n_ca = (
        x.masked_fill(missing, torch.nan) for x in (length, cos_ca_c_n, cos_c_n_ca)
    )
    return PeptideGeometry(length, cos_ca_c_n, cos_c_n_ca, valid & ~missing)


def torsions(
    coords: Float[Tensor, "*b n a 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Torsions:
    """Torsions phi (C'-N-CA-C), psi (N-CA-C-N') and omega (CA-C-N'-CA', of the bond ahead).

    Parameters
    ----------
    coords, mask
        As for :func:`peptide_geometry`.
    """
    n, ca, c = _backbone(coords)
    missing = ~_bonded(ca, mask)
    ahead = n[..., 1:, :]
    phi = dihedral(c[..., :-1, :], ahead, ca[..., 1:, :], c[..., 1:, :])
    psi = dihedral(n[..., :-1, :], ca[..., :-1, :], c[..., :-1, :], ahead)
    omega = dihedral(ca[..., :-1, :], c[..., :-1, :], ahead, ca[..., 1:, :])
    phi, psi, omega = (x.masked_fill(missing, torch.nan) for x in (phi, psi, omega))
    pad = torch.nn.functional.pad
    return Torsions(
        pad(phi, (1, 0), value=torch.nan),
        pad(psi, (0, 1), value=torch.nan),
        pad(omega, (0, 1), value=torch.nan),
    )


def dihedral(
    a: Float[Tensor, "*b 3"],
    b: Float[Tensor, "*b 3"],
    c: Float[Tensor, "*b 3"],
    d: Float[Tensor, "*b 3"],
) -> Float[Tensor, "*b"]:
    """Torsion of four points in radians; 0 is cis, positive is clockwise along b to c (IUPAC).

    Examples
    --------
    >>> a, b, c = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 1]])
    >>> round(dihedral(a, b, c, torch.tensor([0.0, 1, 1])).item(), 4)
    1.5708
    """
    u, v, w = b - a, c - b, d - c
    first, second = torch.linalg.cross(u, v), torch.linalg.cross(v, w)
    length = torch.linalg.vector_norm(v, dim=-1)
    return torch.atan2((u * second).sum(-1) * length, (first * second).sum(-1))


def radius_of_gyration(
    ca: Float[Tensor, "*b n 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b"]:
    """Root mean square distance of the CA from their mean, in ångström."""
    _check(ca)
    weight = _mask(ca, mask).to(ca.dtype)[..., None]
    count = weight.sum((-2, -1))
    mean = (ca * weight).sum(-2, keepdim=True) / count[..., None, None]
    return torch.sqrt((((ca - mean) * weight) ** 2).sum((-2, -1)) / count)


def _backbone(coords: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """N, CA and C of (..., n, a, 3)."""
    if coords.ndim < 3 or coords.shape[-1] != 3 or coords.shape[-2] < 3:
        raise ValueError(
            f"coords must have shape (..., n, a, 3), got {tuple(coords.shape)}; expected the atoms "
            "N, CA, C first. Stack them along the axis before last."
        )
    return coords[..., 0, :], coords[..., 1, :], coords[..., 2, :]


def _check(ca: Tensor) -> None:
    if ca.ndim < 2 or ca.shape[-1] != 3:
        raise ValueError(
            f"ca must have shape (..., n, 3), got {tuple(ca.shape)}; expected CA positions. "
            "Pass coords[..., 1, :]."
        )


def _mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Boolean mask (..., n) for points (..., n, 3)."""
    if mask is None:
        return torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
    if mask.shape != x.shape[:-1]:
        raise ValueError(
            f"mask must have shape {tuple(x.shape[:-1])}, got {tuple(mask.shape)}; expected one "
            "value per residue."
        )
    return mask.bool()


def _bonded(x: Tensor, mask: Tensor | None) -> Tensor:
    """Whether a residue and the next are both real, (..., n - 1)."""
    real = _mask(x, mask)
    return real[..., 1:] & real[..., :-1]


def share(inside: Tensor, counted: Tensor) -> Tensor:
    """Share of what is counted that is inside, over the last axis; NaN where nothing is."""
    return (inside & counted).sum(-1) / counted.sum(-1)


def _cosine(u: Tensor, v: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(u, v, dim=-1)
