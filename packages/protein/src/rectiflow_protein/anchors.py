"""Residues whose frames are set, and how the chain between them goes along."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rectiflow.spaces import quat_conjugate, quat_multiply, quat_to_rotmat

from rectiflow_protein.frames import FRAME_SPACE

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

BONDS = (3.7, 3.9)
"""Å between CA to which bonds are mended in a stretch that bridges two anchored residues."""

ROUNDS = 20
"""Passes over these bonds in each prediction."""

Span = tuple[int, int | None]
"""Least and most residues, both included; None is any number."""


class Anchors:
    """Anchored residues of the chains of a batch.

    When they are moved from where they were predicted, what hangs on one of them moves as it does,
    so that the bond there is the one the network made; what lies between two goes over from the
    one's motion to the other's, and its bonds are mended.

    Parameters
    ----------
    rows : sequence of Tensor, each of shape (m,)
        Anchored residues of each chain, ascending.
    length : int
        Residues of the longest chain.
    device : device
        Where the batch is.
    """

    def __init__(
        self, rows: Sequence[Int[Tensor, " m"]], length: int, device: torch.device
    ) -> None:
        number = torch.arange(length)
        ends, share = torch.zeros(2, len(rows), length, dtype=torch.long), []
        for i, row in enumerate(rows):
            # the anchors that stand nearest on both sides, twice the same where one side has none
            left = row[(torch.searchsorted(row, number, right=True) - 1).clamp_min(0)]
            right = row[torch.searchsorted(row, number).clamp_max(len(row) - 1)]
            way = torch.where(right - left == 2, 0.5, (number - left - 1) / (right - left - 2))
            share.append(torch.where(left < right, way * way * (3 - 2 * way), 0.0))
            ends[0, i], ends[1, i] = left, right
        loop = (ends[1] > ends[0]).float()
        free = (loop[:, 1:] + loop[:, :-1]).clamp_min(1)  # ends of a bond that may move
        mend = torch.stack([loop[:, :-1], loop[:, 1:]]) / free
        self.ends, self.share = ends.to(device), torch.stack(share).to(device)
        self.mend = mend.unsqueeze(-1).to(device)

    def carry(
        self, frames: dict[str, Tensor], trans: Float[Tensor, "b n 3"], rot: Float[Tensor, "b n 4"]
    ) -> dict[str, Tensor]:
        """Return predicted frames with the anchored ones where ``trans`` and ``rot`` have them."""
        turned = quat_multiply(rot, quat_conjugate(frames["rot"]))

        def moved(end: Tensor) -> dict[str, Tensor]:
            """Move each residue as this anchor of it moves."""
            at = end.unsqueeze(-1).expand_as(trans)
            turn = turned.gather(1, end.unsqueeze(-1).expand_as(turned))
            away = (frames["trans"] - frames["trans"].gather(1, at)).unsqueeze(-1)
            away = (quat_to_rotmat(turn) @ away).squeeze(-1)
            return {"trans": trans.gather(1, at) + away, "rot": quat_multiply(turn, frames["rot"])}

        found = FRAME_SPACE.geodesic(moved(self.ends[0]), moved(self.ends[1]), self.share)
        assert isinstance(found, dict)
        return {**found, "trans": self._mended(found["trans"])}

    def _mended(self, trans: Float[Tensor, "b n 3"]) -> Float[Tensor, "b n 3"]:
        """Bring the bonds of bridging stretches nearer to their length."""
        for _ in range(ROUNDS):
            bond = trans[:, 1:] - trans[:, :-1]
            length = torch.linalg.vector_norm(bond, dim=-1, keepdim=True).clamp_min(0.1)
            first, second = self.mend * (1 - length.clamp(*BONDS) / length) * bond
            trans = trans + 0.5 * (F.pad(first, (0, 0, 0, 1)) - F.pad(second, (0, 0, 1, 0)))
        return trans


def deal(total: int, spans: Sequence[Span], generator: torch.Generator) -> list[int]:
    """Share out residues among spans, each way that keeps to them being equally likely.

    The spans have to allow so many in all.
    """
    # ways[k][m]: of giving m residues to the spans from k on
    ways = [[0.0] * (total + 1) for _ in spans] + [[1.0] + [0.0] * total]

    def given(k: int, rest: int) -> range:
        least, most = spans[k]
        return range(least, int(min(rest, math.inf if most is None else most)) + 1)

    for k in reversed(range(len(spans))):
        for m in range(total + 1):
            ways[k][m] = sum(ways[k + 1][m - n] for n in given(k, m))
    found = []
    for k in range(len(spans)):
        choices = given(k, total)
        weights = torch.tensor([ways[k + 1][total - n] for n in choices], dtype=torch.float64)
        found.append(choices[int(torch.multinomial(weights, 1, generator=generator))])
        total -= found[-1]
    return found
