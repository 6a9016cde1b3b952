"""The periodic activation of BigVGAN, without the aliases that a pointwise function makes."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

TAPS = 12
REACH = 6  # samples on either side that one output depends on
_GAIN_FLOOR = 1e-9
# Outputs per matrix product: wider products waste arithmetic, narrower ones cost more calls.
_TILE = 16
# Elements per block: the doubled signal and its sine then stay in a core's second-level cache.
_BLOCK = 2**16


def low_pass(taps: int = TAPS, cutoff: float = 0.25, half_width: float = 0.3) -> Float[Tensor, k]:
    r"""Return a Kaiser-windowed sinc of sum 1.

    .. math:: h_k \propto w_k(\beta)\, \mathrm{sinc}(2 f_c (k - (K - 1) / 2))

    Parameters
    ----------
    taps : int
        Length K, even.
    cutoff, half_width : float
        Cutoff frequency and half the width of the transition, in cycles per sample; they give
        the window's attenuation and with it its shape.

    Examples
    --------
    >>> low_pass(4)
    tensor([0.1250, 0.3750, 0.3750, 0.1250])
    """
    attenuation = 2.285 * (taps // 2 - 1) * math.pi * 4 * half_width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation >= 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    window = torch.kaiser_window(taps, periodic=False, beta=beta)
    time = torch.arange(taps) - (taps - 1) / 2
    kernel = window * torch.sinc(2 * cutoff * time)
    return kernel / kernel.sum()


class Snake(nn.Module):
    r"""Pointwise :math:`x + \sin^2(\alpha x) / \beta` with two numbers per channel.

    Parameters
    ----------
    channels : int
        Channels c.
    has_beta : bool
        Whether the height has a parameter of its own; otherwise :math:`\beta = \alpha`.
    log_scale : bool
        Whether the parameters are logarithms.

    References
    ----------
    Ziyin et al. (arXiv 2006.08195), equation 3; Lee et al., BigVGAN (arXiv 2206.04658).
    """

    def __init__(self, channels: int, *, has_beta: bool = True, log_scale: bool = True) -> None:
        super().__init__()
        self.log_scale = log_scale
        start = torch.zeros(channels) if log_scale else torch.ones(channels)
        self.alpha = nn.Parameter(start)
        self.beta = nn.Parameter(start.clone()) if has_beta else None

    def rates(self) -> tuple[Float[Tensor, " c"], Float[Tensor, " c"]]:
        """Return the angular rate and the height of the bumps, per channel."""
        beta = self.alpha if self.beta is None else self.beta
        rate, inverse = (p.exp() if self.log_scale else p for p in (self.alpha, beta))
        return rate, 1 / (inverse + _GAIN_FLOOR)

    def forward(self, x: Float[Tensor, "*b c"]) -> Float[Tensor, "*b c"]:
        """Apply it; channels last."""
        rate, height = self.rates()
        return torch.addcmul(x, height.to(x), torch.sin(x * rate.to(x)).square())


class _Filter(nn.Module):
    """Holds the taps under their official name."""

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", low_pass()[None, None])


class _DownSampling(nn.Module):
    """Nests the taps as the official names want."""

    def __init__(self) -> None:
        super().__init__()
        self.lowpass = _Filter()


class AntiAliasedSnake(nn.Module):
    """Snake at twice the sample rate: up by two, activate, low-pass, down by two.

    The doubled signal is two phases of the signal's own rate, so no zeros are filtered: the even
    one has the odd taps of the filter, the odd one its even taps. Compiled, on a GPU, or when
    gradients are wanted, the taps are summed one by one, which a compiler fuses into two passes.
    Otherwise a stretch of 16 outputs is one small matrix product, in blocks that stay in cache.
    Both replicate the outermost samples beyond the ends before each filter.

    Parameters
    ----------
    channels : int
        Channels c.
    has_beta, log_scale : bool
        See :class:`Snake`.

    Examples
    --------
    >>> AntiAliasedSnake(2)(torch.ones(1, 5, 2)).shape
    torch.Size([1, 5, 2])

    References
    ----------
    Lee et al., BigVGAN (arXiv 2206.04658), section 3.2; filters after Karras et al. (StyleGAN3).
    """

    def __init__(self, channels: int, *, has_beta: bool = True, log_scale: bool = True) -> None:
        super().__init__()
        self.act = Snake(channels, has_beta=has_beta, log_scale=log_scale)
        self.upsample = _Filter()
        self.downsample = _DownSampling()

    def forward(self, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
        """Activate signals; channels last."""
        learns = torch.is_grad_enabled() and (x.requires_grad or self.act.alpha.requires_grad)
        if x.device.type == "cpu" and not learns and not torch.compiler.is_compiling():
            return self._by_products(x)
        return self._by_taps(x)

    def up(self, x: Float[Tensor, "b n c"]) -> tuple[Float[Tensor, "b n c"], ...]:
        """Return the even and the odd samples of the signals at twice the rate."""
        taps = 2 * self.upsample.filter.to(x).view(-1)
        wide, n = _replicated(x, 3, 3), x.shape[1]
        even = _weighted((taps[11 - 2 * q], wide[:, q : q + n]) for q in range(6))
        odd = _weighted((taps[10 - 2 * q], wide[:, q + 1 : q + 1 + n]) for q in range(6))
        return even, odd

    def down(
        self, even: Float[Tensor, "b n c"], odd: Float[Tensor, "b n c"]
    ) -> Float[Tensor, "b n c"]:
        """Return low-passed every second sample of signals given by their phases."""
        taps, n = self.downsample.lowpass.filter.to(even).view(-1), even.shape[1]
        first, last = even[:, :1], odd[:, -1:]
        at_even = torch.cat([first, first, even, last, last, last], dim=1)
        at_odd = torch.cat([first, first, first, odd, last, last], dim=1)
        return _weighted(
            (taps[2 * q + phase], wide[:, q : q + n])
            for phase, wide in ((1, at_even), (0, at_odd))
            for q in range(6)
        )

    def _by_taps(self, x: Tensor) -> Tensor:
        even, odd = self.up(x)
        return self.down(self.act(even), self.act(odd))

    @torch.no_grad()
    def _by_products(self, x: Tensor) -> Tensor:
        n, tile = x.shape[1], _TILE
        up, down = self._matrices(x)
        rate, height = self.act.rates()
        rate, root = rate.to(x), height.sqrt().to(x)
        length = max(tile, _BLOCK // x.shape[2] // tile * tile)
        out = x.new_empty(x.shape[0], -(-n // tile) * tile, x.shape[2])
        for signal, target in zip(x, out, strict=True):
            for start in range(0, n, length):
                stop = min(start + length, n)
                low, high = max(start - 3, 0), min(stop + 3, n)
                tiles = -(-(high - low) // tile)
                double = _tiled(up, _span(signal, low - 3, low + tiles * tile + 3), tile)
                double = double.flatten(0, 1)[: 2 * (high - low)]
                wave = (double * rate).sin_().mul_(root)
                double.addcmul_(wave, wave)
                tiles = -(-(stop - start) // tile)
                begin = 2 * (start - low) - 5
                wide = _span(double, begin, begin + 2 * tiles * tile + 10)
                into = target[start : start + tiles * tile].unflatten(0, (tiles, tile))
                _tiled(down, wide, 2 * tile, out=into)
        return out[:, :n]

    def _matrices(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the filters as matrices that make one tile of outputs."""
        above = torch.cat([2 * self.upsample.filter.view(-1), x.new_zeros(1, dtype=torch.float32)])
        below = torch.cat([self.downsample.lowpass.filter.view(-1), above[-1:]])
        up, down = _tap_indices(_TILE)
        return above[up].to(x.dtype), below[down].to(x.dtype)


