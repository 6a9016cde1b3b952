"""Contacts: two residues of a chain no farther apart than asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from rectiflow_protein.constraints import Chains, Constraint, Correction

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rectiflow_protein.result import BackboneSample

NEAREST = 3.8
"""Å; no two CA of a chain are meant to be nearer."""

_CONTACT = re.compile(r"(\d+)-(\d+):(\d+(?:\.\d+)?)")
_MARGIN = 0.2  # Å below the distance asked for, so that rounding and the last call stay within
_ROUNDS = 8


@dataclass(frozen=True)
class Contact(Constraint, Correction):
    """Two residues whose CA are at most so far apart.

    Where the prediction has them farther, they are pulled together, and the chain beside them
    comes along: over more residues the farther they have to go, so that no bond is stretched much.

    Parameters
    ----------
    first, second : int
        Residues, counted from 1.
    distance : float
        Å between their CA.
    """

    first: int
    second: int
    distance: float

    def __post_init__(self) -> None:
        if not 1 <= self.first < self.second:
            raise ValueError(
                f"a contact is of two residues, the first before the second, got {self.first} and "
                f"{self.second}; they count from 1."
            )
        if self.distance < NEAREST:
            raise ValueError(
                f"no two CA are nearer than {NEAREST} Å, got {self.distance:g} for a contact; "
                "expected more. 6 to 8 is usual."
            )

    def check(self, length: int) -> None:
        """Refuse chains that end before the second residue."""
        if self.second > length:
            raise ValueError(
                f"the contact {self.first}-{self.second} lies outside the chain, got a chain of "
                f"{length} residues; expected residues up to {length}, counted from 1."
            )

    def on(self, chains: Chains) -> Correction:
        """Return itself: residues have the same numbers in every chain."""
        return self

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the prediction with the residues pulled together."""
        trans = frames["trans"]
        one, two = self.first - 1, self.second - 1
        number = torch.arange(trans.shape[1], device=trans.device)
        for _ in range(_ROUNDS):
            apart = trans[:, two] - trans[:, one]
            length = torch.linalg.vector_norm(apart, dim=-1, keepdim=True).clamp_min(0.1)
            excess = (length - (self.distance - _MARGIN)).clamp_min(0)
            spread = excess.clamp(2.0, max(2.0, (two - one) / 3))
            near = [torch.exp(-0.5 * ((number - at) / spread) ** 2) for at in (one, two)]
            pull = 0.5 * excess * apart / length
            trans = trans + (near[0] - near[1]).unsqueeze(-1) * pull.unsqueeze(1)
        return {**frames, "trans": trans}

    def finish(self, row: int, sample: BackboneSample) -> BackboneSample:
        """Tell the distance that the sample has."""
        trans = sample.frames["trans"]
        found = float(torch.linalg.vector_norm(trans[self.second - 1] - trans[self.first - 1]))
        told = {f"contact_{self.first}_{self.second}": round(found, 3)}
        return replace(sample, told={**sample.told, **told})

    def miss(self, sample: BackboneSample) -> float:
        """Return how much too far the residues are, Å."""
        found = sample.told[f"contact_{self.first}_{self.second}"]
        return max(0.0, found - self.distance)


def read_contact(text: str) -> Contact:
    """Read ``FIRST-SECOND:DISTANCE``.

    Examples
    --------
    >>> read_contact("5-40:6")
    Contact(first=5, second=40, distance=6.0)
    """
    found = _CONTACT.fullmatch(text.strip())
    if found is None:
        raise ValueError(
            f"contact {text!r} is not understood; expected FIRST-SECOND:DISTANCE such as 5-40:6."
        )
    return Contact(int(found[1]), int(found[2]), float(found[3]))
