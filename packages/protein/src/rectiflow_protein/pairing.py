"""Drawing strands that nearly pair into the bonds of a sheet, while a chain is being made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rectiflow_protein.constraints import Chains, Constraint, Correction
from rectiflow_protein.frames import FRAME_SPACE, backbone_from_frames, place_oxygen
from rectiflow_protein.secondary_structure import BRIDGES, bridge_bonds, hydrogens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_HYDROGEN_TO_OXYGEN, _NITROGEN_TO_OXYGEN = 2.0, 2.95  # Å, of a hydrogen bond
_APART = 4  # residues between which a bridge is looked for
_MOST_PULL, _MOST_TURN = 2.0, 4.0  # of a gradient, Å and Å²: what lies far out pulls no harder


@dataclass(frozen=True)
class Pairing(Constraint, Correction):
    r"""Moves and turns predicted residues so that bridges which nearly hold do hold.

    Small networks lay strands beside each other, but not so exactly that the N-H of one meets the
    C=O of the other. Each residue is drawn to the bridge that it is nearest to, of those that lie
    within ``reach``; the steps that follow fit the chain to it.

    Each residue goes down the gradient of

    .. math:: \sum (r_{HO} - 2.0)_+^2 + (r_{NO} - 2.95)_+^2

    over the two hydrogen bonds of its bridge, in ångström. Shifts are shared along the chain with
    normal weights, so that pieces move and not single residues.

    Parameters
    ----------
    reach : float, default 4
        Å from H to O in the longer of the two bonds, up to which a bridge is drawn.
    after, until : float, default 0.5 and 0.9
        Times between which predictions are corrected; later, bonds of the chain would not mend.
    rounds : int, default 4
        Steps per prediction.
    shift, turn : float, default 0.1 and 0.04
        Length of a step over the gradient, of translations and, in radians per Å², of rotations.
    spread : float, default 2
        Standard deviation of the weights along the chain, residues.

    References
    ----------
    Kabsch and Sander (1983), for what a bridge is.
    """

    reach: float = 4.0
    after: float = 0.5
    until: float = 0.9
    rounds: int = 4
    shift: float = 0.1
    turn: float = 0.04
    spread: float = 2.0

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
            Predicted ``trans (b, n, 3)`` in Å and ``rot (b, n, 4)``.
        t : float
            Time of the prediction.
        mask : Tensor, shape (b, n), optional
            1 for residues, 0 for padding.
        """
        trans = frames["trans"]
        n = trans.shape[1]
        if not self.after <= t <= self.until or n <= _APART + 2:
            return frames
        real = torch.ones_like(trans[..., 0]) if mask is None else mask
        number = torch.arange(n, device=trans.device)
        apart = (number[:, None] - number[None]).abs()
        weight = torch.exp(-0.5 * (apart.to(trans.dtype) / self.spread) ** 2) * real[:, :, None]
        inner = (real[:, 2:] * real[:, :-2]).bool()
        allowed = inner[:, :, None] & inner[:, None] & (apart[1:-1, 1:-1] >= _APART)
        for _ in range(self.rounds):
            pull: Any = self._gradient(frames, real, allowed)
            step = {
                "trans": -self.shift * (weight @ pull["trans"].clamp(-_MOST_PULL, _MOST_PULL)),
                "rot": -self.turn * pull["rot"].clamp(-_MOST_TURN, _MOST_TURN),
            }
            moved: Any = FRAME_SPACE.move(frames, step, 1.0)
            frames = {**frames, **moved}
        return frames

    @torch.enable_grad()
    def _gradient(
        self, frames: dict[str, Tensor], real: Tensor, allowed: Tensor
    ) -> dict[str, Tensor]:
        """Return how the misfit of the nearest bridges changes with shifts and turns."""
        shift = torch.zeros_like(frames["trans"], requires_grad=True)
        turn = torch.zeros_like(frames["trans"], requires_grad=True)
        moved: Any = FRAME_SPACE.move(frames, {"trans": shift, "rot": turn}, 1.0)
        backbone = backbone_from_frames(moved)
        oxygen = place_oxygen(backbone, real.bool())
        hydrogen = hydrogens(torch.cat([backbone, oxygen.unsqueeze(2)], dim=2))
        kind, i, j, row = self._nearest(hydrogen.detach(), oxygen.detach(), allowed)
        offsets = torch.tensor([[*one, *other] for _, one, other in BRIDGES], device=i.device)
        donor_i, acceptor_j, donor_j, acceptor_i = (offsets[kind] + 1).unbind(-1)
        misfit = backbone.new_zeros(())
        for donor, acceptor in ((i + donor_i, j + acceptor_j), (j + donor_j, i + acceptor_i)):
            to = oxygen[row, acceptor]
            for start, bond in (
                (hydrogen[row, donor], _HYDROGEN_TO_OXYGEN),
                (backbone[row, donor, 0], _NITROGEN_TO_OXYGEN),
            ):
                distance = torch.linalg.vector_norm(to - start, dim=-1)
                misfit = misfit + (distance - bond).clamp_min(0).square().sum()
        found = torch.autograd.grad(misfit, (shift, turn))
        return dict(zip(("trans", "rot"), found, strict=True))

    def _nearest(
        self, hydrogen: Tensor, oxygen: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return kind, residues and row of the bridge nearest to each residue, within reach."""
        distance = torch.cdist(hydrogen, oxygen)
        longer = torch.stack([torch.maximum(*two) for two in bridge_bonds(distance)], dim=-1)
        longer = longer.masked_fill(~allowed.unsqueeze(-1), torch.inf).flatten(2)
        least, which = longer.min(dim=-1)
        row, i = (least < self.reach).nonzero().unbind(-1)
        which = which[row, i]
        return which % len(BRIDGES), i, which // len(BRIDGES), row
