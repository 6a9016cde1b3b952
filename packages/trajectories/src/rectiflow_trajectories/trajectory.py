"""A trajectory as files have it: places of nodes in each frame, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from rectiflow_trajectories.units import check_unit, factor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

FILLED = 2
"""Frames in a row that a node may be unseen and is filled in."""

FARTHEST = 1e9
"""Numbers beyond this are no places."""


@dataclass(frozen=True)
class Trajectory:
    """Places of the same nodes in frames that are evenly spaced in time.

    Parameters
    ----------
    positions : ndarray, shape (t, n, d)
        Float64; NaN where a node is not seen. Two or three dimensions.
    charges : ndarray, shape (n,), optional
        Charges, masses, or the atomic numbers of a molecule.
    edges : ndarray, shape (n, n), optional
        Strength of each pair.
    names : tuple of str, optional
        Of the nodes; their numbers if absent.
    unit : str, optional
        Of lengths, a key of :data:`~rectiflow_trajectories.units.UNITS`; not known if empty.
    box : ndarray, shape (d,), optional
        Sides of a periodic box.
    comes_and_goes : bool
        Nodes are seen while they are in the scene, and left out where they are not.

    Raises
    ------
    ValueError
        When shapes do not fit, or a number is none.
    """

    positions: Float[np.ndarray, "t n d"]
    charges: Float[np.ndarray, " n"] | None = None
    edges: Float[np.ndarray, "n n"] | None = None
    names: tuple[str, ...] = ()
    unit: str = ""
    box: Float[np.ndarray, " d"] | None = None
    comes_and_goes: bool = False

    def __post_init__(self) -> None:
        x, count = self.positions, self.positions.shape[1] if self.positions.ndim == 3 else 0
        if x.ndim != 3 or x.shape[2] not in (2, 3) or not x.shape[0] or not count:
            raise ValueError(
                f"positions have shape {x.shape}; expected (frames, nodes, 2 or 3), one at least."
            )
        if np.isinf(x).any() or (np.abs(x) > FARTHEST).any():
            raise ValueError("a position is infinite or beyond 1e9; expected places, or NaN.")
        for name, shape in {"charges": (count,), "edges": (count, count)}.items():
            value = getattr(self, name)
            if value is not None and (value.shape != shape or not np.isfinite(value).all()):
                raise ValueError(
                    f"{name} of {count} nodes have shape {value.shape}; expected {shape}, finite."
                )
        if self.names and len(set(self.names)) != count:
            raise ValueError(f"{count} nodes have {len(set(self.names))} names; expected as many.")
        check_unit(self.unit)

    @property
    def nodes(self) -> int:
        """Return how many nodes there are."""
        return self.positions.shape[1]

    @property
    def frames(self) -> int:
        """Return how many frames there are."""
        return self.positions.shape[0]

    @property
    def dimensions(self) -> int:
        """Return 2 or 3."""
        return self.positions.shape[2]

    @property
    def seen(self) -> Bool[np.ndarray, "t n"]:
        """Return in which frames each node is seen."""
        found: np.ndarray = np.isfinite(self.positions).all(-1)
        return found

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the nodes, or their numbers."""
        return self.names or tuple(map(str, range(self.nodes)))

    def between(self, start: int, stop: int, every: int = 1) -> Self:
        """Return some frames."""
        return replace(self, positions=self.positions[start:stop:every])

    def of(self, kept: Bool[np.ndarray, " n"]) -> Self:
        """Return some nodes."""
        return replace(
            self,
            positions=self.positions[:, kept],
            charges=None if self.charges is None else self.charges[kept],
            edges=None if self.edges is None else self.edges[np.ix_(kept, kept)],
            names=tuple(name for name, keep in zip(self.names, kept, strict=False) if keep),
        )

    def measured_in(self, unit: str) -> Self:
        """Return it with lengths in a unit; taken to be in it already where its own is not known.

        The sides of a box go along.
        """
        times = factor(self.unit, unit)
        box = None if self.box is None else self.box * times
        return replace(self, positions=self.positions * times, box=box, unit=unit or self.unit)

    def unwrapped(self) -> Self:
        """Follow nodes across the faces of the box, which is then no more.

        Raises
        ------
        ValueError
            When a node moves by nearly half a side from one frame to the next.
        """
        if self.box is None:
            return self
        moved = np.diff(self.positions, axis=0)
        near = moved - self.box * np.round(moved / self.box)
        if (np.abs(near) > 0.45 * self.box).any():
            raise ValueError(
                "a node moves by nearly half of the periodic box between two frames, so that it "
                "cannot be told which way; expected smaller steps. Write frames more often."
            )
        start = self.positions[:1]
        whole = np.concatenate([start, start + np.cumsum(near, 0)])
        return replace(self, positions=whole, box=None)

    def complete(self) -> tuple[Self, tuple[str, ...]]:
        """Return it with each node in each frame, and what was done to that end.

        Gaps of at most two frames are filled in along a line. Nodes that come and go are left out
        where more is missing.

        Raises
        ------
        ValueError
            When others have longer gaps, or one at an end; nothing is left; or the box is periodic.
        """
        if self.box is not None:
            sides = " x ".join(f"{side:g}" for side in self.box)
            raise ValueError(
                f"the box is periodic ({sides}), and networks see no images of nodes beyond its "
                "faces; expected open space. Where no node interacts across a face, follow nodes "
                "across them with --unwrap."
            )
        seen = self.seen
        if seen.all():
            return self, ()
        filled, at, kept = self.positions.copy(), np.arange(self.frames), np.ones(self.nodes, bool)
        for node in np.flatnonzero(~seen.all(0)):
            there = np.flatnonzero(seen[:, node])
            name = self.labels[node]
            reason = ""
            if not len(there) or there[0] != 0 or there[-1] != self.frames - 1:
                reason = (
                    f"node {name} is not seen in the first or last of {self.frames} frames; "
                    "expected every node at both ends. Cut the frames, or leave the node out."
                )
            elif np.diff(there).max() > FILLED + 1:
                reason = (
                    f"node {name} is not seen in {np.diff(there).max() - 1} frames in a row; "
                    f"expected gaps of at most {FILLED}, which are filled in."
                )
            if reason and not self.comes_and_goes:
                raise ValueError(reason)
            kept[node] = not reason
            for axis in range(self.dimensions if kept[node] else 0):
                filled[:, node, axis] = np.interp(at, there, self.positions[there, node, axis])
        if not kept.any():
            raise ValueError(f"no node is seen in all {self.frames} frames; expected one.")
        whole, notes = replace(self, positions=filled), []
        if not kept.all():
            whole = whole.of(kept)
            told = f"{(~kept).sum()} of {self.nodes} nodes are not seen in every frame and left out"
            notes.append(told)
        count = int((~seen[:, kept]).sum())
        if count:
            notes.append(f"{count} missing places are filled in on a line")
        return whole, tuple(notes)
