"""A trajectory as files have it: places of nodes in each frame, and what is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float


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
        Of the nodes.
    unit : str, optional
        Of lengths, such as ``"m"`` or ``"angstrom"``; not known if empty.
    """

    positions: Float[np.ndarray, "t n d"]
    charges: Float[np.ndarray, " n"] | None = None
    edges: Float[np.ndarray, "n n"] | None = None
    names: tuple[str, ...] = ()
    unit: str = ""

    @property
    def nodes(self) -> int:
        """Return how many nodes there are."""
        return self.positions.shape[1]

    @property
    def frames(self) -> int:
        """Return how many frames there are."""
        return self.positions.shape[0]
