"""Assemblies of equal chains around an axis or a point."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.spaces import quat_multiply, quat_to_rotmat, rotvec_to_quat

from rectiflow_protein.constraints import Chains, Constraint, Correction, Predict
from rectiflow_protein.result import NO_CB

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rectiflow_protein.result import BackboneSample

CHAINS = string.ascii_uppercase + string.ascii_lowercase + string.digits
"""Names of the copies."""

APART = 5.0
"""Å between the nearest CA of two copies."""

LINKER = 16
"""Empty places in the network's sequence between two copies, so that it bonds none to the next."""

_GOLDEN = (1 + math.sqrt(5)) / 2
_SYMBOL = re.compile(r"([CD])(\d+)|[TOI]")
_LARGEST_PDB = 16_666  # residues of five atoms and the ends of chains in the columns of PDB


@dataclass(frozen=True)
class Symmetry(Constraint):
    """Copies of a chain related by the rotations of a point group.

    One chain is made. The network sees it beside the copies that are next to it, moved out from
    the centre as far as it takes for no two CA of different copies to be nearer than 5 Å; all
    copies of the finished chain are placed by the same rule. So copies are equal, touch, and
    never clash.

    Parameters
    ----------
    symbol : str
        ``C3``: three around an axis; ``D2``: two such rings face to face; ``T``, ``O`` and ``I``:
        the rotations of tetrahedron, octahedron and icosahedron, 12, 24 and 60 copies.

    References
    ----------
    Watson et al., "De novo design of protein structure and function with RFdiffusion" (2023),
    supplementary section on symmetric oligomers, for showing a network the neighbouring copies.
    """

    symbol: str

    def __post_init__(self) -> None:
        found = _SYMBOL.fullmatch(self.symbol)
        order = int(found[2]) if found and found[2] else 2
        if found is None or order < 2 or len(CHAINS) < order * (1 + self.symbol.startswith("D")):
            raise ValueError(
                f"there is no symmetry {self.symbol!r} for chains; expected C2 to C{len(CHAINS)}, "
                f"D2 to D{len(CHAINS) // 2}, T, O or I."
            )

    @cached_property
    def generators(self) -> Float[Tensor, "g 4"]:
        """Rotations that bring a copy to its neighbours and generate the group."""
        kind, order = self.symbol[0], int(self.symbol[1:] or 0)
        turns: dict[str, list[tuple[int, Sequence[float]]]] = {
            "C": [(order, (0, 0, 1))],
            "D": [(order, (0, 0, 1)), (2, (1, 0, 0))],
            "T": [(3, (1, 1, 1)), (2, (0, 0, 1))],
            "O": [(4, (0, 0, 1)), (3, (1, 1, 1))],
            "I": [(5, (0, 1, _GOLDEN)), (3, (1, 1, 1))],
        }
        vectors = [
            2 * math.pi / n * torch.tensor(axis, dtype=torch.float64) / math.hypot(*axis)
            for n, axis in turns[kind]
        ]
        return rotvec_to_quat(torch.stack(vectors))

    @cached_property
    def rotations(self) -> Float[Tensor, "k 4"]:
        """All rotations of the group, the identity first."""
        found = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float64)
        while True:
            more = quat_multiply(self.generators.unsqueeze(1), found.unsqueeze(0)).reshape(-1, 4)
            longer = _distinct(torch.cat([found, more]))
            if len(longer) == len(found):
                return found
            found = longer

    @cached_property
    def neighbours(self) -> Float[Tensor, "s 4"]:
        """The identity and the rotations to the copies that the network sees."""
        backward = self.generators * torch.tensor([1.0, -1, -1, -1])
        return _distinct(torch.cat([self.rotations[:1], self.generators, backward]))

    @cached_property
    def away(self) -> Float[Tensor, 3]:
        """Direction in which a chain leaves its copies fastest."""
        i = np.arange(2000) + 0.5
        polar, around = np.arccos(1 - 2 * i / len(i)), 2 * math.pi * i / _GOLDEN
        points = np.stack(
            [np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], -1
        )
        turned = np.einsum("kij,pj->kpi", quat_to_rotmat(self.rotations[1:]).numpy(), points)
        return torch.from_numpy(points[np.linalg.norm(turned - points, axis=-1).min(0).argmax()])

    def check(self, length: int) -> None:
        """Refuse assemblies that no PDB file can hold."""
        total = len(self.rotations) * length
        if total > _LARGEST_PDB:
            raise ValueError(
                f"{self.symbol} of {length} residues has {total}, got more than the {_LARGEST_PDB} "
                f"that a PDB file can hold; expected at most "
                f"{_LARGEST_PDB // len(self.rotations)} residues in a copy."
            )

    def tokens(self, length: int) -> int:
        """Return how many places the network sees."""
        seen = len(self.neighbours)
        return seen * length + (seen - 1) * LINKER

    def distance(
        self, trans: Float[Tensor, "b n 3"], mask: Float[Tensor, "b n"] | None = None
    ) -> Float[Tensor, " b"]:
        """Return how far chains have to go from the centre for their copies to be apart, Å.

        Beyond it no two CA are too near: it is the largest root of any pair's quadratic.
        """
        turn = quat_to_rotmat(self.rotations[1:]).to(trans)
        away = self.away.to(trans)
        w = away - turn @ away
        a = trans[:, None, :, None] - (trans.unsqueeze(1) @ turn.mT)[:, :, None]
        square = (w * w).sum(-1)[:, None, None]
        half = (a * w[:, None, None]).sum(-1)
        inside = half * half - square * ((a * a).sum(-1) - APART**2)
        root = torch.where(inside > 0, (inside.clamp_min(0).sqrt() - half) / square, 0.0)
        if mask is not None:
            root = root * (mask[:, None, :, None] * mask[:, None, None, :])
        return root.flatten(1).amax(1).clamp_min(0)

    def around(self, network: Predict) -> Predict:
        """Return the network called on a chain with its neighbours, for the chain alone."""
        turns, away = self.neighbours, self.away

        def predict(
            x: dict[str, Tensor],
            t: Tensor,
            *,
            res_idx: Tensor,
            res_mask: Tensor | None = None,
            trans_sc: Tensor | None = None,
        ) -> dict[str, Tensor]:
            b, n, _ = x["trans"].shape
            turn = turns.to(x["trans"])
            own = torch.ones_like(res_idx) if res_mask is None else res_mask
            source, mask = _places(own.sum(1).long(), len(turns), n)

            def placed(trans: Tensor) -> tuple[Tensor, Tensor]:
                shift = (self.distance(trans, res_mask)[:, None] * away.to(trans)).unsqueeze(1)
                copies = (trans + shift).unsqueeze(1) @ quat_to_rotmat(turn).mT
                return _taken(copies, source), shift

            trans, shift = placed(x["trans"])
            rot = quat_multiply(turn[None, :, None], x["rot"].unsqueeze(1))
            number = torch.arange(mask.shape[1], dtype=res_idx.dtype, device=res_idx.device)
            found = network(
                {"trans": trans, "rot": _taken(rot, source)},
                t,
                res_idx=number.expand(b, -1),
                res_mask=mask.to(own.dtype),
                trans_sc=None if trans_sc is None else placed(trans_sc)[0],
            )
            return {"trans": found["trans"][:, :n] - shift, "rot": found["rot"][:, :n]}

        return predict

    def on(self, chains: Chains) -> Correction:
        """Return what places the copies of a finished chain."""
        return _Assembled(self)


