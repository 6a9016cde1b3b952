"""The autoencoder: log-mel spectrograms to latents a sixteenth of their area, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_audio.networks.blocks import (
    Double,
    Halve,
    Level,
    PixelAttention,
    ResidualBlock,
    activate,
    check_groups,
)

if TYPE_CHECKING:
    from jaxtyping import Float

LOGVAR_RANGE = (-30.0, 20.0)
EPS = 1e-6
"""Of every normalisation."""


@dataclass(frozen=True)
class VaeConfig:
    """Sizes of the autoencoder; the defaults are the released ones (55,376,873 parameters)."""

    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 4)  # of the channels, by level
    blocks: int = 2  # residual blocks per level of the encoder; the decoder has one more
    latent_channels: int = 8
    groups: int = 32  # of every normalisation
    mel_mean: float = 0.0  # of the log-mel, taken out before the encoder
    mel_std: float = 1.0
    attention: tuple[int, ...] = ()  # levels that attend, besides the middle
    inner_channels: int | None = None  # between the two 1x1 convolutions; latent_channels if None

    def __post_init__(self) -> None:
        """Check that normalisations have whole groups of channels."""
        check_groups(self.groups, self.channels, self.multipliers)

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from ``ddconfig`` and ``embed_dim`` of the authors' ``AutoencoderKL``.

        They stand under ``first_stage_config.params`` of the authors' yaml; what concerns training
        is ignored.

        Raises
        ------
        ValueError
            When an argument is missing, or asks for what no released autoencoder has.
        """
        _require(config, "ddconfig", "embed_dim")
        network = config["ddconfig"]
        _require(network, "ch", "ch_mult", "num_res_blocks", "z_channels", "resolution")
        for name, only in _FIXED.items():
            if network.get(name, only) != only:
                raise ValueError(
                    f"ddconfig.{name} must be {only!r}, got {network[name]!r}; expected an "
                    "autoencoder of log-mel spectrograms like the released one."
                )
        attending = network.get("attn_resolutions", ())
        levels = range(len(network["ch_mult"]))
        return cls(
            channels=network["ch"],
            multipliers=tuple(network["ch_mult"]),
            blocks=network["num_res_blocks"],
            latent_channels=config["embed_dim"],
            attention=tuple(i for i in levels if network["resolution"] // 2**i in attending),
            inner_channels=(
                None if network["z_channels"] == config["embed_dim"] else network["z_channels"]
            ),
        )


_FIXED: dict[str, Any] = {
    "double_z": True,
    "in_channels": 1,
    "out_ch": 1,
    "dropout": 0.0,
    "resamp_with_conv": True,
    "use_linear_attn": False,
    "attn_type": "vanilla",
    "downsample_time_stride4_levels": [],
    "give_pre_end": False,
    "tanh_out": False,
}


def _require(config: Mapping[str, Any], *names: str) -> None:
    missing = [name for name in names if name not in config]
    if missing:
        raise ValueError(
            f"autoencoder config lacks {missing}, got {sorted(config)}; expected 'ddconfig' and "
            "'embed_dim' as in the authors' yaml."
        )


@dataclass(frozen=True)
class Posterior:
    """Gaussian over latents.

    Attributes
    ----------
    mean, logvar : Tensor, shape (b, latent channels, frames / 4, mels / 4)
        The log-variance is clamped to [-30, 20].
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Return the standard deviation."""
        return torch.exp(0.5 * self.logvar)

    def sample(
        self, *, noise: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw latents, ``mean + std · noise``."""
        if noise is None:
            noise = torch.randn(
                self.mean.shape,
                generator=generator,
                device=self.mean.device,
                dtype=self.mean.dtype,
            )
        return self.mean + self.std * noise

    def kl(self) -> Float[Tensor, " b"]:
        """Divergence from the unit normal, its mean over the elements of each sample."""
        terms = self.mean.square() + self.logvar.exp() - 1 - self.logvar
        return 0.5 * terms.flatten(1).mean(1)


class Encoder(nn.Module):
    """Spectrogram to twice as many maps as the bottleneck has channels; halves at each level."""

    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        widths = [c.channels * m for m in c.multipliers]
        self.conv_in = nn.Conv2d(1, widths[0], 3, padding=1)
        levels, inputs = [], widths[0]
        for i, width in enumerate(widths):
            halve = Halve(width, is_centred=False) if i < len(widths) - 1 else None
            levels.append(_level(c, i, inputs, c.blocks, downsampler=halve))
            inputs = width
        self.down_blocks: Any = nn.ModuleList(levels)
        self.mid_block = _middle(c)
        self.conv_norm_out = nn.GroupNorm(c.groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(
            widths[-1], 2 * (c.inner_channels or c.latent_channels), 3, padding=1
        )

    def forward(self, x: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b c h/4 w/4"]:
        """Return means and log-variances before the last 1x1 convolution."""
        h = self.conv_in(x)
        for level in self.down_blocks:
            h = _through(level, h)
        h = _through_middle(self.mid_block, h)
        return self.conv_out(activate(self.conv_norm_out(h)))


class Decoder(nn.Module):
    """Bottleneck to spectrogram; doubles at each level but the last."""

    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        widths = [c.channels * m for m in c.multipliers]
        self.conv_in = nn.Conv2d(c.inner_channels or c.latent_channels, widths[-1], 3, padding=1)
        self.mid_block = _middle(c)
        levels, inputs = [], widths[-1]
        for i, width in reversed(list(enumerate(widths))):
            double = Double(width) if i > 0 else None
            levels.append(_level(c, i, inputs, c.blocks + 1, upsampler=double))
            inputs = width
        self.up_blocks: Any = nn.ModuleList(levels)
        self.conv_norm_out = nn.GroupNorm(c.groups, widths[0], EPS)
        self.conv_out = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 4*h 4*w"]:
        """Return the spectrogram."""
        h = _through_middle(self.mid_block, self.conv_in(z))
        for level in self.up_blocks:
            h = _through(level, h)
        return self.conv_out(activate(self.conv_norm_out(h)))


class Autoencoder(nn.Module):
    """Encoder, decoder, and the 1x1 convolutions between them and the latents."""

    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        inner = c.inner_channels or c.latent_channels
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        self.quant_conv = nn.Conv2d(2 * inner, 2 * c.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(c.latent_channels, inner, 1)


class SpectrogramVae(Pretrained, nn.Module):
    """Encode log-mel spectrograms into latents and decode them.

    Parameters
    ----------
    sizes : VaeConfig, optional
        The released sizes if absent.
    scale_factor : float
        What latents are multiplied by before they flow: one over their standard deviation.

    References
    ----------
    Liu et al., AudioLDM (arXiv 2301.12503); the class is that of latent diffusion. Its tensors
    have the names and shapes of ``diffusers``' ``AutoencoderKL``.
    """

    def __init__(self, sizes: VaeConfig | None = None, scale_factor: float = 1.0) -> None:
        super().__init__()
        self.sizes = c = sizes or VaeConfig()
        self.autoencoder = Autoencoder(c)
        self.scale_factor: Tensor
        self.register_buffer("scale_factor", torch.tensor(float(scale_factor)))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an autoencoder from the configuration in ``config.json``."""
        sizes: dict[str, Any] = dict(config["sizes"] or {})
        for name in ("multipliers", "attention"):
            if name in sizes:
                sizes[name] = tuple(sizes[name])
        return cls(VaeConfig(**sizes), config["scale_factor"])

    def encode(self, log_mel: Float[Tensor, "b 1 frames mels"]) -> Posterior:
        """Return the posterior over latents; frames and mels must be multiples of 4."""
        x = (log_mel - self.sizes.mel_mean) / self.sizes.mel_std
        moments = self.autoencoder.quant_conv(self.autoencoder.encoder(x))
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(*LOGVAR_RANGE))

    def decode(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel of unscaled latents."""
        out = self.autoencoder.decoder(self.autoencoder.post_quant_conv(z))
        return out * self.sizes.mel_std + self.sizes.mel_mean

    def to_latent(
        self,
        log_mel: Float[Tensor, "b 1 frames mels"],
        *,
        sample: bool = False,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return scaled latents: the posterior's mean, or a sample of it."""
        posterior = self.encode(log_mel)
        z = posterior.sample(generator=generator) if sample else posterior.mean
        return z * self.scale_factor

    def from_latent(self, z: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 1 frames mels"]:
        """Return the log-mel of scaled latents."""
        return self.decode(z / self.scale_factor)


def _level(
    c: VaeConfig,
    index: int,
    inputs: int,
    blocks: int,
    *,
    downsampler: Halve | None = None,
    upsampler: Double | None = None,
) -> Level:
    width = c.channels * c.multipliers[index]
    return Level(
        [ResidualBlock(width if i else inputs, width, c.groups, EPS) for i in range(blocks)],
        [PixelAttention(width, c.groups, EPS) for _ in range(blocks) if index in c.attention],
        downsampler=downsampler,
        upsampler=upsampler,
    )


def _middle(c: VaeConfig) -> Level:
    width = c.channels * c.multipliers[-1]
    return Level(
        [ResidualBlock(width, width, c.groups, EPS) for _ in range(2)],
        [PixelAttention(width, c.groups, EPS)],
    )


def _through(level: Level, h: Tensor) -> Tensor:
    for i, resnet in enumerate(level.resnets):
        h = resnet(h)
        if level.attentions:
            h = level.attentions[i](h)
    for change in (*level.downsamplers, *level.upsamplers):
        h = change(h)
    return h


def _through_middle(middle: Level, h: Tensor) -> Tensor:
    return middle.resnets[1](middle.attentions[0](middle.resnets[0](h)))
