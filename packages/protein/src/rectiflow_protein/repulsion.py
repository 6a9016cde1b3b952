"""Pushing apart what runs through each other, while a chain is being made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rectiflow_protein.constraints import Chains, Constraint, Correction

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Repulsion(Constraint, Correction):
    """Moves predicted CA apart that are nearer than CA of natural chains ever are.

    Small networks draw chains that cross themselves: the crossing is there from the first
    predictions that have a shape, and later ones keep it, since training shows the network no
    crossing to repair. Corrected while the network has steps left, the prediction is a chain beside
    which the next steps settle, bonds included.

    Each push is shared along the chain with normal weights, so that pieces move and not single
    residues.

    Parameters
    ----------
    distance : float, default 4.25
        Å between CA three or more residues apart that are pushed. Natural chains have one such
        pair in 50 residues below 4.25 Å, and next to none below 3.5 Å.
    after, until : float, default 0.4 and 0.95
        Times between which predictions are corrected.
    rounds : int, default 4
        Pushes per prediction.
    spread : float, default 4
        Standard deviation of the weights along the chain, residues.
    """

    distance: float = 4.25
    after: float = 0.4
    until: float = 0.95
    rounds: int = 4
    spread: float = 4.0

    def on(self, chains: Chains) -> Correction:
        """Return itself: it needs to know nothing of the chains."""
        return self

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the corrected prediction.

        Parameters
        ----------
        frames : dict
            Predicted ``trans (b, n, 3)`` in Å and ``rot (b, n, 4)``, which stays as it is.
        t : float
            Time of the prediction.
        mask : Tensor, shape (b, n), optional
            1 for residues, 0 for padding.
        """
        if not self.after <= t <= self.until:
            return frames
        trans = frames["trans"]
        number = torch.arange(trans.shape[1], device=trans.device)
        apart = (number[:, None] - number[None]).abs()
        weight = torch.exp(-0.5 * (apart.to(trans.dtype) / self.spread) ** 2)
        pushing = apart > 2
        if mask is not None:
            pushing = pushing & (mask[:, :, None] * mask[:, None] > 0)
            weight = weight * mask[:, :, None]
        for _ in range(self.rounds):
            away = trans.unsqueeze(2) - trans.unsqueeze(1)
            d = torch.linalg.vector_norm(away, dim=-1).clamp_min(0.1)
            push = torch.where(pushing, (self.distance - d).clamp_min(0) / d, 0.0)
            step = 0.5 * (push.unsqueeze(-1) * away).sum(2)
            trans = trans + (weight @ step).clamp(-self.distance / 2, self.distance / 2)
        return {**frames, "trans": trans}
