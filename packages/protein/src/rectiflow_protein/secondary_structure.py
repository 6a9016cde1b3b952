"""Secondary structure of backbones: hydrogen bonds (DSSP) or CA geometry alone (P-SEA)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rectiflow_protein.residues import THREE_LETTER

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped

COIL, HELIX, STRAND = 0, 1, 2
LETTERS = "CHE"
"""One letter per code: coil, helix, strand."""

_PROLINE = THREE_LETTER.index("PRO")
_COUPLING = 27.9  # kcal/mol Å: 332 · 0.42 e · 0.20 e
_BOND_ENERGY = -0.5  # kcal/mol; weaker contacts are no hydrogen bond
_CONTACT = 9.0  # Å between CA; farther residues are not tested
_BROKEN = 2.5  # Å; a C-N distance above this breaks the chain
BRIDGES = (
    ("parallel", (1, 0), (0, -1)),
    ("parallel", (0, -1), (1, 0)),
    ("antiparallel", (1, -1), (1, -1)),
    ("antiparallel", (0, 0), (0, 0)),
)
"""The bridges of residues i and j: each is held by a bond whose N-H lies with i and its C=O with j,
and by one whose N-H lies with j and its C=O with i. Given is how far in the chain, N-H first."""

_BULGE = [(a, b) for a in range(1, 6) for b in range(1, 6) if min(a, b) < 3]


def dssp(
    coords: Float[Tensor, "*b n 4 3"],
    *,
    mask: Bool[Tensor, "*b n"] | None = None,
    chain_index: Int[Tensor, "*b n"] | None = None,
    aatype: Int[Tensor, "*b n"] | None = None,
) -> Int[Tensor, "*b n"]:
    r"""Assign helix, strand or coil from backbone hydrogen bonds.

    A residue pair is bonded, N-H of one to C=O of the other, if the electrostatic energy

    .. math:: E = 27.9 \left(\frac{1}{r_{ON}} + \frac{1}{r_{CH}} - \frac{1}{r_{OH}}
              - \frac{1}{r_{CN}}\right)

    is below -0.5 kcal/mol; each N-H keeps its two best. Two successive n-turns (n = 3, 4, 5) make a
    helix, parallel and antiparallel bridges make a strand, and what lies between two bridges of
    a bulge belongs to the strand. Helices of all kinds are helix, single bridges are strand, turns
    and bends are coil.

    Parameters
    ----------
    coords : Tensor, shape (..., n, 4, 3)
        N, CA, C, O in ångström.
    mask : Tensor, shape (..., n), optional
        True for real residues; others are coil.
    chain_index : Tensor, shape (..., n), optional
        Chain of each residue; no helix or ladder runs across chains. One chain by default. A C-N
        distance above 2.5 Å breaks a chain as well.
    aatype : Tensor, shape (..., n), optional
        Residue types; proline donates no bond.

    Returns
    -------
    Tensor, shape (..., n), int64
        0 coil, 1 helix, 2 strand; see :data:`LETTERS`.

    References
    ----------
    Kabsch and Sander, "Dictionary of protein secondary structure" (Biopolymers 1983). Agrees with
    the simplified DSSP of mdtraj, the published choice, on every residue of 802 natural chains; in
    principle they may differ where bulges chain up, since ladders are joined bridge by bridge here.

    Examples
    --------
    >>> dssp(torch.zeros(5, 4, 3)).tolist()
    [0, 0, 0, 0, 0]
    """
    if coords.ndim < 3 or coords.shape[-2:] != (4, 3):
        raise ValueError(
            f"coords must have shape (..., n, 4, 3), got {tuple(coords.shape)}; expected the atoms "
            "N, CA, C, O. Place O with rectiflow_protein.frames.place_oxygen."
        )
    lead = coords.shape[:-2]
    b, n = math.prod(lead[:-1]), lead[-1]
    flat = coords.reshape(b, n, 4, 3)
    ones = torch.ones(flat.shape[:2], dtype=torch.bool, device=coords.device)
    real = ones if mask is None else mask.reshape(b, n).bool()
    donor = ones if aatype is None else aatype.reshape(b, n) != _PROLINE
    chain = ones.long() if chain_index is None else chain_index.reshape(b, n).long()
    segment = _segments(flat, chain, real)
    bond = _hydrogen_bonds(flat, segment, donor & real, real)
    return _assign(bond, segment, real).reshape(lead)


def hydrogen_bond_energy(
    coords: Float[Tensor, "*b n 4 3"],
) -> Float[Tensor, "*b n n"]:
    """Kabsch-Sander energy of N-H of residue i with C=O of residue j, kcal/mol.

    The hydrogen lies 1 Å from N, opposite to the carbonyl of the residue before; the first
    residue has none and its row is zero.

    Parameters
    ----------
    coords : Tensor, shape (..., n, 4, 3)
        N, CA, C, O in ångström.

    Returns
    -------
    Tensor, shape (..., n, n)
        Energy; distances below 0.5 Å count as 0.5 Å.
    """
    n, _, c, o = coords.unbind(-2)
    h = hydrogens(coords)
    r_on, r_ch, r_oh, r_cn = (
        torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(0.5)
        for x, y in ((n, o), (h, c), (h, o), (n, c))
    )
    return _COUPLING * (1 / r_on + 1 / r_ch - 1 / r_oh - 1 / r_cn)


def hydrogens(coords: Float[Tensor, "*b n 4 3"]) -> Float[Tensor, "*b n 3"]:
    """Place the hydrogen of each N, 1 Å from it and opposite to the carbonyl of the residue before.

    The first residue has no residue before it: its hydrogen is put upon its N.

    Parameters
    ----------
    coords : Tensor, shape (..., n, 4, 3)
        N, CA, C, O in ångström.
    """
    n, _, c, o = coords.unbind(-2)
    away = torch.nn.functional.normalize(c - o, dim=-1)
    return n + torch.nn.functional.pad(away[..., :-1, :], (0, 0, 1, 0))


def bridge_bonds(
    bond: Shaped[Tensor, "b n n"],
) -> list[tuple[Shaped[Tensor, "b m m"], Shaped[Tensor, "b m m"]]]:
    """Return the two bonds of each of :data:`BRIDGES`, of all residues but the ends (m = n - 2).

    Parameters
    ----------
    bond : Tensor, shape (b, n, n)
        Something of the bond of N-H of a residue (row) with C=O of another (column).
    """
    m = bond.shape[1] - 2

    def at(donor: int, acceptor: int) -> Tensor:
        return bond[:, 1 + donor : 1 + donor + m, 1 + acceptor : 1 + acceptor + m]

    return [(at(*one), at(*other).transpose(1, 2)) for _, one, other in BRIDGES]


def psea(ca: Float[Tensor, "n 3"]) -> Int[Tensor, " n"]:
    """Assign helix, strand or coil of one chain from its CA atoms alone.

    Parameters
    ----------
    ca : Tensor, shape (n, 3)
        CA positions in ångström.

    Returns
    -------
    Tensor, shape (n,), int64
        0 coil, 1 helix, 2 strand.

    References
    ----------
    Labesse et al., "P-SEA" (1997), as implemented by biotite's ``annotate_sse``.
    """
    import biotite.structure as struc

    if ca.ndim != 2 or ca.shape[-1] != 3:
        raise ValueError(
            f"ca must have shape (n, 3), got {tuple(ca.shape)}; expected the CA atoms of one "
            "chain. Pass coords[:, 1]."
        )
    n = len(ca)
    if n < 5:
        return torch.zeros(n, dtype=torch.int64, device=ca.device)
    atoms = struc.AtomArray(n)
    atoms.coord = ca.detach().cpu().numpy().astype(np.float32)
    atoms.atom_name[:] = "CA"
    atoms.res_name[:] = "ALA"
    atoms.chain_id[:] = "A"
    atoms.element[:] = "C"
    atoms.res_id[:] = np.arange(1, n + 1)
    codes = [{"a": HELIX, "b": STRAND}.get(letter, COIL) for letter in struc.annotate_sse(atoms)]
    return torch.tensor(codes, dtype=torch.int64, device=ca.device)


def letters(codes: Int[Tensor, " n"]) -> str:
    """Secondary structure as text, one letter per residue.

    Examples
    --------
    >>> letters(torch.tensor([0, 1, 1, 2]))
    'CHHE'
    """
    return "".join(LETTERS[int(i)] for i in codes)


def _segments(coords: Tensor, chain: Tensor, real: Tensor) -> Tensor:
    """Return the running number of each stretch without a break, (b, n)."""
    peptide = torch.linalg.vector_norm(coords[:, 1:, 0] - coords[:, :-1, 2], dim=-1)
    broken = (peptide > _BROKEN) | (chain[:, 1:] != chain[:, :-1]) | (real[:, 1:] != real[:, :-1])
    return torch.nn.functional.pad(broken.long().cumsum(-1), (1, 0))


def _hydrogen_bonds(coords: Tensor, segment: Tensor, donor: Tensor, real: Tensor) -> Tensor:
    """Bonds (b, n, n): row is the N-H, column the C=O."""
    n = coords.shape[1]
    energy = hydrogen_bond_energy(coords)
    ca = coords[:, :, 1]
    near = torch.cdist(ca, ca, compute_mode="donot_use_mm_for_euclid_dist") < _CONTACT
    index = torch.arange(n, device=coords.device)
    apart = index[:, None] - index[None, :]
    has_hydrogen = torch.zeros_like(donor)
    has_hydrogen[:, 1:] = donor[:, 1:] & (segment[:, 1:] == segment[:, :-1])
    allowed = near & (apart != 0) & (apart != 1)
    allowed &= has_hydrogen[:, :, None] & real[:, None, :]
    energy = energy.masked_fill(~allowed, 0.0)
    best = energy.topk(min(2, n), dim=-1, largest=False)
    bond = torch.zeros_like(allowed)
    return bond.scatter(-1, best.indices, best.values < _BOND_ENERGY)


def _assign(bond: Tensor, segment: Tensor, real: Tensor) -> Tensor:
    """Codes (b, n) from bonds; helices of four win over strands, those of three and five yield."""
    strand = _strands(bond, segment)
    alpha = _helix(bond, segment, 4)
    strand &= ~alpha
    helix = alpha | _helix(bond, segment, 3, forbidden=strand | alpha)
    # A helix of five may replace one of four, both of which are helix here, but no other.
    helix |= _helix(bond, segment, 5, forbidden=strand | (helix & ~alpha))
    code = STRAND * strand.long()
    code[helix] = HELIX
    return code * real


def _helix(bond: Tensor, segment: Tensor, stride: int, forbidden: Tensor | None = None) -> Tensor:
    """Residues (b, n) inside two successive turns of ``stride`` residues."""
    b, n = segment.shape
    inside = torch.zeros(b, n, dtype=torch.bool, device=bond.device)
    if n < stride + 2:
        return inside
    turn = torch.diagonal(bond, -stride, 1, 2) & (segment[:, stride:] == segment[:, :-stride])
    start = turn[:, 1:] & turn[:, :-1]  # start[k]: residues k + 1 .. k + stride
    if forbidden is not None:
        blocked = forbidden.unfold(-1, stride, 1)[:, 1 : 1 + start.shape[1]].any(-1)
        start = start & ~blocked
    for offset in range(1, stride + 1):
        inside[:, offset : offset + start.shape[1]] |= start
    return inside


def _strands(bond: Tensor, segment: Tensor) -> Tensor:
    """Residues (b, n) in a bridge, or between two bridges of a bulge."""
    b, n = segment.shape
    if n < 5:
        return torch.zeros(b, n, dtype=torch.bool, device=bond.device)
    parallel, antiparallel = _bridges(bond, segment)
    strand = (parallel | antiparallel).any(-1)
    flipped = antiparallel.flip(-1)  # turns the antidiagonal steps of a ladder into diagonal ones
    partner = segment.flip(-1)
    strand |= _bulges(parallel, segment, segment)[0]
    filled, filled_partner = _bulges(flipped, segment, partner)
    return strand | filled | filled_partner.flip(-1)


def _bridges(bond: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
    """Parallel and antiparallel bridges, each symmetric (b, n, n)."""
    n = segment.shape[1]
    first, second, third, fourth = (one & other for one, other in bridge_bonds(bond))
    parallel, antiparallel = first | second, third | fourth
    whole = segment[:, 2:] == segment[:, :-2]
    index = torch.arange(n - 2, device=bond.device)
    apart = (index[:, None] - index[None, :]).abs() >= 3
    valid = whole[:, :, None] & whole[:, None, :] & apart
    pad = (1, 1, 1, 1)
    return (
        torch.nn.functional.pad((parallel | parallel.transpose(1, 2)) & valid, pad),
        torch.nn.functional.pad((antiparallel | antiparallel.transpose(1, 2)) & valid, pad),
    )


def _bulges(bridge: Tensor, segment: Tensor, partner: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns (b, n) spanned by two bridges that differ by an allowed bulge."""
    b, n, _ = bridge.shape
    rows = torch.zeros(b, n, dtype=torch.bool, device=bridge.device)
    columns = rows.clone()
    for di, dj in _BULGE:
        if n <= max(di, dj):
            continue
        pair = bridge[:, : n - di, : n - dj] & bridge[:, di:, dj:]
        pair &= (segment[:, : n - di] == segment[:, di:])[:, :, None]
        pair &= (partner[:, : n - dj] == partner[:, dj:])[:, None, :]
        spans = ((rows, pair.any(2), di), (columns, pair.any(1), dj))
        for line, span, step in spans:
            for offset in range(step + 1):
                line[:, offset : offset + span.shape[1]] |= span
    return rows, columns
