"""The network that flows: a UNet over latents, told the mixture and the query.

Longer than 400 lines because the sizes, the network and its wrapper are read beside each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.rectify.flow_map import Until, added
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn
from torch.nn import functional as F

from rectiflow_audio.networks.blocks import (
    Double,
    Halve,
    Level,
    PictureTransformer,
    ResidualBlock,
    activate,
    check_groups,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    Texts = list[tuple[Tensor, Tensor]]


HIDDEN = -1e4
"""Added to the score of a token that is not attended to: exp(-1e4) is 0 in every precision, and
unlike -inf it leaves a text without any token finite."""


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
    heads: int | None = None  # of every attention; by head_channels if None
    depth: int = 1  # blocks per transformer
    has_sentence: bool = False  # the mean of the query's states joins the time, in every block
    bands: int | None = None  # columns of the picture that have a bias of their own
    is_relative: bool = False  # velocities are told as shares of the mixture's latents
    start_noise: float | None = None  # of a flow from the mixture; without, it is from noise
    spread: float | None = None  # of target less mixture: adds what a state alone lets expect

    def __post_init__(self) -> None:
        """Check that groups of channels are whole, and that a spread has noise beside it."""
        check_groups(self.groups, self.channels, self.multipliers)
        if self.spread is not None and not (self.spread > 0 and (self.start_noise or 0) > 0):
            raise ValueError(
                f"spread needs a start at the mixture with noise, got spread={self.spread} and "
                f"start_noise={self.start_noise}; expected both positive, or no spread."
            )

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read sizes from the arguments of the authors' ``UNetModel``.

        Parameters
        ----------
        config : mapping
            As under ``unet_config.params`` of the authors' yaml.

        Raises
        ------
        ValueError
            When an argument is missing, or asks for what no released network has.
        """
        missing = [name for name in _NEEDED if name not in config]
        if missing:
            raise ValueError(
                f"UNet config lacks {missing}, got {sorted(config)}; expected the arguments of "
                "the authors' UNetModel."
            )
        for name, only in _FIXED.items():
            if config.get(name, only) != only:
                raise ValueError(
                    f"UNet config has {name}={config[name]!r}; expected {only!r} as in the "
                    "released network."
                )
        if config["in_channels"] % 2 or config["out_channels"] < config["in_channels"] // 2:
            raise ValueError(
                f"UNet config has in_channels={config['in_channels']} and "
                f"out_channels={config['out_channels']}; expected latents beside those of the "
                "mixture, an even number, and at least half as many out."
            )
        multipliers = tuple(config["channel_mult"])
        return cls(
            latent_channels=config["in_channels"] // 2,
            out_channels=config["out_channels"],
            channels=config["model_channels"],
            multipliers=multipliers,
            attention=tuple(
                2**level in config["attention_resolutions"] for level in range(len(multipliers))
            ),
            blocks=config["num_res_blocks"],
            context_channels=_context_channels(config["context_dim"]),
            depth=config.get("transformer_depth", 1),
            **_heads(config),
        )

    def heads_at(self, level: int) -> int:
        """Return the number of attention heads at a level."""
        return self.heads or self.channels * self.multipliers[level] // self.head_channels


_NEEDED = (
    "in_channels",
    "out_channels",
    "model_channels",
    "channel_mult",
    "num_res_blocks",
    "attention_resolutions",
    "context_dim",
)
_FIXED: dict[str, Any] = {
    "dropout": 0,
    "conv_resample": True,
    "dims": 2,
    "extra_sa_layer": True,
    "num_classes": None,
    "extra_film_condition_dim": None,
    "concate_film": None,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_spatial_transformer": True,
    "n_embed": None,
}


def _context_channels(widths: Any) -> int:
    """Return the width of the only context."""
    listed = list(widths) if isinstance(widths, list | tuple) else [widths]
    if len(listed) != 1 or not listed[0]:
        raise ValueError(
            f"UNet config has context_dim={widths!r}; expected one width, of one text encoder."
        )
    return int(listed[0])


