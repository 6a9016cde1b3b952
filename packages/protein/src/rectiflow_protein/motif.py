"""Scaffolding a motif: residues of a given structure stand in every sample as they are."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.randomness import counter_generator
from rectiflow.spaces import quat_multiply, quat_to_rotmat, rotmat_to_quat

from rectiflow_protein.anchors import Anchors, Span, deal
from rectiflow_protein.constraints import Chains, Constraint, Correction
from rectiflow_protein.frames import backbone_from_frames, frames_from_backbone
from rectiflow_protein.metrics import bonded, ca_ca_distances, kabsch
from rectiflow_protein.residues import CA_CA_DISTANCE
from rectiflow_protein.result import NO_CB

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from rectiflow_protein.io import Backbone
    from rectiflow_protein.result import BackboneSample

RISE = 3.4
"""Å by which a residue of an extended chain can bridge a gap without strain."""

_SEGMENT = re.compile(r"(?P<chain>[^\W\d_]+)(?P<first>-?\d+)(?:-(?P<last>-?\d+))?")
_FREE = re.compile(r"(?P<least>\d+)(?:-(?P<most>\d+))?")


@dataclass(frozen=True, repr=False)
class Motif(Constraint):
    """Pieces of a structure that keep their shape and their places to each other.

    Parameters
    ----------
    segments : sequence of Backbone
        Runs of bonded residues, in the order in which the chain is to meet them.
    source : str
        What it was read from, as :func:`read_motif` takes it.
    spans : sequence of (int, int or None), optional
        How many residues may stand before, between and behind the segments, one more than these.
        Any number if absent, but between two at least as many as bridge them.
    """

    segments: Sequence[Backbone]
    source: str = ""
    spans: Sequence[Span] | None = None

    def __repr__(self) -> str:
        segments = ",".join(f"{s.label(0)}-{s.label(len(s) - 1)}" for s in self.segments)
        spans = "" if self.spans is None else f", spans={list(self.spans)}"
        return f"Motif({self.source or segments}{spans})"

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

    def gaps(self, rise: float = RISE) -> list[int]:
        """Return the fewest residues that bridge each segment to the next, at this rise of each."""
        found = []
        for one, next_one in zip(self.segments[:-1], self.segments[1:], strict=True):
            distance = float(np.linalg.norm(next_one.coords[0, 1] - one.coords[-1, 1]))
            found.append(max(0, math.ceil((distance - 1.1 * CA_CA_DISTANCE) / rise)))
        return found

    def _spans(self) -> list[Span]:
        """Return the spans, none shorter than the gap that it has to bridge."""
        if self.spans is None:
            return [(0, None), *[(gap, None) for gap in self.gaps()], (0, None)]
        gaps = [0, *self.gaps(CA_CA_DISTANCE), 0]
        return [
            (max(gap, least), most) for gap, (least, most) in zip(gaps, self.spans, strict=True)
        ]

    def check(self, length: int) -> None:
        """Refuse chains that are too short or too long for the motif and its spans."""
        spans = self._spans()
        narrow = next(((n, m) for n, m in spans if m is not None and m < n), None)
        if narrow is not None:
            raise ValueError(
                f"the motif does not fit, got at most {narrow[1]} residues between two of its "
                f"segments that need {narrow[0]} to bridge them. Allow more residues there."
            )
        bridges = sum(least for least, _ in spans)
        needed = len(self) + bridges
        most = sum(math.inf if most is None else most for _, most in spans) + len(self)
        if not needed <= length <= most:
            limit = f"at least {needed}" if length < needed else f"at most {most:.0f}"
            raise ValueError(
                f"the motif does not fit, got a chain of {length} residues for {len(self)} of the "
                f"motif and {bridges} to bridge its gaps; expected a length of {limit}. Ask for "
                f"{'longer' if length < needed else 'shorter'} chains or change the motif."
            )

    def draw_length(self, generator: torch.Generator) -> int:
        """Draw the length of a chain: each span's residues uniformly.

        Raises
        ------
        ValueError
            When a span has no end.
        """
        total = len(self)
        for least, most in self._spans():
            if most is None:
                raise ValueError(
                    "the motif leaves the length open, got no number of residues around it; "
                    "expected --length, or a contig such as 5-15/A10-30/10."
                )
            total += int(torch.randint(least, max(least, most) + 1, (), generator=generator))
        self.check(total)
        return total

    def place(self, length: int, generator: torch.Generator) -> Int[Tensor, " m"]:
        """Draw where in a chain the motif's residues stand.

        The residues that are free go before, between and behind the segments, each way of sharing
        them out being equally likely.

        Raises
        ------
        ValueError
            When the chain is too short or too long.
        """
        self.check(length)
        rows, at = [], 0
        before = deal(length - len(self), self._spans(), generator)
        for segment, free in zip(self.segments, before[:-1], strict=True):
            rows.append(torch.arange(at + free, at + free + len(segment)))
            at += free + len(segment)
        return torch.cat(rows)

    def on(self, chains: Chains) -> Correction:
        """Return what puts the motif into predictions."""
        return MotifFrames(self, chains)


def read_motif(text: str, contig: str | None = None) -> Motif:
    """Read ``FILE:A10-30,B5``: residues of a structure file, by its own chains and numbers.

    Parameters
    ----------
    text : str
        The file and the segments, or the file alone with a contig.
    contig : str, optional
        Segments with the numbers of residues around them, such as ``5-15/A10-30/10``.

    Raises
    ------
    ValueError
        When a text has another form, or names chains or residues that the file does not have.

    Examples
    --------
    >>> read_motif("scaffold.pdb:10-30")
    Traceback (most recent call last):
    ...
    ValueError: motif segment '10-30' is not understood; expected CHAIN FIRST-LAST such as A10-30 \
