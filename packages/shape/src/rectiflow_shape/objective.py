"""What training minimises on a batch of shapes: flows of mosaics and of latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.flow import Flow
from rectiflow.storage.records import state_of
from torch import Tensor, nn

from rectiflow_shape.flow import Condition, dropped, latent_flow, mosaic_flow
from rectiflow_shape.networks.dit import TripoSGDiT
from rectiflow_shape.networks.mosaic import GROUPS, MosaicTransformer
from rectiflow_shape.networks.vae import TripoSGVae
from rectiflow_shape.tokens import choose_tokens

if TYPE_CHECKING:
    from rectiflow_shape.networks.dinov2 import ImageEncoder


class _ConditionalObjective(nn.Module, ABC):
    """The flow-matching loss under a condition that is dropped now and then.

    Stored pairs of reflow hold ``x0``, ``x1`` and ``cond.*`` and are taken as they are.
    """

    def __init__(self, network: nn.Module, flow: Flow, dropout: float) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout must lie in [0, 1], got {dropout}.")
        self.network, self.flow, self.dropout = network, flow, dropout

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch."""
        x1: Any = state_of(batch, "x1")
        if x1 is not None:
            cond: Any = state_of(batch, "cond")
        else:
            x1 = self.state(batch, generator)
            told = self.condition(batch)
            classes = getattr(self.network, "classes", 0)
            cond = dropped(told, classes, self.dropout, generator)
        x0 = state_of(batch, "x0")
        out = self.flow.loss(self.network, x1, cond, x0=x0, generator=generator)
        return {"loss": out.loss}

    told: tuple[str, ...] = ("context",)

    def condition(self, batch: Mapping[str, Tensor]) -> Condition:
        """Return what the network is told of a batch."""
        return {name: batch[name] for name in self.told if name in batch}

    @abstractmethod
    def state(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return the tokens of a batch."""


class MosaicObjective(_ConditionalObjective):
    """The loss of Mosaic-SDF.

    A batch holds ``centres (b, n, 3)``, ``scales (b, n)``, ``values (b, n, k, k, k)``,
    ``label (b,)`` and ``context (b, m, d)``.

    Parameters
    ----------
    network : MosaicTransformer
    flow : Flow, optional
        :func:`~rectiflow_shape.flow.mosaic_flow` if absent.
    dropout : float
        Probability that class or text says nothing, each by itself; 0.1 is chosen, the paper's
        value was not at hand.
    """

    told = ("label", "context")

    def __init__(
        self, network: MosaicTransformer, flow: Flow | None = None, *, dropout: float = 0.1
    ) -> None:
        super().__init__(network, flow or mosaic_flow(), dropout)

    def state(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return mosaics as tokens."""
        network: Any = self.network
        tokens: Tensor = network.tokens(*(batch[name] for name in GROUPS))
        return tokens


class LatentObjective(_ConditionalObjective):
    """The loss of TripoSG's flow in the latents of a frozen autoencoder.

    A batch holds ``surface (b, p, 6)``, points with normals, and ``context (b, m, d)``, states of
    a text, or ``image (b, 3, 224, 224)``.

    Parameters
    ----------
    network : TripoSGDiT
    vae : TripoSGVae
        Frozen.
    tokens : int
        Of an example.
    image : ImageEncoder, optional
        Frozen; makes the context of images.
    flow : Flow, optional
        :func:`~rectiflow_shape.flow.latent_flow` if absent.
    dropout : float
        Probability that the condition is zeros; the paper does not state its own, 0.1 is chosen.
    standard : bool
        Whether the autoencoder is to absorb mean and spread of its latents before training, so that
        each channel is as wide as the noise; the authors' latents are taken as they are.
    """

    def __init__(
        self,
        network: TripoSGDiT,
        vae: TripoSGVae,
        *,
        tokens: int,
        image: ImageEncoder | None = None,
        flow: Flow | None = None,
        dropout: float = 0.1,
        standard: bool = False,
    ) -> None:
        super().__init__(network, flow or latent_flow(tokens=tokens), dropout)
        self.standard = standard
        self.vae, self.tokens = vae.eval().requires_grad_(False), tokens
        self.image = None if image is None else image.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> LatentObjective:
        """Set the mode of the network; autoencoder and image encoder stay as they are."""
        super().train(mode)
        self.vae.eval()
        if self.image is not None:
            self.image.eval()
        return self

    def measure(self, batches: Iterable[Mapping[str, Tensor]], generator: torch.Generator) -> None:
        """Let the autoencoder absorb mean and spread of the latents of some shapes."""
        latents = torch.cat([self.state(batch, generator).flatten(0, 1) for batch in batches])
        self.vae.standardise(latents.mean(0), latents.std(0))

    @torch.no_grad()
    def condition(self, batch: Mapping[str, Tensor]) -> Condition:
        """Return the states of images, or of texts as they are."""
        if self.image is None:
            return super().condition(batch)
        return {"context": self.image(batch["image"])}

    @torch.no_grad()
    def state(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        """Return a sample of the latents."""
        surface = batch["surface"]
        posterior = self.vae.encode(surface, choose_tokens(surface, self.tokens, generator))
        mean = posterior.mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return posterior.sample(noise)


__all__ = ["Condition", "LatentObjective", "MosaicObjective"]
