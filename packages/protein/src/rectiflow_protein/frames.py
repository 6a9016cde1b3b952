"""Residue frames and the backbone atoms they carry.

A residue is a rigid frame: a unit quaternion ``(w, x, y, z)`` and the position of its alpha carbon
in ångström. ``p_global = R(q) p_local + x``; the frame's axes are the columns of ``R``. A chain is
the state ``{"trans": (..., n, 3), "rot": (..., n, 4)}`` of a product space.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rectiflow.spaces import Euclidean, Product, Rotations, quat_to_rotmat, rotmat_to_quat
from torch import Tensor

from rectiflow_protein.residues import C_O_BOND, IDEAL_C, IDEAL_CA, IDEAL_CB, IDEAL_N

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

FRAME_SPACE = Product({"trans": Euclidean(), "rot": Rotations()})
"""Where a chain of residue frames lives."""

_EPS = 1e-8  # under the square roots, as in the reference implementation


def rotmat_from_backbone(
    n: Float[Tensor, "*b 3"], ca: Float[Tensor, "*b 3"], c: Float[Tensor, "*b 3"]
) -> Float[Tensor, "*b 3 3"]:
    r"""Build residue orientations by Gram-Schmidt on N, CA and C.

    .. math:: e_1 \propto C - CA, \quad e_2 \propto (N - CA) - ((N - CA)\cdot e_1) e_1,
              \quad e_3 = e_1 \times e_2

    Parameters
    ----------
    n, ca, c : Tensor, shape (..., 3)
        Atom positions in ångström; use float64 where digits matter.

    Returns
    -------
    Tensor, shape (..., 3, 3)
        Columns ``e1, e2, e3``.

    References
    ----------
    Jumper et al., "Highly accurate protein structure prediction with AlphaFold" (2021),
    supplementary algorithm 21.
    """
    e1 = _unit(c - ca)
    u = n - ca
    e2 = _unit(u - (u * e1).sum(-1, keepdim=True) * e1)
    return torch.stack([e1, e2, torch.linalg.cross(e1, e2)], dim=-1)


def frames_from_backbone(
    n: Float[Tensor, "*b 3"], ca: Float[Tensor, "*b 3"], c: Float[Tensor, "*b 3"]
) -> dict[str, Tensor]:
    """Return the frames of residues, computed in float64 and given in the dtype of ``ca``.

    Returns
    -------
    dict
        ``trans (..., 3)`` in ångström and ``rot (..., 4)`` with ``w >= 0``.
    """
    rotmat = rotmat_from_backbone(n.double(), ca.double(), c.double())
    return {"trans": ca, "rot": rotmat_to_quat(rotmat).to(ca.dtype)}


def backbone_from_frames(frames: dict[str, Tensor]) -> Float[Tensor, "*b n 3 3"]:
    """Place the ideal N, CA and C atoms of each residue.

    Parameters
    ----------
    frames : dict
        ``trans (..., n, 3)`` in ångström, ``rot (..., n, 4)`` unit quaternions.

    Returns
    -------
    Tensor, shape (..., n, 3, 3)
        Ångström, atom order N, CA, C.
    """
    return _place(frames, (IDEAL_N, IDEAL_CA, IDEAL_C))


def atoms_from_frames(
    frames: dict[str, Tensor], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b n 5 3"]:
    """Place N, CA, C, CB and O of each residue, in the order of the first atom37 slots.

    Parameters
    ----------
    frames : dict
        ``trans (..., n, 3)`` in ångström, ``rot (..., n, 4)`` unit quaternions.
    mask : Tensor of bool, shape (..., n), optional
        True for real residues; the carbonyl of the last real one has no successor to lean on.

    Returns
    -------
    Tensor, shape (..., n, 5, 3)
        Ångström.
    """
    heavy = _place(frames, (IDEAL_N, IDEAL_CA, IDEAL_C, IDEAL_CB))
    oxygen = place_oxygen(heavy[..., :3, :], mask)
    return torch.cat([heavy, oxygen.unsqueeze(-2)], dim=-2)


def place_oxygen(
    backbone: Float[Tensor, "*b n 3 3"], mask: Bool[Tensor, "*b n"] | None = None
) -> Float[Tensor, "*b n 3"]:
    """Place the carbonyl oxygens from N, CA and C alone.

    Each points away from the bisector of the directions to CA and to the next residue's N, at
    1.23 Å. A residue without a successor uses the bisector of the directions to CA and to its own
    N instead, as the reference does.

    Parameters
    ----------
    backbone : Tensor, shape (..., n, 3, 3)
        Ångström, atom order N, CA, C.
    mask : Tensor of bool, shape (..., n), optional
        True for real residues.

    Returns
    -------
    Tensor, shape (..., n, 3)
        Ångström.
    """
    n, ca, c = backbone.unbind(-2)
    from_ca = _unit_safe(c - ca)
    inner = _unit_safe(from_ca[..., :-1, :] + _unit_safe(c[..., :-1, :] - n[..., 1:, :]))
    last = _unit_safe(from_ca + _unit_safe(n - ca))
    if mask is not None:
        inner = torch.where(mask[..., 1:, None].bool(), inner, last[..., :-1, :])
    direction = torch.cat([inner, last[..., -1:, :]], dim=-2)
    return c + C_O_BOND * direction


def centre(trans: Float[Tensor, "*b n 3"], mask: Tensor | None = None) -> Tensor:
    """Subtract the mean alpha-carbon position (over real residues) of each chain."""
    if mask is None:
        return trans - trans.mean(-2, keepdim=True)
    weight = mask.to(trans.dtype).unsqueeze(-1)
    total = (trans * weight).sum(-2, keepdim=True)
    return trans - total / weight.sum(-2, keepdim=True).clamp_min(1)


def _place(frames: dict[str, Tensor], local: tuple[tuple[float, float, float], ...]) -> Tensor:
    trans, rotmat = frames["trans"], quat_to_rotmat(frames["rot"])
    atoms = torch.tensor(local, dtype=trans.dtype, device=trans.device)
    return torch.einsum("...ij,aj->...ai", rotmat, atoms) + trans.unsqueeze(-2)


def _unit(v: Tensor) -> Tensor:
    return v / torch.sqrt((v * v).sum(-1, keepdim=True) + _EPS)


def _unit_safe(v: Tensor) -> Tensor:
    return v / (torch.linalg.vector_norm(v, dim=-1, keepdim=True) + 1e-7)