@dataclass(frozen=True)
class _Assembled(Correction):
    symmetry: Symmetry

    def finish(self, row: int, sample: BackboneSample) -> BackboneSample:
        """Give a sample the whole assembly to write, and tell how near its copies are."""
        from rectiflow_protein.io import Backbone

        own = sample.backbone()
        coords = torch.from_numpy(sample.atoms[:, NO_CB]).double()
        out = self.symmetry.distance(coords[None, :, 1])[0] * self.symmetry.away
        turns = quat_to_rotmat(self.symmetry.rotations)
        copies = (coords + out).flatten(0, 1) @ turns.mT
        copies = copies.unflatten(1, (len(coords), 4))
        k, n = copies.shape[:2]
        apart = torch.cdist(copies[0, :, 1], copies[1:, :, 1].flatten(0, 1))
        whole = Backbone(
            coords=copies.flatten(0, 1).float().numpy(),
            aatype=np.tile(own.aatype, k),
            residue_index=np.tile(own.residue_index, k),
            insertion_codes=np.tile(own.insertion_codes, k),
            chain_ids=np.repeat(np.array(list(CHAINS[:k])), n),
            name=own.name,
        )
        told = {"copies": k, "copies_apart": round(float(apart.min()), 3)}
        return replace(sample, shown=whole, told={**sample.told, **told})


def _places(lengths: Tensor, copies: int, longest: int) -> tuple[Tensor, Tensor]:
    """Line up copies with empty places between them, whatever the padding.

    Returns which of ``copies * longest`` residues stands at each place, (b, m), and whether one
    does.
    """
    place = torch.arange(copies * (longest + LINKER) - LINKER, device=lengths.device)
    step = lengths.unsqueeze(1) + LINKER
    copy, residue = place // step, place % step
    real = (copy < copies) & (residue < lengths.unsqueeze(1))
    return torch.where(real, copy * longest + residue, 0), real


def _taken(copies: Tensor, source: Tensor) -> Tensor:
    """Take the residues at each place of ``(b, copies, n, c)``."""
    flat = copies.flatten(1, 2)
    return flat.gather(1, source.unsqueeze(-1).expand(-1, -1, flat.shape[-1]))


def _distinct(quats: Tensor) -> Tensor:
    """Return each rotation once, in the order of first appearance."""
    kept: list[Tensor] = []
    for quat in quats:
        if all(abs(float(quat @ other)) < 1 - 1e-6 for other in kept):
            kept.append(quat)
    return torch.stack(kept)
