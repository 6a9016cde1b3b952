"""The vocoder: log-mel spectrograms to waveforms, by BigVGAN's generator."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from rectiflow_audio.networks.snake import REACH, AntiAliasedSnake

if TYPE_CHECKING:
    from jaxtyping import Float

_SPREAD = 0.01  # of the fresh weights after the first convolution
_EDGE = 7  # kernel of the first and the last convolution
_NEEDED = (
    "num_mels",
    "resblock",
    "resblock_kernel_sizes",
    "resblock_dilation_sizes",
    "upsample_rates",
    "upsample_kernel_sizes",
    "upsample_initial_channel",
    "activation",
    "snake_logscale",
)


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the vocoder; the defaults are the released ones (13,953,825 parameters).

    The product of the rates is the hop of the spectrogram, in samples.
    """

    n_mels: int = 64
    rates: tuple[int, ...] = (5, 4, 2, 2, 2)  # of every stage's upsampling
    kernels: tuple[int, ...] = (16, 16, 8, 4, 4)  # of every stage's upsampling
    channels: int = 512  # before the first stage; every stage halves them
    block_kernels: tuple[int, ...] = (3, 7, 11)  # one block each, averaged
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3  # per block
    is_paired: bool = True  # an undilated convolution follows every dilated one
    has_beta: bool = True  # the activation's height has a parameter of its own
    log_scale: bool = True  # the activation's parameters are logarithms

    def __post_init__(self) -> None:
        """Check that the lists fit together."""
        if len(self.rates) != len(self.kernels) or not self.rates:
            raise ValueError(
                f"rates and kernels must list the same stages, got {self.rates} and "
                f"{self.kernels}; expected one kernel per rate."
            )
        if any(kernel < rate for rate, kernel in zip(self.rates, self.kernels, strict=True)):
            raise ValueError(
                f"a kernel is shorter than its rate, got kernels {self.kernels} for rates "
                f"{self.rates}; expected at least the rate, or samples would be left empty."
            )
        if len(self.block_kernels) != len(self.dilations) or not self.block_kernels:
            raise ValueError(
                f"block_kernels and dilations must list the same blocks, got "
                f"{self.block_kernels} and {self.dilations}."
            )
        if any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise ValueError(
                f"block_kernels must be odd to keep the length, got {self.block_kernels}."
            )
        if self.channels < 2 ** len(self.rates):
            raise ValueError(
                f"channels must be at least {2 ** len(self.rates)} for {len(self.rates)} stages, "
                f"got {self.channels}. Every stage halves them."
            )

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.rates)

    @classmethod
    def from_official(cls, config: Mapping[str, Any]) -> Self:
        """Read the sizes from the JSON of an official BigVGAN; what is for training is ignored.

        As in the authors' class, blocks are of the first kind if ``resblock`` is ``"1"``, else of
        the second; they use the first three dilations, or two; and what a list has beyond the one
        it goes with is ignored.

        Raises
        ------
        ValueError
            When a size is missing or no size, a list is too short, or it asks for activations that
            BigVGAN does not have.
        """
        missing = [name for name in _NEEDED if name not in config]
        if missing:
            raise ValueError(
                f"vocoder config lacks {missing}, got {sorted(config)}; expected the config.json "
                "of a BigVGAN."
            )
        is_paired, activation = config["resblock"] == "1", config["activation"]
        if activation not in ("snake", "snakebeta"):
            raise ValueError(f"unknown activation {activation!r}; expected 'snake' or 'snakebeta'.")
        rates = _sizes(config, "upsample_rates")
        blocks = _sizes(config, "resblock_kernel_sizes")
        dilations, used = config["resblock_dilation_sizes"], 3 if is_paired else 2
        dilations = dilations if isinstance(dilations, list | tuple) else [dilations]
        each = [{"resblock_dilation_sizes": d} for d in dilations[: len(blocks)]]
        return cls(
            n_mels=_sizes(config, "num_mels")[0],
            rates=rates,
            kernels=_sizes(config, "upsample_kernel_sizes")[: len(rates)],
            channels=_sizes(config, "upsample_initial_channel")[0],
            block_kernels=blocks,
            dilations=tuple(_sizes(one, "resblock_dilation_sizes")[:used] for one in each),
            is_paired=is_paired,
            has_beta=activation == "snakebeta",
            log_scale=bool(config["snake_logscale"]),
        )


def _sizes(config: Mapping[str, Any], name: str) -> tuple[int, ...]:
    """Return positive whole numbers, one or several."""
    values = config[name] if isinstance(config[name], list | tuple) else [config[name]]
    if not values or not all(type(value) is int and value > 0 for value in values):
        raise ValueError(f"vocoder config has {name}={values!r}; expected whole numbers above 0.")
    return tuple(values)


