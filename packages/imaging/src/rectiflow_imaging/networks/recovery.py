"""The network of DRDM: a recursive U-Net that recovers a deformation, in two and three dimensions.

Modules carry the authors' names, so that their checkpoint loads as it is.
"""

from __future__ import annotations

import itertools

import torch
from rectiflow import Pretrained
from torch import Tensor, nn

from rectiflow_imaging.deformation import compose, warp

_TIME = 100  # width of the table of times


def time_table(steps: int) -> Tensor:
    """Return the frozen sines and cosines, ``(steps, 100)``.

    Frequencies follow the column and thus fall twice as fast as usual.
    """
    even = torch.arange(0, _TIME, 2, dtype=torch.float64)
    angle = torch.arange(steps, dtype=torch.float64)[:, None] * 10000.0 ** (-2 * even / _TIME)
    return torch.stack([angle.sin(), angle.cos()], 2).flatten(1).float()


class AtrousBlock(nn.Module):
    """A convolution, its normalisation, and two dilated ones beside the way past them."""

    def __init__(self, into: int, out: int, axes: int, normalized: bool) -> None:
        super().__init__()
        conv = _kind("Conv", axes)
        self.conv0 = conv(into, out, 3, padding=1)
        self.ln = _kind("InstanceNorm", axes)(out, affine=True) if normalized else nn.Identity()
        self.convs = nn.ModuleList([conv(out, out, 3, padding=d, dilation=d) for d in (1, 3)])
        self.act = nn.LeakyReLU(1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same places."""
        x = self.ln(self.conv0(x))
        y = x
        for conv in self.convs:
            y = conv(self.act(y))
        return self.act(y + x)


class RecoveryNetwork(Pretrained, nn.Module):
    """The deformation that undoes part of another (RecResACNet).

    Parameters
    ----------
    n_steps : int, default 80
        Of the diffusion.
    ndims : int, default 2
        Axes of an image, 2 or 3.
    num_input_chn : int, default 1
        Channels of an image.

    References
    ----------
    Zheng et al., "Deformation-Recovery Diffusion Model (DRDM)" (Medical Image Analysis 2026).
    """

    def __init__(self, n_steps: int = 80, ndims: int = 2, num_input_chn: int = 1) -> None:
        super().__init__()
        if ndims not in (2, 3):
            raise ValueError(f"an image must have 2 or 3 axes, got {ndims}.")
        self.n_steps, self.axes, self.channels = n_steps, ndims, num_input_chn
        self.time_embed = nn.Embedding(n_steps, _TIME)
        with torch.no_grad():
            self.time_embed.weight.copy_(time_table(n_steps))
        self.time_embed.requires_grad_(False)

        def blocks(*widths: int, normalized: bool = True) -> nn.Sequential:
            pairs = itertools.pairwise(widths)
            return nn.Sequential(*(AtrousBlock(i, o, ndims, normalized) for i, o in pairs))

        def time(out: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(_TIME, out), nn.ReLU(), nn.Linear(out, out))

        half = {"kernel_size": 4, "stride": 2, "padding": 1}
        down, up = _kind("Conv", ndims), _kind("ConvTranspose", ndims)
        self.te1, self.b1 = time(num_input_chn), blocks(num_input_chn, 10, 10, 10)
        self.down1, self.te2, self.b2 = down(10, 10, **half), time(10), blocks(10, 20, 20, 20)
        self.down2, self.te3, self.b3 = down(20, 20, **half), time(20), blocks(20, 40, 40, 40)
        self.down3, self.te_mid = down(40, 40, **half), time(40)
        self.b_mid = blocks(40, 20, 20, 40)
        self.up1, self.te4 = up(40, 40, **half), time(80)
        self.b4 = blocks(80, 40, 20, 20, normalized=False)
        self.up2, self.te5 = up(20, 20, **half), time(40)
        self.b5 = blocks(40, 20, 10, 10, normalized=False)
        self.up3, self.te_out = up(10, 10, **half), time(20)
        self.b_out = blocks(20, 10, 10, 10, normalized=False)
        self.conv_out = down(10, ndims, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, recursions: int = 2) -> Tensor:
        """Return a displacement field ``(b, n, *space)`` in shares of the side.

        Parameters
        ----------
        x : Tensor, shape (b, channels, *space)
            Deformed images; sides are equal, and multiples of 8.
        t : Tensor of int, shape (b,)
        recursions : int, default 2
            Passes; each sees the image as warped by those before it.
        """
        if x.shape[1] != self.channels or x.ndim != self.axes + 2 or x.shape[-1] % 8:
            raise ValueError(
                f"the network takes {self.channels} channel(s) on {self.axes} equal axes that are "
                f"multiples of 8, got shape {tuple(x.shape)}."
            )
        field = self._once(x, t)
        for _ in range(recursions - 1):
            field = compose(field, self._once(warp(x, field), t))
        return field

    def _once(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time_embed(t)

        def at(embed: nn.Module) -> Tensor:
            return embed(time).reshape(len(x), -1, *(1,) * self.axes)

        e1 = self.b1(x + at(self.te1))
        e2 = self.b2(self.down1(e1) + at(self.te2))
        e3 = self.b3(self.down2(e2) + at(self.te3))
        middle = self.b_mid(self.down3(e3) * at(self.te_mid))
        d3 = self.b4(torch.cat([e3, self.up1(middle)], 1) + at(self.te4))
        d2 = self.b5(torch.cat([e2, self.up2(d3)], 1) + at(self.te5))
        d1 = self.b_out(torch.cat([e1, self.up3(d2)], 1) + at(self.te_out))
        most = (x.shape[-1] - 1) / x.shape[-1]
        return self.conv_out(d1).clamp(-most, most)


def _kind(name: str, axes: int) -> type[nn.Module]:
    return getattr(nn, f"{name}{axes}d")