def _heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``head_channels`` if it is set, as it comes first, else ``heads``."""
    head_channels, heads = config.get("num_head_channels", -1), config.get("num_heads", -1)
    if head_channels == heads == -1:
        raise ValueError("UNet config must set num_heads or num_head_channels, got neither.")
    return {"heads": heads} if head_channels == -1 else {"head_channels": head_channels}


class TextUNet(nn.Module):
    """UNet with transformers over pixels, told a time and a text.

    Parameters
    ----------
    sizes : UNetConfig
    is_map : bool
        Whether it is told where a move ends.
    """

    def __init__(self, sizes: UNetConfig, is_map: bool = False) -> None:
        super().__init__()
        self.channels, self.blocks = sizes.channels, sizes.blocks
        widths = [sizes.channels * m for m in sizes.multipliers]
        top = len(widths) - 1
        self.conv_in = nn.Conv2d(2 * sizes.latent_channels, widths[0], 3, padding=1)
        if sizes.bands is not None:
            self.bands = nn.Parameter(torch.zeros(widths[0], 1, sizes.bands))
        self.time_embedding = TimeEmbedding(sizes.channels, 4 * sizes.channels)
        self.until = Until(4 * sizes.channels) if is_map else None
        if sizes.has_sentence:
            self.sentence = nn.Linear(sizes.context_channels, 4 * sizes.channels)
            nn.init.zeros_(self.sentence.weight)
            nn.init.zeros_(self.sentence.bias)
        levels, skips = [], [widths[0]]
        for i, width in enumerate(widths):
            inputs = [skips[-1], *[width] * (sizes.blocks - 1)]
            halve = Halve(width, is_centred=True) if i < top else None
            levels.append(_level(sizes, i, inputs, downsampler=halve))
            skips += [width] * (sizes.blocks + (i < top))
        self.down_blocks: Any = nn.ModuleList(levels)
        self.mid_block = Level(
            [_residual(sizes, widths[-1], widths[-1]) for _ in range(2)], _transformers(sizes, top)
        )
        levels, below = [], widths[-1]
        for i in range(top, -1, -1):
            inputs = [(widths[i] if j else below) + skips.pop() for j in range(sizes.blocks + 1)]
            double = Double(widths[i]) if i > 0 else None
            levels.append(_level(sizes, i, inputs, upsampler=double))
            below = widths[i]
        self.up_blocks: Any = nn.ModuleList(levels)
        self.conv_norm_out = nn.GroupNorm(sizes.groups, widths[0], 1e-5)
        self.conv_out = nn.Conv2d(widths[0], sizes.out_channels, 3, padding=1)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        text_keys: Float[Tensor, "b n k"],
        bias: Float[Tensor, "b 1 1 n"],
        sentence: Float[Tensor, "b d"] | None = None,
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b d h w"]:
        """Return all output channels.

        Parameters
        ----------
        x : Tensor
            Picture.
        t : Tensor
            Times.
        text_keys : Tensor
            From :meth:`text_keys`.
        bias : Tensor
            Added to the scores of the text's tokens.
        sentence : Tensor, optional
            The text as a whole, for networks that take it.
        until : Tensor, optional
            Where a move ends, for networks of maps.
        """
        texts = self._texts(text_keys)
        time = self.time_embedding(time_features(t, self.channels).to(x.dtype))
        time = added(time, self.until, t, until)
        time = F.silu(time if sentence is None else time + self.sentence(sentence))
        h = self.conv_in(x)
        if hasattr(self, "bands"):
            h = h + self.bands
        skips = [h]
        for level in self.down_blocks:
            for i, resnet in enumerate(level.resnets):
                h = _attend(level, i, resnet(h, time), texts, bias)
                skips.append(h)
            for halve in level.downsamplers:
                h = halve(h)
                skips.append(h)
        first, second = self.mid_block.resnets
        h = second(_attend(self.mid_block, 0, first(h, time), texts, bias), time)
        for level in self.up_blocks:
            for i, resnet in enumerate(level.resnets):
                h = resnet(torch.cat([h, skips.pop()], dim=1), time)
                h = _attend(level, i, h, texts, bias)
            for double in level.upsamplers:
                h = double(h)
        return self.conv_out(activate(self.conv_norm_out(h)))

    def text_keys(self, context: Float[Tensor, "b n d"]) -> Float[Tensor, "b n k"]:
        """Return keys and values of a text for every attention to it, side by side."""
        found = [
            part
            for transformer in self._text_transformers()
            for block in transformer.transformer_blocks
            for part in block.attn2.keys_and_values(context)
        ]
        return torch.cat(found, dim=-1)

    def _text_transformers(self) -> list[PictureTransformer]:
        """Return the transformers that attend to the text: the second of each pair."""
        levels = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [transformer for level in levels for transformer in level.attentions[1::2]]

    def _texts(self, text_keys: Tensor) -> Iterator[Texts]:
        """Yield the keys and values for each transformer with text, in the order of use."""
        attentions = [
            [block.attn2 for block in each.transformer_blocks] for each in self._text_transformers()
        ]
        widths = [a.to_k.out_features for group in attentions for a in group for _ in "kv"]
        parts = iter(text_keys.split(widths, dim=-1))
        for group in attentions:
            yield [(next(parts), next(parts)) for _ in group]


class TimeEmbedding(nn.Module):
    """Two linear maps of the features of a time."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, features: Float[Tensor, "b c"]) -> Float[Tensor, "b d"]:
        """Return the embedding, before the activation that its users share."""
        return self.linear_2(F.silu(self.linear_1(features)))


