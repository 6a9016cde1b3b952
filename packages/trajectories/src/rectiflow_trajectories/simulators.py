"""Charged particles, springs and gravity: the benchmark's own laws, integrators and start.

Many runs are integrated together; the start of each is drawn from the seed and its own number, so
that a run is the same whatever it is made with. Units are the benchmark's: masses are one.

References
----------
Kipf et al., "Neural Relational Inference for Interacting Systems" (ICML 2018); Fuchs et al.,
"SE(3)-Transformers" (NeurIPS 2020); Brandstetter et al., "Geometric and Physical Quantities Improve
E(3) Equivariant Message Passing" (ICLR 2022).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float

STEP = 1e-3
"""Of the integration."""

STRONGEST = 0.1 / STEP
"""Largest component of a force, where forces are clipped."""


@dataclass(frozen=True)
class Runs:
    """Simulated runs.

    Attributes
    ----------
    loc, vel : ndarray, shape (s, t, n, 3)
    charges : ndarray, shape (s, n, 1)
        Charge, or mass under gravity; 0 for springs.
    edges : ndarray, shape (s, n, n)
        Product of charges, or whether there is a spring; 0 under gravity.
    """

    loc: Float[np.ndarray, "s t n 3"]
    vel: Float[np.ndarray, "s t n 3"]
    charges: Float[np.ndarray, "s n 1"]
    edges: Float[np.ndarray, "s n n"]


class System(ABC):
    """A law of forces and how its runs start; a frozen dataclass."""

    nodes: int

    @abstractmethod
    def start(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw positions and velocities (n, 3), charges (n, 1) and edges (n, n)."""

    @abstractmethod
    def force(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the forces (s, n, 3) at positions (s, n, 3)."""

    @abstractmethod
    def potential(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return the potential energies (s,)."""

    def run(
        self, x: np.ndarray, v: np.ndarray, edges: np.ndarray, steps: int, every: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integrate: kick, then drift and kick in turn, as published.

        Returns
        -------
        tuple of ndarray, shape (s, t, n, 3)
            Positions after steps ``every``, ``2 every``, ... and the velocities that led there.
        """
        loc, vel = [], []
        v = v + STEP * self.force(x, edges)
        for i in range(1, steps):
            x = x + STEP * v
            if i % every == 0:
                loc.append(x)
                vel.append(v)
            v = v + STEP * self.force(x, edges)
        return np.stack(loc, 1), np.stack(vel, 1)

    def simulate(
        self, indices: Sequence[int], *, seed: int = 0, steps: int = 5000, every: int = 100
    ) -> Runs:
        """Simulate the runs of some numbers."""
        drawn = [self.start(np.random.default_rng((seed, index))) for index in indices]
        x, v, charges, edges = (np.stack(part) for part in zip(*drawn, strict=True))
        loc, vel = self.run(x, v, edges, steps, every)
        return Runs(loc, vel, charges, edges)

    def _moving(self, rng: np.random.Generator, spread: float) -> tuple[np.ndarray, np.ndarray]:
        v = rng.standard_normal((self.nodes, 3))
        v *= 0.5 / np.linalg.norm(v, axis=-1, keepdims=True)
        return np.clip(spread * rng.standard_normal((self.nodes, 3)), -5, 5), v


@dataclass(frozen=True)
class Charged(System):
    """Charges of either sign: like ones repel, by the inverse square."""

    nodes: int = 5

    def start(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw a run."""
        charges = rng.choice([-1.0, 1.0], (self.nodes, 1))
        x, v = self._moving(rng, (self.nodes / 5) ** (1 / 3))
        return x, v, charges, charges * charges.T

    def force(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return ``sum_j q_i q_j (x_i - x_j) / r³``, clipped."""
        apart, square = _apart(x)
        found = (edges * _power(square, -1.5))[..., None] * apart
        return np.clip(found.sum(-2), -STRONGEST, STRONGEST)

    def potential(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return ``sum q_i q_j / r`` over pairs."""
        found: np.ndarray = 0.5 * (edges * _power(_apart(x)[1], -0.5)).sum((-1, -2))
        return found


@dataclass(frozen=True)
class Springs(System):
    """Balls, half of whose pairs are tied by a spring of strength 0.1."""

    nodes: int = 5
    strength: ClassVar[float] = 0.1

    def start(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw a run."""
        lower = np.tril(rng.integers(0, 2, (self.nodes, self.nodes)), -1).astype(float)
        return *self._moving(rng, 0.5), np.zeros((self.nodes, 1)), lower + lower.T

    def force(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return ``-0.1 sum_j e_ij (x_i - x_j)``, clipped."""
        found = -self.strength * (edges[..., None] * _apart(x)[0]).sum(-2)
        return np.clip(found, -STRONGEST, STRONGEST)

    def potential(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return ``0.05 sum e_ij r²`` over pairs."""
        found: np.ndarray = self.strength / 4 * (edges * _apart(x)[1]).sum((-1, -2))
        return found


@dataclass(frozen=True)
class Gravity(System):
    """Masses that attract each other, softened at 0.1."""

    nodes: int = 10
    softening: ClassVar[float] = 0.1

    def start(self, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
        """Draw a run, at rest as a whole."""
        x, v = rng.standard_normal((2, self.nodes, 3))
        shape = (self.nodes, self.nodes)
        return x, v - v.mean(0), np.ones((self.nodes, 1)), np.zeros(shape)

    def force(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return ``sum_j (x_j - x_i) / (r² + 0.01)^{3/2}``."""
        apart, square = _apart(x)
        found: np.ndarray = -(apart * ((square + self.softening**2) ** -1.5)[..., None]).sum(-2)
        return found

    def potential(self, x: np.ndarray, edges: np.ndarray) -> np.ndarray:
        """Return ``-sum (r² + 0.01)^{-1/2}`` over pairs."""
        square = _apart(x)[1]
        whole = ((square + self.softening**2) ** -0.5).sum((-1, -2))
        found: np.ndarray = -0.5 * (whole - self.nodes / self.softening)
        return found

    def run(
        self, x: np.ndarray, v: np.ndarray, edges: np.ndarray, steps: int, every: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Integrate by kick, drift, kick; the first frame is the start."""
        loc, vel, force = [], [], self.force(x, edges)
        for i in range(steps):
            if i % every == 0:
                loc.append(x)
                vel.append(v)
            v = v + STEP / 2 * force
            x = x + STEP * v
            force = self.force(x, edges)
            v = v + STEP / 2 * force
        return np.stack(loc, 1), np.stack(vel, 1)


SYSTEMS: dict[str, type[System]] = {"charged": Charged, "springs": Springs, "gravity": Gravity}


def energy(system: System, x: np.ndarray, v: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the whole energy of states (s, n, 3)."""
    found: np.ndarray = 0.5 * (v**2).sum((-1, -2)) + system.potential(x, edges)
    return found


def _apart(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    apart = x[..., :, None, :] - x[..., None, :, :]
    return apart, (apart**2).sum(-1)


def _power(square: np.ndarray, power: float) -> np.ndarray:
    """Return a power of squared distances; 0 of a node and itself."""
    own = square == 0
    return np.where(own, 0.0, np.where(own, 1.0, square) ** power)
