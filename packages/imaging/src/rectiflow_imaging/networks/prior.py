"""A small U-Net: the velocity of images, or of what is restored of them."""

from __future__ import annotations

import torch
from rectiflow import Pretrained
from torch import Tensor, nn
from torch.nn import functional


class _Block(nn.Module):
    """Two convolutions beside a shortcut; time scales and shifts between them."""

    def __init__(self, into: int, out: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, into), nn.Conv2d(into, out, 3, padding=1)
        self.told = nn.Linear(time, 2 * out)
        self.norm2, self.conv2 = nn.GroupNorm(8, out), nn.Conv2d(out, out, 3, padding=1)
        self.past = nn.Conv2d(into, out, 1) if into != out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.told(time)[..., None, None].chunk(2, 1)
        h = self.norm2(self.conv1(functional.silu(self.norm1(x)))) * (1 + scale) + shift
        return self.past(x) + self.conv2(functional.silu(h))


class ImageUNet(Pretrained, nn.Module):
    """A field on square images ``(b, channels, s, s)``; a pixel of its finest level is 2 x 2.

    Parameters
    ----------
    side : int, default 32
        Of the images it is trained on, a multiple of ``2 ** len(multipliers)``.
    channels : int, default 1
        Of an image.
    width : int, default 24
        Features of the finest level, a multiple of 8.
    multipliers : sequence of int, default (1, 2, 4)
        Of the width, by level.
    """

    def __init__(
        self,
        side: int = 32,
        channels: int = 1,
        width: int = 24,
        multipliers: tuple[int, ...] = (1, 2, 4),
    ) -> None:
        super().__init__()
        if side % 2 ** len(multipliers) or width % 8:
            raise ValueError(
                f"side must be a multiple of {2 ** len(multipliers)} and width of 8, got {side} "
                f"and {width}."
            )
        self.side, self.channels, time = side, channels, 4 * width
        self.waves = width // 2
        self.time = nn.Sequential(nn.Linear(width, time), nn.SiLU(), nn.Linear(time, time))
        widths = [width * m for m in multipliers]
        self.first = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.down = nn.ModuleList(
            _Block(a, b, time) for a, b in zip([width, *widths], widths, strict=False)
        )
        self.middle = _Block(widths[-1], widths[-1], time)
        self.up = nn.ModuleList(
            _Block(a + b, b, time)
            for a, b in zip([widths[-1], *widths[:0:-1]], widths[::-1], strict=True)
        )
        self.last = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the velocity at times ``t (b,)``."""
        least = 2 ** len(self.down)
        if x.shape[1] != self.channels or x.shape[-1] % least or x.shape[-2] % least:
            raise ValueError(
                f"the network takes {self.channels} channel(s) of sides that are multiples of "
                f"{least}, got shape {tuple(x.shape)}."
            )
        rates = torch.exp(torch.arange(self.waves, device=x.device, dtype=x.dtype) * 0.4)
        angle = t.to(x)[:, None] * rates
        time = functional.silu(self.time(torch.cat([angle.sin(), angle.cos()], 1)))
        h = self.first(functional.pixel_unshuffle(x, 2))
        kept = []
        for level, block in enumerate(self.down):
            h = block(functional.avg_pool2d(h, 2) if level else h, time)
            kept.append(h)
        h = self.middle(h, time)
        for level, block in enumerate(self.up):
            if level:
                h = functional.interpolate(h, scale_factor=2.0)
            h = block(torch.cat([h, kept.pop()], 1), time)
        return functional.pixel_shuffle(self.last(functional.silu(h)), 2)
