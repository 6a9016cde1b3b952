"""How much of a chain is helix and strand: a layout drawn for each sample, held while it forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from rectiflow.randomness import counter_generator

from rectiflow_protein.anchors import Anchors, deal
from rectiflow_protein.constraints import Chains, Constraint, Correction
from rectiflow_protein.data.synthetic import backbone_from_torsions
from rectiflow_protein.frames import (
    backbone_from_frames,
    frames_from_backbone,
    rotmat_from_backbone,
)
from rectiflow_protein.metrics import kabsch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from rectiflow_protein.result import BackboneSample

HELIX, STRAND = (-63.0, -42.0), (-139.0, 135.0)
"""Phi and psi of ideal pieces, degrees; this strand is flat."""

LONGEST_HELIX, LONGEST_STRAND = 20, 5
"""Residues that DSSP counts of the longest pieces; flat strands part when they go on for longer."""

LOOP, TURN = 3, 3
"""Least residues between two pieces, and residues between the strands of a hairpin."""

_HELIX_ENDS, _STRAND_ENDS = 1, 2  # residues of a piece that DSSP does not count in the end
_LARGEST = 0.9  # share of helix and strand: some residues have to turn

# The half turn that brings a flat strand beside itself, its last residue opposite to its first: an
# axis and a point of it, Å, in the frame of the last residue. It minimises the energies of the
# hydrogen bonds between the two (five and five of seven residues are strand by DSSP).
_AXIS = (0.3403, 0.5466, 0.7651)
_POINT = (-9.379, 4.719, 0.800)


@dataclass(frozen=True)
class Composition(Constraint):
    """Shares of helix and strand, by DSSP.

    For each sample a layout of helices and hairpins with these shares is drawn, in any order and
    with loops of any length between them. Until the chain has formed, each piece of a prediction is
    replaced by an ideal one where the prediction has it, and the loops go along; then the network
    goes on alone, and settles how the pieces pack and end. A sample whose shares are off by more
    than the tolerance misses.

    Parameters
    ----------
    helix, strand : float, optional
        Shares of the residues, in [0, 1]; whatever comes if absent.
    tolerance : float, default 0.1
        By which a share may be off.
    until : float, default 0.8
        Time up to which pieces are replaced.
    """

    helix: float | None = None
    strand: float | None = None
    tolerance: float = 0.1
    until: float = 0.8

    def __post_init__(self) -> None:
        for name in ("helix", "strand"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"a share of {name} lies in [0, 1], got {share:g}.")
        total = (self.helix or 0) + (self.strand or 0)
        if total > _LARGEST:
            raise ValueError(
                f"helix and strand leave too little to turn, got {total:g} of the chain; expected "
                f"at most {_LARGEST:g}."
            )

    def check(self, length: int) -> None:
        """Refuse chains too short for the layout."""
        self.layout(length, torch.Generator().manual_seed(0))

    def layout(self, length: int, generator: torch.Generator) -> list[Piece]:
        """Draw which pieces a chain has, and where.

        Raises
        ------
        ValueError
            When the chain has no room for them.
        """
        helix, strand = (round((share or 0) * length) for share in (self.helix, self.strand))
        sizes = [(n + _HELIX_ENDS, False) for n in _split(helix, LONGEST_HELIX)]
        pairs = _split(strand, 2 * LONGEST_STRAND)
        sizes += [(math.ceil(n / 2) + _STRAND_ENDS, True) for n in pairs]
        if not sizes:
            return []
        order = torch.randperm(len(sizes), generator=generator).tolist()
        taken = [2 * n + TURN if paired else n for n, paired in sizes]
        free = length - sum(taken) - LOOP * (len(sizes) - 1)
        if free < 0:
            raise ValueError(
                f"{self} does not fit, got chains of {length} residues; expected at least "
                f"{length - free}, with the loops between pieces. Ask for less or for longer ones."
            )
        between = [(0, None), *[(LOOP, None)] * (len(sizes) - 1), (0, None)]
        found, at = [], 0
        for loop, k in zip(deal(length - sum(taken), between, generator)[:-1], order, strict=True):
            n, paired = sizes[k]
            rows = torch.arange(at + loop, at + loop + n)
            if paired:
                rows = torch.cat([rows, rows + n + TURN])
            found.append(Piece(rows, ideal_hairpin(n) if paired else ideal_piece(n, HELIX)))
            at += loop + taken[k]
        return found

    def on(self, chains: Chains) -> Correction:
        """Return what holds the layouts of a batch."""
        return _Layouts(self, chains)

    def miss(self, sample: BackboneSample) -> float:
        """Return by how much the share that is off most is off beyond the tolerance."""
        found = sample.metrics()
        wanted = (("helix", self.helix), ("strand", self.strand))
        off = [abs(found[name] - share) for name, share in wanted if share is not None]
        return max(0.0, *(value - self.tolerance for value in off))


class Piece(NamedTuple):
    """Residues of a chain, and the ideal N, CA and C ``(m, 3, 3)`` that they are to have."""

    rows: Int[Tensor, " m"]
    atoms: Float[Tensor, "m 3 3"]


class _Layouts(Correction):
    """The layouts of the chains of a batch."""

    def __init__(self, wanted: Composition, chains: Chains) -> None:
        self.until, longest, device = wanted.until, max(chains.lengths), chains.device
        layouts = [
            wanted.layout(length, counter_generator("layout", chains.seed, index))
            for length, index in zip(chains.lengths, chains.indices, strict=True)
        ]
        count = max(map(len, layouts))
        self.atoms = torch.zeros(len(layouts), longest, 3, 3)
        self.pieces = torch.zeros(len(layouts), count, longest)
        for i, layout in enumerate(layouts):
            for k, piece in enumerate(layout):
                self.atoms[i, piece.rows] = piece.atoms.float()
                self.pieces[i, k, piece.rows] = 1.0
        self.anchors: Anchors | None = None
        if count:
            rows = [torch.cat([p.rows for p in layout]).sort().values for layout in layouts]
            self.anchors = Anchors(rows, longest, device)
        self.atoms, self.pieces = self.atoms.to(device), self.pieces.to(device)

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the prediction with ideal pieces where it has them."""
        if self.anchors is None or t > self.until:
            return frames
        b, count, n = self.pieces.shape
        shape = (b, count, 3 * n, 3)
        theirs = backbone_from_frames(frames).flatten(1, 2).unsqueeze(1).expand(shape)
        ours = self.atoms.flatten(1, 2).unsqueeze(1).expand(shape)
        turn, shift = kabsch(ours, theirs, self.pieces.repeat_interleave(3, dim=2) > 0)
        # Each residue is of one piece, or of none: then what is placed is not looked at.
        turn = torch.einsum("bkn,bkij->bnij", self.pieces, turn)
        shift = torch.einsum("bkn,bki->bni", self.pieces, shift)
        placed = torch.einsum("bnij,bnaj->bnai", turn, self.atoms) + shift.unsqueeze(2)
        inside = (self.pieces.sum(1) > 0).unsqueeze(-1)
        own = frames_from_backbone(*placed.unbind(2))
        trans = torch.where(inside, own["trans"], frames["trans"])
        return self.anchors.carry(frames, trans, torch.where(inside, own["rot"], frames["rot"]))


def ideal_piece(length: int, torsions: tuple[float, float]) -> Float[Tensor, "n 3 3"]:
    """Build N, CA and C of a piece with one phi and psi, degrees, ideal otherwise."""
    phi, psi = (torch.full((length,), math.radians(angle)) for angle in torsions)
    return backbone_from_torsions(phi, psi)[:, :3]


def ideal_hairpin(length: int) -> Float[Tensor, "m 3 3"]:
    """Build N, CA and C of two flat antiparallel strands of so many residues each."""
    one = ideal_piece(length, STRAND)
    turn = rotmat_from_backbone(*one[-1])
    local = (one - one[-1, 1]) @ turn
    axis, point = (torch.tensor(x, dtype=local.dtype) for x in (_AXIS, _POINT))
    half = 2 * torch.outer(axis, axis) / (axis @ axis) - torch.eye(3, dtype=local.dtype)
    return torch.cat([local, (local - point) @ half.mT + point])


def _split(total: int, longest: int) -> list[int]:
    """Share out residues among as few pieces as the longest allows, all about equally long."""
    count = math.ceil(total / longest)
    return [total // count + (k < total % count) for k in range(count)]
