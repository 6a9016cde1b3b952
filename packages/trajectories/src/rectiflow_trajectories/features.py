"""What a network is told of a trajectory's nodes and pairs, by the kind of system."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

    from rectiflow_trajectories.trajectory import Trajectory

BOND = 1.6
"""Angstrom; atoms nearer than this are bonded."""

TYPES = 10
"""Atomic numbers below this are told apart."""

HOPS = 3


class Features(NamedTuple):
    """Invariant features, float32.

    ``nodes (n, f)`` or ``(n, t, f)``, ``edges (n, n, e)``, and ``linked (n, n)``, whether messages
    pass.
    """

    nodes: Float[np.ndarray, "n *t f"]
    edges: Float[np.ndarray, "n n e"]
    linked: Bool[np.ndarray, "n n"]


def particles(trajectory: Trajectory, given: int, frames: int) -> Features:
    """Return charge, or mass, of each node, and the edge or the product of charges of each pair."""
    count = trajectory.nodes
    charges = np.zeros(count) if trajectory.charges is None else trajectory.charges
    edges = np.outer(charges, charges) if trajectory.edges is None else trajectory.edges
    return _single(charges[:, None], edges[..., None], ~np.eye(count, dtype=bool))


def molecule(trajectory: Trajectory, given: int, frames: int) -> Features:
    """Return what the authors tell of atoms: elements, and how many bonds apart they are.

    Raises
    ------
    ValueError
        When elements are not known, or one is heavier than fluorine.
    """
    if trajectory.charges is None:
        raise ValueError("elements of the atoms are missing; expected atomic numbers or symbols.")
    numbers = trajectory.charges
    if not np.isin(numbers, np.arange(1, TYPES)).all():
        odd = numbers[~np.isin(numbers, np.arange(1, TYPES))][0]
        raise ValueError(
            f"atomic number {odd:g} is not known to networks of molecules; expected elements of 1 "
            f"to {TYPES - 1} (H, C, N, O, ...)."
        )
    hops = bonds_apart(trajectory.positions[0])
    edges = np.eye(HOPS + 1)[np.maximum(hops - 1, 0)] * (hops > 0)[..., None]
    return _single(element_features(numbers), edges, hops > 0)


def molecule_fully(trajectory: Trajectory, given: int, frames: int) -> Features:
    """Return the same with messages between all atoms: those far apart are a type of their own."""
    sparse = molecule(trajectory, given, frames)
    hops = bonds_apart(trajectory.positions[0])
    linked = ~np.eye(len(hops), dtype=bool)
    return _single(sparse.nodes, np.eye(HOPS + 1)[hops] * linked[..., None], linked)


def pedestrians(trajectory: Trajectory, given: int, frames: int) -> Features:
    """Return whether a frame is given, and the speed, which stays that of the last given frame."""
    speed = np.zeros((trajectory.nodes, given + frames))
    seen = trajectory.positions[:given]
    moved = np.linalg.norm(np.diff(seen, axis=0), axis=-1).T
    if moved.shape[1]:
        speed[:, 1:given] = moved
        speed[:, 0] = moved[:, 0]
        speed[:, given:] = moved[:, -1:]
    told = np.broadcast_to(np.arange(given + frames) < given, speed.shape)
    everyone = np.ones((trajectory.nodes, trajectory.nodes), dtype=bool)
    return _single(np.stack([told, speed], -1), np.zeros((*everyone.shape, 0)), everyone)


@dataclass(frozen=True)
class Kind:
    """A kind of system: how it is told, and how wide that is."""

    tell: Callable[[Trajectory, int, int], Features]
    node_dim: int
    edge_dim: int


KINDS = {
    "particles": Kind(particles, 1, 1),
    "molecule": Kind(molecule, 3 * TYPES, HOPS + 1),
    "molecule-full": Kind(molecule_fully, 3 * TYPES, HOPS + 1),
    "pedestrians": Kind(pedestrians, 2, 0),
}


def element_features(numbers: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 30"]:
    """Return a column for each element and power: 1, z / 10 and its square."""
    hot = np.eye(TYPES)[numbers.astype(int)]
    powers = (numbers[:, None] / TYPES) ** np.arange(3)
    return (hot[:, :, None] * powers[:, None]).reshape(len(numbers), -1)


def bonds_apart(positions: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "n n"]:
    """Return how many bonds lie between atoms, at most three; 0 where more do, and of itself."""
    apart = np.linalg.norm(positions[:, None] - positions, axis=-1)
    own = np.eye(len(positions), dtype=bool)
    bonded = (apart <= BOND) & ~own
    hops, reached = np.where(bonded, 1, 0), bonded
    for count in range(2, HOPS + 1):
        reached = (reached.astype(int) @ bonded.astype(int) > 0) & ~own
        hops = np.where((hops == 0) & reached, count, hops)
    return hops


def _single(nodes: np.ndarray, edges: np.ndarray, linked: np.ndarray) -> Features:
    return Features(nodes.astype(np.float32), edges.astype(np.float32), linked)