@functools.cache
def _tap_indices(tile: int) -> tuple[Tensor, Tensor]:
    """Which tap joins an output of a tile to an input; TAPS where none does."""
    sample, source = torch.arange(2 * tile)[:, None], torch.arange(tile + 6)
    up = sample % 2 + 11 - 2 * (source - sample // 2)
    # An odd sample looks one input further ahead: its taps run 10, 8, ... from there.
    up = torch.where((up >= 0) & (up < TAPS), up, TAPS)
    down = torch.arange(2 * tile + 10) - 2 * torch.arange(tile)[:, None]
    return up, torch.where((down >= 0) & (down < TAPS), down, TAPS)


def _tiled(matrix: Tensor, x: Tensor, hop: int, out: Tensor | None = None) -> Tensor:
    """Multiply overlapping windows of rows, ``hop`` apart, by one matrix."""
    windows = x.unfold(0, matrix.shape[1], hop).transpose(1, 2)
    return torch.bmm(matrix.expand(len(windows), -1, -1), windows, out=out)


def _span(x: Tensor, start: int, stop: int) -> Tensor:
    """Return rows from start to stop, the outermost repeated beyond the ends."""
    before, after = max(-start, 0), max(stop - len(x), 0)
    inner = x[max(start, 0) : min(stop, len(x))]
    return _replicated(inner[None], before, after)[0] if before or after else inner


def _replicated(x: Tensor, before: int, after: int) -> Tensor:
    """Repeat the first and the last sample of signals beyond their ends."""
    return torch.cat([x[:, :1].expand(-1, before, -1), x, x[:, -1:].expand(-1, after, -1)], dim=1)


def _weighted(terms: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Sum signals times scalars."""
    scalar, signal = next(terms)
    total = signal * scalar
    for scalar, signal in terms:
        total = torch.addcmul(total, signal, scalar)
    return total
