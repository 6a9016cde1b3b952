"""The network that flows: a UNet over latents, told the mixture and the query."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel
from rectiflow.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network; the defaults are the released ones (265,549,456 parameters).

    The released network has as many output channels as inputs, of which the first half counts.
    """

    latent_channels: int = 8
    out_channels: int = 16
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 3, 5)  # of the channels, by level
    attention: tuple[bool, ...] = (False, True, True, True)  # by level
    blocks: int = 2  # residual blocks per level going down; going up there is one more
    head_channels: int = 32
    context_channels: int = 1024  # of the query's states
    groups: int = 32


class SeparationUNet(Pretrained, nn.Module):
    """Velocity of the latents of the wanted sound, given those of the mixture and a query.

    Parameters
    ----------
    sizes : UNetConfig, optional
        The released sizes if absent.

    References
    ----------
    Yuan et al., "FlowSep" (arXiv 2409.07614). Every attention site has two transformers: the
    first sees no text. Equals ``diffusers``' ``AudioLDM2UNet2DConditionModel``.
    """

    def __init__(self, sizes: UNetConfig | None = None) -> None:
        super().__init__()
        self.sizes = c = sizes or UNetConfig()
        widths = tuple(c.channels * m for m in c.multipliers)
        down = tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in c.attention)
        up = tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(c.attention))
        self.unet = AudioLDM2UNet2DConditionModel(
            in_channels=2 * c.latent_channels,
            out_channels=c.out_channels,
            down_block_types=down,
            up_block_types=up,
            block_out_channels=widths,
            layers_per_block=c.blocks,
            cross_attention_dim=((None, c.context_channels),) * len(widths),
            attention_head_dim=tuple(width // c.head_channels for width in widths),
            norm_num_groups=c.groups,
            norm_eps=1e-5,
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a network from the configuration in ``config.json``."""
        sizes = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (config["sizes"] or {}).items()
        }
        return cls(UNetConfig(**sizes))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        mixture: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b n d"],
        context_mask: Float[Tensor, "b n"],
    ) -> Float[Tensor, "b c h w"]:
        """Return the velocity.

        Parameters
        ----------
        x : Tensor
            Noisy latents of the wanted sound; frames and mels in multiples of 8.
        t : Tensor
            Time in [0, 1], 0 noise and 1 data.
        mixture : Tensor
            Latents of the mixture.
        context, context_mask : Tensor
            States of the query; where the mask is not 1 they are not attended to.
        """
        out = self.unet(
            torch.cat([x, mixture], dim=1),
            t,
            encoder_hidden_states=context,
            encoder_attention_mask=context_mask == 1,
            return_dict=False,
        )[0]
        return out[:, : self.sizes.latent_channels]