or B5, with the numbers of the file.
    """
    if contig is not None:
        spans, parts = read_contig(contig)
        return Motif(_segments(text, parts), f"{text}:{contig}", spans)
    file, colon, parts_text = text.rpartition(":")
    if not colon or not file or not parts_text:
        raise ValueError(f"motif {text!r} is not understood; expected FILE:A10-30,B5.")
    return Motif(_segments(file, [part.strip() for part in parts_text.split(",")]), text)


def read_contig(text: str) -> tuple[list[Span], list[str]]:
    """Split a contig into the numbers of free residues and the segments between them.

    Parts are separated by ``/``, ``,`` or ``;``. Where two segments follow each other there is no
    free residue between them, and none at an end where the contig has none.

    Examples
    --------
    >>> read_contig("5-15/A10-30/10")
    ([(5, 15), (10, 10)], ['A10-30'])
    """
    spans: list[Span] = [(0, 0)]
    segments: list[str] = []
    for part in (part.strip() for part in re.split(r"[/,;]", text)):
        found = _FREE.fullmatch(part)
        if found is None:
            segments.append(part)
            spans.append((0, 0))
            continue
        least = int(found["least"])
        most = int(found["most"] or least)
        if most < least:
            raise ValueError(f"contig part {part!r} goes down; expected LEAST-MOST that goes up.")
        before = spans[-1]
        spans[-1] = (before[0] + least, (before[1] or 0) + most)
    if not segments:
        raise ValueError(
            f"contig {text!r} names no residues to keep; expected one such as 5-15/A10-30/10."
        )
    return spans, segments


def _segments(file: str, parts: Sequence[str]) -> list[Backbone]:
    from rectiflow_protein.io import read_structure

    wanted = [_parse(part) for part in parts]
    whole = read_structure(Path(file))
    chosen = [_segment(whole, file, *one) for one in wanted]
    labels = [segment.label(i) for segment in chosen for i in range(len(segment))]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(
            f"the motif names residue {twice[0]} of {file} twice, got {','.join(parts)}; expected "
            "each residue once."
        )
    return chosen


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


class MotifFrames(Correction):
    """A motif in a batch: every prediction is corrected to hold it.

    The motif is laid onto its predicted residues by the best rigid motion and takes their place.
    The scaffold goes along as :class:`~rectiflow_protein.anchors.Anchors` tells, so that the bonds
    to the motif are the network's own. The motif is exact at every time.

    References
    ----------
    Replacement as in Trippe et al., "Diffusion probabilistic modeling of protein backbones in 3D
    for the motif-scaffolding problem" (ICLR 2023), in the frame of the prediction.
    """

    def __init__(self, motif: Motif, chains: Chains) -> None:
        self.motif, longest, device = motif, max(chains.lengths), chains.device
        self.rows = [
            motif.place(length, counter_generator("motif", chains.seed, index))
            for length, index in zip(chains.lengths, chains.indices, strict=True)
        ]
        own = frames_from_backbone(*torch.from_numpy(motif.coords)[:, :3].unbind(1))
        mask, trans, rot = (torch.zeros(len(self.rows), longest, width) for width in (1, 3, 4))
        rot[..., 0] = 1.0
        for i, row in enumerate(self.rows):
            mask[i, row] = 1.0
            trans[i, row], rot[i, row] = own["trans"], own["rot"]
        self.anchors = Anchors(self.rows, longest, device)
        self.mask = mask[..., 0].to(device)
        self.frames = {"trans": trans.to(device), "rot": rot.to(device)}

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the prediction with the motif in it."""
        theirs, ours = (backbone_from_frames(f).flatten(1, 2) for f in (frames, self.frames))
        turn, shift = kabsch(ours, theirs, self.mask.repeat_interleave(3, dim=1) > 0)
        trans = self.frames["trans"] @ turn.mT + shift.unsqueeze(1)
        rot = quat_multiply(rotmat_to_quat(turn).unsqueeze(1), self.frames["rot"])
        return self.anchors.carry(frames, trans, rot)

    def finish(self, row: int, sample: BackboneSample) -> BackboneSample:
        """Give a sample the motif's own atoms and residue types; its CB is the ideal one."""
        rows = self.rows[row]
        atoms, letters = sample.atoms.copy(), ["A"] * len(sample.atoms)
        placed = motif_atoms(self.motif, sample.frames, rows).numpy()
        atoms[np.ix_(rows.numpy(), np.array(NO_CB))] = placed
        for at, letter in zip(rows.tolist(), self.motif.sequence, strict=True):
            letters[at] = letter
        told = {"motif": [at + 1 for at in rows.tolist()], **_junctions(sample.frames, rows)}
        return replace(
            sample,
            atoms=atoms,
            sequence="".join(letters),
            motif=tuple(rows.tolist()),
            told={**sample.told, **told},
        )


def _junctions(frames: dict[str, Tensor], rows: Int[Tensor, " m"]) -> dict[str, float]:
    """Return the share of valid CA-CA distances where the motif meets the rest of the chain."""
    inside = torch.zeros(len(frames["trans"]), dtype=torch.bool)
    inside[rows] = True
    step = ca_ca_distances(frames["trans"])[inside[1:] != inside[:-1]]
    return {"junctions_valid": round(float(bonded(step).float().mean()), 4)} if len(step) else {}


def motif_atoms(
    motif: Motif, frames: dict[str, Tensor], rows: Int[Tensor, " m"]
) -> Float[Tensor, "m 4 3"]:
    """Carry N, CA, C and O of a motif, as the file has them, to its frames in a sample."""
    coords = torch.from_numpy(motif.coords)
    own = frames_from_backbone(*coords[:, :3].unbind(1))
    local = (coords - own["trans"].unsqueeze(1)) @ quat_to_rotmat(own["rot"])
    placed = local @ quat_to_rotmat(frames["rot"][rows]).mT
    return placed + frames["trans"][rows].unsqueeze(1)