class _Conv(nn.Conv1d):
    """Convolution that keeps the length, channels last."""

    def __init__(self, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        # Samples on either side that one output depends on.
        self.reach = dilation * (kernel - 1) // 2
        super().__init__(inputs, outputs, kernel, padding=self.reach, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        # As a picture of one row: only for pictures do backends take channels last as they are.
        out = F.conv2d(
            x.transpose(1, 2)[:, :, None],
            self.weight[:, :, None],
            self.bias,
            padding=(0, self.reach),
            dilation=(1, self.dilation[0]),
        )
        return out[:, :, 0].transpose(1, 2)


class _Upsampling(nn.ConvTranspose1d):
    """Transposed convolution, channels last; the surplus of the kernel is cut on both sides."""

    def __init__(self, inputs: int, outputs: int, rate: int, kernel: int) -> None:
        self.cut = (kernel - rate) // 2
        super().__init__(inputs, outputs, kernel, stride=rate, padding=self.cut)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        out = F.conv_transpose2d(
            x.transpose(1, 2)[:, :, None],
            self.weight[:, :, None],
            self.bias,
            stride=(1, self.stride[0]),
            padding=(0, self.cut),
        )
        return out[:, :, 0].transpose(1, 2)

    def reach(self, outputs: int) -> int:
        """Return how many inputs on either side outputs reaching so far depend on."""
        return (outputs + self.kernel_size[0] - 1 - self.cut) // self.stride[0]


class _Block(nn.Module):
    """Residual convolutions of growing dilation, an activation before each."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...], c: VocoderConfig):
        super().__init__()
        dilated = nn.ModuleList(_Conv(channels, channels, kernel, d) for d in dilations)
        self.each = 2 if c.is_paired else 1
        if c.is_paired:
            self.convs1 = dilated
            self.convs2 = nn.ModuleList(_Conv(channels, channels, kernel) for _ in dilations)
        else:
            self.convs = dilated
        self.activations = nn.ModuleList(
            AntiAliasedSnake(channels, has_beta=c.has_beta, log_scale=c.log_scale)
            for _ in range(self.each * len(dilations))
        )

    def steps(self) -> Iterator[list[tuple[nn.Module, Any]]]:
        """Yield what each residual step does: activations with their convolutions, in order."""
        lists = (self.convs1, self.convs2) if self.each == 2 else (self.convs,)
        for index, group in enumerate(zip(*lists, strict=True)):
            own = self.activations[self.each * index : self.each * (index + 1)]
            yield list(zip(own, group, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps():
            change = x
            for activation, conv in step:
                change = conv(activation(change))
            x = x + change
        return x

    @property
    def reach(self) -> int:
        """Samples on either side that one output depends on."""
        return sum(REACH + conv.reach for step in self.steps() for _, conv in step)


class BigVgan(Pretrained, nn.Module):
    """Waveforms in [-1, 1] from natural-log mel spectrograms.

    Parameters are named as the official ones without weight norm, filters included (558 tensors
    at the released sizes). In memory channels come last, which suits the convolutions and turns
    the activations' filters into small matrix products.

    Parameters
    ----------
    sizes : VocoderConfig, optional
        The released sizes if absent.

    Notes
    -----
    The authors' network returns a little more than ``hop`` samples per frame: a stage whose
    kernel and rate differ by an odd number makes one sample too many, 32 in the end at the
    released sizes. The extra ones are the last, so :meth:`forward` cuts the tail; :meth:`raw`
    keeps them. In bfloat16 (``.to(torch.bfloat16)``, or under autocast) waveforms differ from
    those of float32 by about 1 % of their root mean square.

    References
    ----------
    Lee et al., "BigVGAN: A Universal Neural Vocoder with Large-Scale Training" (ICLR 2023).

    Examples
    --------
    >>> small = VocoderConfig(n_mels=4, rates=(5, 2), kernels=(16, 4), channels=8)
    >>> vocoder = BigVgan(small)
    >>> vocoder(torch.zeros(1, 4, 6)).shape, vocoder.raw(torch.zeros(1, 4, 6)).shape
    (torch.Size([1, 60]), torch.Size([1, 62]))
    """

    def __init__(self, sizes: VocoderConfig | None = None) -> None:
        super().__init__()
        self.sizes = c = sizes or VocoderConfig()
        self.conv_pre = _Conv(c.n_mels, c.channels, _EDGE)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        width = c.channels
        for rate, kernel in zip(c.rates, c.kernels, strict=True):
            self.ups.append(nn.ModuleList([_Upsampling(width, width // 2, rate, kernel)]))
            width //= 2
            for size, dilations in zip(c.block_kernels, c.dilations, strict=True):
                self.resblocks.append(_Block(width, size, dilations, c))
        self.activation_post = AntiAliasedSnake(width, has_beta=c.has_beta, log_scale=c.log_scale)
        self.conv_post = _Conv(width, 1, _EDGE)
        for layer in _convolutions(self):
            if layer is not self.conv_pre:
                nn.init.normal_(layer.weight, std=_SPREAD)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a vocoder from the configuration in ``config.json``."""
        sizes = dict(config["sizes"] or {})
        for name, value in sizes.items():
            if isinstance(value, list):
                sizes[name] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
        return cls(VocoderConfig(**sizes))

    def forward(self, log_mel: Float[Tensor, "b mels frames"]) -> Float[Tensor, "b samples"]:
        """Return ``hop`` samples per frame.

        Raises
        ------
        ValueError
            When the input is not of shape (b, mels, frames) with at least one frame.
        """
        return self.raw(log_mel)[:, : self.sizes.hop * log_mel.shape[-1]]

    def raw(self, log_mel: Float[Tensor, "b mels frames"]) -> Float[Tensor, "b samples"]:
        """Return all samples that the authors' network makes, at least ``hop`` per frame."""
        self._check(log_mel)
        x = self.conv_pre(log_mel.transpose(1, 2))
        for stage, blocks in self._stages():
            x = stage(x)
            total = blocks[0](x)
            for block in blocks[1:]:
                total = total + block(x)
            x = total / len(blocks)
        x = self.conv_post(self.activation_post(x))
        return torch.tanh(x).squeeze(2)

    def chunked(
        self, log_mel: Float[Tensor, "b mels frames"], frames: int
    ) -> Float[Tensor, "b samples"]:
        """Return what :meth:`forward` returns, with memory for ``frames`` frames at a time.

        Every chunk is made with :attr:`margin` further frames on both sides, all that its samples
        depend on; the result equals the whole within rounding.

        Raises
        ------
        ValueError
            When ``frames`` is less than one, or as in :meth:`forward`.
        """
        self._check(log_mel)
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}.")
        total, hop = log_mel.shape[2], self.sizes.hop
        out = log_mel.new_empty(len(log_mel), total * hop)
        for start in range(0, total, frames):
            stop = min(start + frames, total)
            low, high = max(start - self.margin, 0), min(stop + self.margin, total)
            made = self(log_mel[:, :, low:high])
            out[:, start * hop : stop * hop] = made[:, (start - low) * hop : (stop - low) * hop]
        return out

    @property
    def margin(self) -> int:
        """Frames on either side that the samples of one frame depend on (at most)."""
        reach = self.conv_post.reach + REACH
        for stage, blocks in reversed(list(self._stages())):
            reach = stage.reach(reach + max(block.reach for block in blocks))
        return reach + self.conv_pre.reach

    def apply_weight_norm(self) -> None:
        """Give every convolution's weight a length and a direction, as in the authors' training.

        The parameters are then torch's ``parametrizations.weight.original0`` (the official
        ``weight_g``) and ``original1`` (``weight_v``).
        """
        for layer in _convolutions(self):
            weight_norm(layer)

    def remove_weight_norm(self) -> None:
        """Fold lengths and directions into plain weights again."""
        for layer in _convolutions(self):
            if is_parametrized(layer, "weight"):
                remove_parametrizations(layer, "weight")

    def _stages(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield the upsampling of each stage and its parallel blocks."""
        count, ups = len(self.sizes.block_kernels), cast(Any, self.ups)
        for index, (stage,) in enumerate(ups):
            yield stage, list(self.resblocks[count * index : count * (index + 1)])

    def _check(self, log_mel: Tensor) -> None:
        if log_mel.ndim != 3 or log_mel.shape[1] != self.sizes.n_mels or not log_mel.shape[2]:
            raise ValueError(
                f"log_mel must have shape (batch, {self.sizes.n_mels}, frames), got "
                f"{tuple(log_mel.shape)}. Spectrograms with mels last need transpose(1, 2)."
            )


def fold_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    r"""Return a state dict with every pair ``weight_g``, ``weight_v`` folded into ``weight``.

    .. math:: W_i = g_i \, v_i / \lVert v_i \rVert

    with i the first axis: outputs of a convolution, inputs of a transposed one. Other tensors are
    kept as they are; a state dict without pairs comes back equal.

    Raises
    ------
    KeyError
        When one half of a pair is missing.

    Examples
    --------
    >>> pair = {"a.weight_g": torch.full((1, 1), 2.0), "a.weight_v": torch.tensor([[3.0, 4.0]])}
    >>> fold_weight_norm(pair)
    {'a.weight': tensor([[1.2000, 1.6000]])}
    """
    folded: dict[str, Tensor] = {}
    for name, value in state.items():
        stem, _, last = name.rpartition(".")
        if last not in ("weight_g", "weight_v"):
            folded[name] = value
            continue
        length, direction = f"{stem}.weight_g", f"{stem}.weight_v"
        if length not in state or direction not in state:
            raise KeyError(
                f"half of a weight norm is missing, got {name} alone; expected {length} and "
                f"{direction}."
            )
        folded[f"{stem}.weight"] = torch._weight_norm(state[direction], state[length], 0)
    return folded


def _convolutions(module: nn.Module) -> Iterator[_Conv | _Upsampling]:
    """Yield every convolution of a vocoder."""
    yield from (m for m in module.modules() if isinstance(m, _Conv | _Upsampling))