def time_features(t: Float[Tensor, " b"], channels: int) -> Float[Tensor, "b c"]:
    """Return cosines, then sines, of times at frequencies from 1 down to nearly 1e-4.

    Frequency j of n is ``10000^(-j / n)``. Times in [0, 1] are not scaled up, as published.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def whole_text(
    context: Float[Tensor, "b n d"], context_mask: Float[Tensor, "b n"]
) -> Float[Tensor, "b d"]:
    """Return the mean of the states that count, of unit mean square."""
    weights = (context_mask == 1).to(context.dtype)[:, :, None]
    mean = (context * weights).sum(1) / weights.sum(1).clamp_min(1)
    return F.normalize(mean, dim=-1) * math.sqrt(context.shape[-1])


class SeparationUNet(Pretrained, nn.Module):
    """Velocity of the latents of the wanted sound, given those of the mixture and a query.

    Parameters
    ----------
    sizes : UNetConfig, optional
        The released sizes if absent.
    is_map : bool
        Whether it is a network of maps, from :func:`rectiflow.rectify.to_map`.

    References
    ----------
    Yuan et al., "FlowSep" (arXiv 2409.07614). Every attention site has two transformers: the
    first sees no text. Tensors have the names and shapes of ``diffusers``'
    ``AudioLDM2UNet2DConditionModel``.
    """

    def __init__(self, sizes: UNetConfig | None = None, is_map: bool = False) -> None:
        super().__init__()
        self.sizes, self.is_map = sizes or UNetConfig(), is_map
        self.unet = TextUNet(self.sizes, is_map)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a network from the configuration in ``config.json``."""
        sizes: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (config["sizes"] or {}).items()
        }
        return cls(UNetConfig(**sizes), config.get("is_map", False))

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Float[Tensor, " b"],
        cond: Mapping[str, Tensor],
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Return the velocity.

        Parameters
        ----------
        x : Tensor
            Noisy latents of the wanted sound; frames and mels in multiples of 8.
        t : Tensor
            Time in [0, 1], 0 noise and 1 data.
        cond : mapping
            ``mixture (b, c, h, w)``, the latents of the mixture; ``context (b, n, d)``, states of
            the query, and ``context_mask (b, n)``: where it is not 1 they are not attended to.
            :meth:`with_text_keys` saves work where the same condition is used again.
        until : Tensor, optional
            Where a move ends: then the mean velocity of the way, of a network of maps.

        Raises
        ------
        ValueError
            When height or width is not a multiple of 8 (at the released sizes).
        """
        depth = 2 ** (len(self.sizes.multipliers) - 1)
        if x.shape[-2] % depth or x.shape[-1] % depth:
            raise ValueError(
                f"latents must have height and width in multiples of {depth}, got "
                f"{tuple(x.shape[-2:])}. Pad the spectrogram."
            )
        keys = cond["text_keys"] if "text_keys" in cond else self.unet.text_keys(cond["context"])
        bias = torch.where(cond["context_mask"] == 1, 0.0, HIDDEN).to(x.dtype)[:, None, None]
        sentence = None
        if self.sizes.has_sentence:
            sentence = whole_text(cond["context"], cond["context_mask"]).to(x.dtype)
        mixture = cond["mixture"]
        told, expected = (x, None) if self.sizes.spread is None else self._expected(x, t, mixture)
        out = self.unet(torch.cat([told, mixture], dim=1), t, keys, bias, sentence, until)
        out = out[:, : self.sizes.latent_channels]
        out = out * mixture if self.sizes.is_relative else out
        return out if expected is None else expected + out

    def _expected(
        self, x: Float[Tensor, "b c h w"], t: Float[Tensor, " b"], mixture: Float[Tensor, "b c h w"]
    ) -> tuple[Tensor, Tensor]:
        r"""Return the data and the velocity that are expected of a state alone.

        Off the mixture, a state is :math:`d = t r + (1 - t) \sigma z`; were the residual r of the
        target normal with the spread s, both would be linear in d. At the start they are the
        mixture and the noise undone: there the network is asked what a mask network is. (The
        preconditioning of Karras et al., "Elucidating the design space of diffusion-based
        generative models", NeurIPS 2022, for a flow from the mixture.)
        """
        assert self.sizes.spread is not None
        assert self.sizes.start_noise is not None
        at = t.view(-1, 1, 1, 1).to(x.dtype)
        signal, noise = at * self.sizes.spread**2, (1 - at) * self.sizes.start_noise**2
        off = (x - mixture) / (at * signal + (1 - at) * noise)
        return mixture + signal * off, (signal - noise) * off

    def slim_sizes(self) -> dict[str, int]:
        """Return the sizes of half the width, in whole groups and heads."""
        c = self.sizes
        return {"channels": c.channels // 2, "groups": max(c.groups // 2, 1),
                "head_channels": max(c.head_channels // 2, 1)}  # fmt: skip

    def start(
        self, noise: Float[Tensor, "b c h w"], cond: Mapping[str, Tensor]
    ) -> Float[Tensor, "b c h w"]:
        """Return where the flow starts: at the noise, or at the mixture and a little of it."""
        width = self.sizes.start_noise
        return noise if width is None else cond["mixture"] + width * noise

    def with_text_keys(self, cond: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add to a condition the keys and values of its text, which are the same at every step.

        Parameters
        ----------
        cond : mapping
            As for :meth:`forward`.

        Returns
        -------
        dict
            The condition, with ``text_keys (b, n, k)`` that takes the place of ``context``.
        """
        return {**cond, "text_keys": self.unet.text_keys(cond["context"])}


def _residual(sizes: UNetConfig, inputs: int, outputs: int) -> ResidualBlock:
    return ResidualBlock(inputs, outputs, sizes.groups, 1e-5, time_channels=4 * sizes.channels)


def _transformers(sizes: UNetConfig, level: int) -> list[nn.Module]:
    """Return a transformer without and one with the text."""
    width, heads = sizes.channels * sizes.multipliers[level], sizes.heads_at(level)
    return [
        PictureTransformer(width, heads, sizes.groups, sizes.depth, context)
        for context in (None, sizes.context_channels)
    ]


def _level(
    sizes: UNetConfig,
    index: int,
    inputs: list[int],
    *,
    downsampler: Halve | None = None,
    upsampler: Double | None = None,
) -> Level:
    width = sizes.channels * sizes.multipliers[index]
    attentions = [
        part for _ in inputs if sizes.attention[index] for part in _transformers(sizes, index)
    ]
    return Level(
        [_residual(sizes, channels, width) for channels in inputs],
        attentions,
        downsampler=downsampler,
        upsampler=upsampler,
    )


def _attend(level: Level, block: int, h: Tensor, texts: Iterator[Texts], bias: Tensor) -> Tensor:
    """Apply the two transformers after a residual block, if it has them."""
    if not level.attentions:
        return h
    alone, told = level.attentions[2 * block : 2 * block + 2]
    return told(alone(h), next(texts), bias)
