"""What training of the codec minimises on a batch of flows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from rectiflow.training.adversarial import adaptive_weight
from torch import Tensor, nn

from rectiflow_pde.data.windows import cloud_of
from rectiflow_pde.networks.transforms import Cloud


class CodecObjective(nn.Module):
    """Reconstruction of fields at the nodes, and a light divergence of the posterior.

    A batch is one of :func:`rectiflow_pde.data.windows.collate`. Every mesh counts alike,
    whatever its number of nodes.

    Parameters
    ----------
    codec : MeshAutoencoder
        What is trained.
    error : nn.Module, optional
        Of one number; the absolute difference if absent, as published.
    kl_weight : float
        Of the divergence; 2e-7 as published for cylinders.

    References
    ----------
    Zhou et al., Text2PDE (arXiv 2410.01153).
    """

    def __init__(
        self, codec: nn.Module, error: nn.Module | None = None, *, kl_weight: float = 2e-7
    ) -> None:
        super().__init__()
        if kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, got {kl_weight}.")
        self.network: Any = codec
        self.error = error or nn.L1Loss(reduction="none")
        self.kl_weight = kl_weight

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its terms."""
        return self.terms(batch, *self.reconstruct(batch, generator)[1:])

    def reconstruct(
        self, batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> tuple[Cloud, Tensor, Tensor]:
        """Return where the nodes are, the fields again, and the mean divergence."""
        cloud = cloud_of(self.network, batch)
        posterior = self.network.encode(batch["fields"], cloud)
        z = posterior.sample(generator) if self.training else posterior.mean
        return cloud, self.network.decode(z, cloud), posterior.kl().mean()

    def terms(self, batch: Mapping[str, Tensor], found: Tensor, kl: Tensor) -> dict[str, Tensor]:
        """Return the loss of a reconstruction and what it is made of."""
        sizes = batch["sizes"].tolist()
        error = self.error(found, batch["fields"])
        lost = torch.stack([part.mean() for part in error.split(sizes)]).mean()
        off = (found - batch["fields"]).split(sizes)
        true = batch["fields"].split(sizes)
        relative = torch.stack([a.norm() / b.norm() for a, b in zip(off, true, strict=True)])
        told = {"reconstruction": lost, "relative": relative.mean(), "kl": kl}
        return {"loss": lost + self.kl_weight * kl, **told}


class AdversarialCodecObjective(CodecObjective):
    r"""The codec's loss, joined by a discriminator after a while.

    Train it with :class:`~rectiflow.training.adversarial.AdversarialTraining`. The generator's
    further term is :math:`-\lambda w \overline{D}`, where λ is the
    :func:`~rectiflow.training.adversarial.adaptive_weight` at the decoder's last layer; the
    discriminator minimises the hinge loss. Reconstruction is divided by the mean absolute value of
    the input.

    Parameters
    ----------
    codec : MeshAutoencoder
    discriminator : MeshDiscriminator
    start : int
        The optimiser step from which the discriminator takes part.
    weight : float
        The w above.
    **options
        As for :class:`CodecObjective`.
    """

    def __init__(
        self,
        codec: nn.Module,
        discriminator: nn.Module,
        *,
        start: int = 1,
        weight: float = 0.5,
        kl_weight: float = 5e-6,
        **options: Any,
    ) -> None:
        super().__init__(codec, kl_weight=kl_weight, **options)
        self.discriminator, self.start, self.weight = discriminator, start, weight

    def generator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return the codec's loss and its terms."""
        _, found, kl = self.reconstruct(batch, generator)
        told = self.terms(batch, found, kl)
        nll = told["reconstruction"] / batch["fields"].abs().mean()
        loss = nll + self.kl_weight * kl
        if step < self.start:
            return {**told, "loss": loss}
        adversarial = -self._judge(batch, found)
        balance = adaptive_weight(nll, adversarial, self.network.last_layer)
        loss = loss + self.weight * balance * adversarial
        return {**told, "loss": loss, "adversarial": adversarial}

    def discriminator_loss(
        self, batch: Mapping[str, Tensor], step: int, generator: torch.Generator
    ) -> dict[str, Tensor] | None:
        """Return the hinge loss of true and reconstructed fields, or None before the start."""
        if step < self.start:
            return None
        with torch.no_grad():
            _, found, _ = self.reconstruct(batch, generator)
        real, fake = self._judge(batch, batch["fields"], 1), self._judge(batch, found, -1)
        return {"loss": 0.5 * (real + fake)}

    def _judge(self, batch: Mapping[str, Tensor], values: Tensor, wanted: int = 0) -> Tensor:
        """Return the mean verdict on fields, or what it lacks to the wanted one."""
        frames = values.shape[1]
        sizes = batch["sizes"].tolist()
        times = torch.linspace(0, 1, frames, device=values.device)[None, :, None]
        verdicts = []
        for part, points in zip(values.split(sizes), batch["points"].split(sizes), strict=True):
            places = points[:, None].expand(-1, frames, -1)
            where = torch.cat([places, times.expand(len(points), -1, 1)], -1).flatten(0, 1)
            verdict = self.discriminator(part.flatten(0, 1), where)
            verdicts.append(verdict if not wanted else torch.relu(1 - wanted * verdict))
        return torch.cat(verdicts).mean()
