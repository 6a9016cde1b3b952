"""Scaffolding a motif: residues of a given structure stand in every sample as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.spaces import quat_multiply, quat_to_rotmat, rotmat_to_quat

from rectiflow_protein.frames import backbone_from_frames, frames_from_backbone
from rectiflow_protein.metrics import kabsch
from rectiflow_protein.residues import CA_CA_DISTANCE

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from rectiflow_protein.io import Backbone

SPREAD = 2.0
"""Residues over which what moves a motif's end is shared with the chain beside it."""

_SLACK = 0.1  # of a CA-CA distance: what a bond may be longer than the ideal
_SEGMENT = re.compile(r"(?P<chain>[^\W\d_]+)(?P<first>-?\d+)(?:-(?P<last>-?\d+))?")


@dataclass(frozen=True)
class Motif:
    """Pieces of a structure that keep their shape and their places to each other.

    Parameters
    ----------
    segments : sequence of Backbone
        Runs of bonded residues, in the order in which the chain is to meet them.
    source : str
        What it was read from, as :func:`read_motif` takes it.
    """

    segments: Sequence[Backbone]
    source: str = ""

    def __str__(self) -> str:
        return self.source or ",".join(f"{s.label(0)}-{s.label(len(s) - 1)}" for s in self.segments)

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @property
    def coords(self) -> Float[np.ndarray, "m 4 3"]:
        """N, CA, C and O of all residues, Å."""
        return np.concatenate([segment.coords for segment in self.segments])

    @property
    def sequence(self) -> str:
        """One-letter sequence."""
        return "".join(segment.sequence for segment in self.segments)

    @property
    def gaps(self) -> list[int]:
        """Fewest residues that can bridge each segment to the next."""
        found = []
        for one, next_one in zip(self.segments[:-1], self.segments[1:], strict=True):
            distance = float(np.linalg.norm(next_one.coords[0, 1] - one.coords[-1, 1]))
            found.append(max(0, math.ceil(distance / CA_CA_DISTANCE - 1 - _SLACK)))
        return found

    def check(self, length: int) -> int:
        """Return how many residues a chain of this length has left to place freely.

        Raises
        ------
        ValueError
            When the chain is too short.
        """
        needed = len(self) + sum(self.gaps)
        if length < needed:
            raise ValueError(
                f"the motif does not fit, got a chain of {length} residues for {len(self)} of the "
                f"motif and {sum(self.gaps)} to bridge its gaps; expected a length of at least "
                f"{needed}. Ask for longer chains or give fewer residues."
            )
        return length - needed

    def place(self, length: int, generator: torch.Generator) -> Int[Tensor, " m"]:
        """Draw where in a chain the motif's residues stand.

        The residues that are free go before, between and behind the segments, each way of sharing
        them out being equally likely, after each gap has the fewest that can bridge it.

        Raises
        ------
        ValueError
            When the chain is too short.
        """
        free, parts = self.check(length), len(self.segments)
        bars = torch.randperm(free + parts, generator=generator)[:parts].sort().values
        before = (bars - torch.arange(parts)).tolist()  # free residues before each segment
        rows, used = [], 0
        for segment, gap, extra in zip(self.segments, [0, *self.gaps], before, strict=True):
            used += gap
            rows.append(torch.arange(used, used + len(segment)) + extra)
            used += len(segment)
        return torch.cat(rows)


def read_motif(text: str) -> Motif:
    """Read ``FILE:A10-30,B5``: residues of a structure file, by its own chains and numbers.

    Raises
    ------
    ValueError
        When the text has another form, or names chains or residues that the file does not have.

    Examples
    --------
    >>> read_motif("scaffold.pdb:10-30")
    Traceback (most recent call last):
    ...
    ValueError: motif segment '10-30' is not understood; expected CHAIN FIRST-LAST such as A10-30 \
or B5, with the numbers of the file.
    """
    from rectiflow_protein.io import read_structure

    file, colon, parts = text.rpartition(":")
    if not colon or not file or not parts:
        raise ValueError(f"motif {text!r} is not understood; expected FILE:A10-30,B5.")
    wanted = [_parse(part.strip()) for part in parts.split(",")]
    whole = read_structure(Path(file))
    chosen = [_segment(whole, file, *one) for one in wanted]
    labels = [segment.label(i) for segment in chosen for i in range(len(segment))]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(
            f"motif {text!r} names residue {twice[0]} twice; expected each residue once."
        )
    return Motif(chosen, text)


def _parse(part: str) -> tuple[str, int, int]:
    found = _SEGMENT.fullmatch(part)
    if found is None:
        raise ValueError(
            f"motif segment {part!r} is not understood; expected CHAIN FIRST-LAST such as A10-30 "
            "or B5, with the numbers of the file."
        )
    first = int(found["first"])
    last = first if found["last"] is None else int(found["last"])
    if last < first:
        raise ValueError(f"motif segment {part!r} goes down; expected FIRST-LAST that goes up.")
    return found["chain"], first, last


