"""Rebuilding a stretch of a structure while the rest stays as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.spaces import quat_multiply, rotmat_to_quat

from rectiflow_protein.constraints import Chains, Constraint, Correction
from rectiflow_protein.metrics import kabsch
from rectiflow_protein.motif import Motif, MotifFrames
from rectiflow_protein.residues import ALANINE
from rectiflow_protein.result import NO_CB

if TYPE_CHECKING:
    from rectiflow_protein.io import Backbone
    from rectiflow_protein.result import BackboneSample

_RANGE = re.compile(r"([^\W\d_]*)(-?\d+)(?:-(-?\d+))?")


@dataclass(frozen=True, repr=False)
class Resample(Constraint):
    """Stretches of one chain made anew, in a structure whose other residues do not move at all.

    Parameters
    ----------
    structure : Backbone
        One or more chains.
    rows : sequence of int
        Rows of the structure that are made anew, all of one chain.
    source : str
        What it was read from.

    Raises
    ------
    ValueError
        When that is nothing, a whole chain, or not of one chain.
    """

    structure: Backbone
    rows: Sequence[int]
    source: str = ""

    def __post_init__(self) -> None:
        chains = dict.fromkeys(self.structure.chain_ids[list(self.rows)].tolist())
        if len(chains) != 1:
            raise ValueError(
                f"one chain is resampled at a time, got residues of {len(chains)}; expected those "
                "of one."
            )
        if len(set(self.rows)) == self.length:
            raise ValueError(
                f"nothing of chain {next(iter(chains))!r} would stay, got all of its {self.length} "
                "residues; expected fewer. Make whole chains with `rectiflow protein sample`."
            )

    def __repr__(self) -> str:
        return f"Resample({self.source or self.structure.name}, {len(self.rows)} residues)"

    @property
    def chain_rows(self) -> np.ndarray:
        """Rows of the chain that is worked on."""
        return np.flatnonzero(self.structure.chain_ids == self.structure.chain_ids[self.rows[0]])

    @property
    def length(self) -> int:
        """Residues of that chain."""
        return len(self.chain_rows)

    def check(self, length: int) -> None:
        """Refuse another length than the chain's."""
        if length != self.length:
            raise ValueError(
                f"the chain that is resampled has {self.length} residues, got a length of {length}."
            )

    def on(self, chains: Chains) -> Correction:
        """Return what keeps the rest of the chain."""
        return _Rest(self, chains)


class _Rest(MotifFrames):
    """The residues that stay, as a motif whose place is known."""

    def __init__(self, wanted: Resample, chains: Chains) -> None:
        self.wanted = wanted
        inside = np.isin(wanted.chain_rows, list(wanted.rows))
        edges = np.flatnonzero(np.diff(np.concatenate([[True], inside, [True]])))
        starts, stops = edges[::2], edges[1::2]  # of the runs that stay
        segments = [
            wanted.structure[wanted.chain_rows[a:b]] for a, b in zip(starts, stops, strict=True)
        ]
        free = np.diff(np.concatenate([[0], np.stack([starts, stops], 1).ravel(), [len(inside)]]))
        super().__init__(Motif(segments, spans=[(int(n), int(n)) for n in free[::2]]), chains)

    def finish(self, row: int, sample: BackboneSample) -> BackboneSample:
        """Lay the sample onto the structure, and put the new stretch into it."""
        sample = super().finish(row, sample)
        structure, stays = self.wanted.structure, list(sample.motif)
        fixed = torch.from_numpy(structure.coords[self.wanted.chain_rows[stays]]).double()
        own = torch.from_numpy(sample.atoms[stays][:, NO_CB]).double()
        turn, shift = kabsch(own[:, :3].flatten(0, 1), fixed[:, :3].flatten(0, 1))
        atoms = (torch.from_numpy(sample.atoms).double() @ turn.mT + shift).numpy()
        fresh = np.setdiff1d(np.arange(len(atoms)), stays)
        coords, aatype = structure.coords.copy(), structure.aatype.copy()
        coords[self.wanted.chain_rows[fresh]] = atoms[fresh][:, NO_CB]
        aatype[self.wanted.chain_rows[fresh]] = ALANINE
        atoms[np.ix_(np.array(stays), np.array(NO_CB))] = fixed.numpy()
        quat = rotmat_to_quat(turn).float()
        frames = {
            "trans": (sample.frames["trans"].double() @ turn.mT + shift).float(),
            "rot": quat_multiply(quat, sample.frames["rot"]),
        }
        told = {k: v for k, v in sample.told.items() if k != "motif"}
        told["resampled"] = [structure.label(int(r)) for r in self.wanted.chain_rows[fresh]]
        return replace(
            sample,
            atoms=atoms.astype(np.float32),
            frames=frames,
            shown=replace(structure, coords=coords, aatype=aatype, dropped=()),
            told=told,
        )


def read_resample(structure: Backbone, residues: str, source: str = "") -> Resample:
    """Name the residues ``20-35`` or ``A20-35,A50`` of a structure by its own numbers.

    Raises
    ------
    ValueError
        When the text has another form, names residues that are not there or names one twice.
    """
    rows: list[int] = []
    chains = structure.chains()
    for part in (part.strip() for part in residues.split(",")):
        found = _RANGE.fullmatch(part)
        if found is None:
            raise ValueError(
                f"residues {part!r} are not understood; expected FIRST-LAST such as 20-35 or "
                "A20-35, with the numbers of the file."
            )
        chain = found[1] or next(iter(chains))
        if chain not in chains or (not found[1] and len(chains) > 1):
            raise ValueError(
                f"{source} has chains {', '.join(map(repr, chains))}, got {part!r}; expected one "
                "of them before the number, such as A20-35."
            )
        first, last = int(found[2]), int(found[3] or found[2])
        numbers = structure.residue_index
        for number in range(first, last + 1):
            here = np.flatnonzero((structure.chain_ids == chain) & (numbers == number))
            if not len(here):
                own = chains[chain].residue_index
                raise ValueError(
                    f"{source} has no residue {chain}{number}, got {own.min()} to {own.max()} in "
                    f"chain {chain!r}; expected residues that are there."
                )
            rows += here.tolist()
        if last < first:
            raise ValueError(f"residues {part!r} go down; expected FIRST-LAST that goes up.")
    if len(set(rows)) < len(rows):
        raise ValueError(f"residues {residues!r} overlap; expected each residue once.")
    return Resample(structure, tuple(rows), f"{source}:{residues}")
