"""The training losses of ReQFlow, per sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_protein.frames import FRAME_SPACE, backbone_from_frames
from rectiflow_protein.networks.reqflow import ANGSTROM_TO_NM

if TYPE_CHECKING:
    from jaxtyping import Float

_ROTATIONS = FRAME_SPACE.parts["rot"]


@dataclass(frozen=True)
class BackboneLoss:
    r"""Velocity losses of translations and rotations, and losses on atoms late in time.

    With :math:`s = 1 - \min(t, 0.9)` and means over moving residues:

    .. math::
        L_{trans} = w_{trans} |x_1 - \hat x_1|^2 / s^2, \quad
        L_{rot} = w_{rot} |\omega(q_t, q_1) - \omega(q_t, \hat q_1)|^2 / s^2

    and for :math:`t > t_{aux}` the squared error of the N, CA and C positions and of all their
    distances. Lengths count in nanometres. Translation and auxiliary losses are cut at 5 per
    sample, which also stops their gradient: :meth:`__call__` reports how many were.

    Parameters
    ----------
    auxiliary_from : float
        ``t_aux``: 0.5 for the PDB models, 0.25 for the SCOPe models.
    translation_weight, rotation_weight, auxiliary_weight : float
        Weights of the terms.
    normalise_until : float
        The 0.9 in s.
    clamp : float
        Upper limit of the translation and auxiliary losses.

    References
    ----------
    Yue et al. (2025), section 3.3 and appendix.
    """

    auxiliary_from: float = 0.5
    translation_weight: float = 2.0
    rotation_weight: float = 1.0
    auxiliary_weight: float = 1.0
    normalise_until: float = 0.9
    clamp: float = 5.0

    def __call__(
        self,
        prediction: dict[str, Tensor],
        x1: dict[str, Tensor],
        xt: dict[str, Tensor],
        t: Float[Tensor, " b"],
        mask: Float[Tensor, "b n"],
    ) -> dict[str, Float[Tensor, " b"]]:
        """Return ``loss`` and its terms, one value per sample.

        Parameters
        ----------
        prediction, x1, xt : dict
            Predicted, clean and noisy frames; Å and unit quaternions.
        t : Tensor, shape (b,)
            Time.
        mask : Tensor, shape (b, n)
            1 for residues that count.

        Raises
        ------
        ValueError
            When a sample has no residue that counts.
        """
        count = mask.sum(-1)
        if not bool((count > 0).all()):
            empty = (count == 0).nonzero().flatten().tolist()
            raise ValueError(
                f"samples {empty} have no residue to learn from, got masks of zeros; expected at "
                "least one moving residue in each. Drop these chains."
            )
        scale = 1 - t.clamp(max=self.normalise_until)
        s = scale[:, None, None]
        m = mask.unsqueeze(-1)

        error = ANGSTROM_TO_NM * (x1["trans"] - prediction["trans"]) / s
        translation = self.translation_weight * (m * error.square()).sum((1, 2)) / (3 * count)
        target = _ROTATIONS.log(xt["rot"], x1["rot"])
        turned = _ROTATIONS.log(xt["rot"], prediction["rot"])
        assert isinstance(target, Tensor) and isinstance(turned, Tensor)
        error = (target - turned) / s
        rotation = self.rotation_weight * (m * error.square()).sum((1, 2)) / (3 * count)

        auxiliary = self.auxiliary_weight * self._auxiliary(prediction, x1, s, mask, count)
        auxiliary = torch.where(t > self.auxiliary_from, auxiliary, 0.0)
        clamped = (translation > self.clamp) | (auxiliary > self.clamp)
        translation = translation.clamp(max=self.clamp)
        auxiliary = auxiliary.clamp(max=self.clamp)
        return {
            "loss": translation + rotation + auxiliary,
            "translation": translation,
            "rotation": rotation,
            "auxiliary": auxiliary,
            "clamped": clamped.to(translation.dtype),
        }

    def _auxiliary(
        self,
        prediction: dict[str, Tensor],
        x1: dict[str, Tensor],
        s: Tensor,
        mask: Tensor,
        count: Tensor,
    ) -> Tensor:
        atoms = backbone_from_frames(x1) * (ANGSTROM_TO_NM / s.unsqueeze(-1))
        guess = backbone_from_frames(prediction) * (ANGSTROM_TO_NM / s.unsqueeze(-1))
        m = mask[:, :, None, None]
        positions = (m * (atoms - guess).square()).sum((1, 2, 3)) / (3 * count)
        m = mask.repeat_interleave(3, dim=1)
        weight = m[:, :, None] * m[:, None, :]
        error = _distances(atoms) - _distances(guess)
        pairs = (weight * error.square()).sum((1, 2)) / (weight.sum((1, 2)) + 1)
        return positions + pairs


def _distances(atoms: Float[Tensor, "b n 3 3"]) -> Float[Tensor, "b m m"]:
    """All atom-pair distances, with a zero gradient on the diagonal."""
    flat = atoms.flatten(1, 2)
    return torch.linalg.vector_norm(flat.unsqueeze(2) - flat.unsqueeze(1), dim=-1)