def _segment(whole: Backbone, file: str, chain: str, first: int, last: int) -> Backbone:
    """Return the residues, every number of the range and bonded."""
    chains = whole.chains()
    if chain not in chains:
        raise ValueError(
            f"{file} has no chain {chain!r}, got chains {', '.join(map(repr, chains))}; expected "
            "one of them. Upper and lower case differ."
        )
    numbers = chains[chain].residue_index
    missing = sorted(set(range(first, last + 1)) - set(numbers.tolist()))
    if missing:
        raise ValueError(
            f"{file} has no residue {chain}{missing[0]}, got {numbers.min()} to {numbers.max()} "
            f"in chain {chain!r}; expected every residue of {chain}{first}-{last} with its N, CA "
            "and C. Give the pieces that are there as segments."
        )
    segment = chains[chain][np.flatnonzero((numbers >= first) & (numbers <= last))]
    if len(segment.breaks):
        at = segment.label(int(segment.breaks[0]))
        raise ValueError(
            f"{file} has a chain break after {at}; expected bonded residues in "
            f"{chain}{first}-{last}. Give the pieces on both sides as segments."
        )
    return segment


class MotifFrames:
    """A motif in a batch: a correction that puts it into every prediction.

    The motif is laid onto its predicted residues by the best rigid motion and takes their place;
    the chain beside it follows, less and less over a few residues. No gradient and no network
    trained for it is needed, and the motif is exact at every time.

    Parameters
    ----------
    motif : Motif
    rows : sequence of Tensor, each of shape (m,)
        Where the motif stands in each sample.
    lengths : sequence of int
        Residues of each sample.
    device : device
        Where the batch is.

    References
    ----------
    Replacement as in Trippe et al., "Diffusion probabilistic modeling of protein backbones in 3D
    for the motif-scaffolding problem" (ICLR 2023), in the frame of the prediction.
    """

    def __init__(
        self, motif: Motif, rows: Sequence[Tensor], lengths: Sequence[int], device: torch.device
    ) -> None:
        length = max(lengths)
        n, ca, c, _ = torch.from_numpy(motif.coords).unbind(1)
        own = frames_from_backbone(n, ca, c)
        b = len(rows)
        self.mask = torch.zeros(b, length)
        trans, rot = torch.zeros(b, length, 3), torch.zeros(b, length, 4)
        rot[..., 0] = 1.0
        nearest = []
        for i, row in enumerate(rows):
            self.mask[i, row] = 1.0
            trans[i, row], rot[i, row] = own["trans"], own["rot"]
            apart = (torch.arange(length)[:, None] - row[None]).abs()
            nearest.append(torch.stack([apart.min(1).values, row[apart.argmin(1)]]))
        apart, self.nearest = (x.to(device) for x in torch.stack(nearest, 1).unbind(0))
        self.weight = torch.exp(-0.5 * (apart / SPREAD) ** 2).unsqueeze(-1)
        self.junctions = [
            (i, near, far, _share(self.mask[i], far, far - near, lengths[i]).to(device))
            for i, row in enumerate(rows)
            for near in row.tolist()
            for far in (near - 1, near + 1)
            if 0 <= far < lengths[i] and self.mask[i, far] == 0
        ]
        self.mask = self.mask.to(device)
        self.frames = {"trans": trans.to(device), "rot": rot.to(device)}

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the prediction with the motif in it."""
        theirs, ours = (backbone_from_frames(f).flatten(1, 2) for f in (frames, self.frames))
        turn, shift = kabsch(ours, theirs, self.mask.repeat_interleave(3, dim=1) > 0)
        trans = self.frames["trans"] @ turn.mT + shift.unsqueeze(1)
        rot = quat_multiply(rotmat_to_quat(turn).unsqueeze(1), self.frames["rot"])
        moved = (trans - frames["trans"]).gather(1, self.nearest.unsqueeze(-1).expand_as(trans))
        return {
            "trans": self._close(frames["trans"] + self.weight * moved),
            "rot": torch.where(self.mask.unsqueeze(-1) > 0, rot, frames["rot"]),
        }

    def _close(self, trans: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Give the bonds between motif and scaffold their length, sharing the shift behind them."""
        trans = trans.clone()
        for sample, near, far, share in self.junctions:
            bond = trans[sample, far] - trans[sample, near]
            length = torch.linalg.vector_norm(bond).clamp_min(0.1)
            trans[sample] += share * (CA_CA_DISTANCE / length - 1) * bond
        return trans


def _share(mask: Tensor, first: int, step: int, length: int) -> Float[Tensor, "n 1"]:
    """Return how far each residue follows the first of a stretch of scaffold that is shifted."""
    share = torch.zeros(len(mask), 1)
    row = first
    while 0 <= row < length and mask[row] == 0:
        share[row] = math.exp(-0.5 * ((row - first) / SPREAD) ** 2)
        row += step
    return share


def motif_atoms(
    motif: Motif, frames: dict[str, Tensor], rows: Int[Tensor, " m"]
) -> Float[Tensor, "m 4 3"]:
    """Carry N, CA, C and O of a motif, as the file has them, to its frames in a sample."""
    coords = torch.from_numpy(motif.coords)
    own = frames_from_backbone(*coords[:, :3].unbind(1))
    local = (coords - own["trans"].unsqueeze(1)) @ quat_to_rotmat(own["rot"])
    placed = local @ quat_to_rotmat(frames["rot"][rows]).mT
    return placed + frames["trans"][rows].unsqueeze(1)
