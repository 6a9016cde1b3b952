"""The training losses of ReQFlow, per sample."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from rectiflow_protein.frames import FRAME_SPACE, backbone_from_frames
from rectiflow_protein.networks.reqflow import ANGSTROM_TO_NM

if TYPE_CHECKING:
    from jaxtyping import Float

_ROTATIONS = FRAME_SPACE.parts["rot"]


class LossTerm(Protocol):
    """A loss on backbone atoms that is added to the published ones."""

    def __call__(
        self,
        guess: Float[Tensor, "b n 3 3"],
        atoms: Float[Tensor, "b n 3 3"],
        t: Float[Tensor, " b"],
        scale: Float[Tensor, " b"],
        mask: Float[Tensor, "b n"],
    ) -> Float[Tensor, " b"]:
        """Return the term of each sample.

        Parameters
        ----------
        guess, atoms : Tensor, shape (b, n, 3, 3)
            N, CA and C of the prediction and of the data, nm.
        t, scale : Tensor, shape (b,)
            Time, and the s of :class:`BackboneLoss`.
        mask : Tensor, shape (b, n)
            1 for residues that count.
        """
        ...


@dataclass(frozen=True)
class LocalDistances:
    """Squared error of the distances between backbone atoms of residues near in sequence.

    In nanometres over s, mean over all atom pairs of residues ``i`` and ``i + 1 ... i + reach``.
    The published loss on all distances holds few of these pairs; this one is about bond geometry
    and turns.

    Parameters
    ----------
    weight : float, default 10
    reach : int, default 3
        Largest distance in sequence.
    after : float, default 0.25
        Time up to which the term is left out.
    """

    weight: float = 10.0
    reach: int = 3
    after: float = 0.25

    def __call__(
        self, guess: Tensor, atoms: Tensor, t: Tensor, scale: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the term of each sample."""
        total, count = torch.zeros_like(t), torch.zeros_like(t)
        for k in range(1, min(self.reach, atoms.shape[1] - 1) + 1):
            wanted, got = (_distances(x[:, :-k], x[:, k:]) for x in (atoms, guess))
            both = mask[:, :-k] * mask[:, k:]
            total = total + (both * (wanted - got).square().sum((2, 3))).sum(1)
            count = count + 9 * both.sum(1)
        mean = total / (scale.square() * count.clamp(min=1))
        return torch.where(t > self.after, self.weight * mean, 0.0)


@dataclass(frozen=True)
class ContactDistances:
    """Squared error of the distances between backbone atoms of residues near in space alone.

    In nanometres over s, mean over all atom pairs of residues more than ``beyond`` apart in the
    chain whose CA are within ``radius`` in the data: what strands of a sheet, and turns that meet,
    hold to each other. The published loss on all distances has few of these pairs among many.

    Parameters
    ----------
    weight : float, default 10
    radius : float, default 7
        Å.
    beyond : int, default 3
        Distance in sequence up to which pairs are left to :class:`LocalDistances`.
    most : int, default 12
        Partners of a residue that count, the nearest; 7 Å around it hold no more.
    after : float, default 0.25
        Time up to which the term is left out.
    """

    weight: float = 10.0
    radius: float = 7.0
    beyond: int = 3
    most: int = 12
    after: float = 0.25

    def __call__(
        self, guess: Tensor, atoms: Tensor, t: Tensor, scale: Tensor, mask: Tensor
    ) -> Tensor:
        """Return the term of each sample."""
        ca = atoms[:, :, 1]
        number = torch.arange(ca.shape[1], device=ca.device)
        beside = (number[:, None] - number[None]).abs() <= self.beyond
        left_out = beside | (mask[:, None] == 0)
        distance = _distances(ca, ca).masked_fill(left_out, torch.inf)
        distance, j = distance.topk(min(self.most, ca.shape[1]), dim=-1, largest=False)
        pairs = (distance < self.radius * ANGSTROM_TO_NM) * mask.unsqueeze(-1)
        row = torch.arange(len(ca), device=ca.device)[:, None, None]
        wanted, got = (_distances(x.unsqueeze(2), x[row, j]) for x in (atoms, guess))
        total = (pairs * (wanted - got).square().sum((3, 4))).sum((1, 2))
        mean = total / (9 * scale.square() * pairs.sum((1, 2)).clamp(min=1))
        return torch.where(t > self.after, self.weight * mean, 0.0)


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
    further : sequence of LossTerm
        Terms added to the published ones, not cut.

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
    further: Sequence[LossTerm] = ()

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
            When a sample has no residue that counts, on the CPU; on a device, which is not waited
            for, its loss is NaN.
        """
        count = mask.sum(-1)
        if count.device.type == "cpu" and not bool((count > 0).all()):
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

        atoms = backbone_from_frames(x1) * ANGSTROM_TO_NM
        guess = backbone_from_frames(prediction) * ANGSTROM_TO_NM
        auxiliary = self.auxiliary_weight * _auxiliary(guess, atoms, scale, mask)
        auxiliary = torch.where(t > self.auxiliary_from, auxiliary, 0.0)
        clamped = (translation > self.clamp) | (auxiliary > self.clamp)
        translation = translation.clamp(max=self.clamp)
        auxiliary = auxiliary.clamp(max=self.clamp)
        parts = {"translation": translation, "rotation": rotation, "auxiliary": auxiliary}
        parts |= {
            _snake(type(term).__name__): term(guess, atoms, t, scale, mask) for term in self.further
        }
        total = torch.stack(list(parts.values())).sum(0)
        return {"loss": total, **parts, "clamped": clamped.to(total.dtype)}


def _auxiliary(guess: Tensor, atoms: Tensor, scale: Tensor, mask: Tensor) -> Tensor:
    """Squared error of atom positions and of all their distances, per sample."""
    m = mask[:, :, None, None]
    positions = (m * (atoms - guess).square()).sum((1, 2, 3)) / (3 * mask.sum(-1))
    m = mask.repeat_interleave(3, dim=1)
    weight = m[:, :, None] * m[:, None, :]
    flat, guess = atoms.flatten(1, 2), guess.flatten(1, 2)
    error = _distances(flat, flat) - _distances(guess, guess)
    pairs = (weight * error.square()).sum((1, 2)) / (weight.sum((1, 2)) + 1)
    return (positions + pairs) / scale.square()


def _distances(x: Float[Tensor, "*b m 3"], y: Float[Tensor, "*b k 3"]) -> Float[Tensor, "*b m k"]:
    """Distances of all pairs of points, with a zero gradient where they coincide."""
    return torch.linalg.vector_norm(x.unsqueeze(-2) - y.unsqueeze(-3), dim=-1)


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
