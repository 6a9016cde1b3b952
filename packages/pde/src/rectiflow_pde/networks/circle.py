"""PDE-Refiner's network: a U-Net over the points of a circle, told a time and numbers.

Modules have the authors' names, so that their state dict loads as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

_PERIOD = 10_000.0
_GROUPS = 8
"""Of the last normalisation; all others take the channels together."""


class CircleUnet(Pretrained, nn.Module):
    """A U-Net of convolutions that go around the circle.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    hidden : int
        Channels of the finest level, a multiple of 8.
    multipliers : sequence of int
        Of the channels of the level before, unlike in most networks; each level but the last
        halves the points.
    blocks : int
        Residual ones of a level; on the way up there is one more.
    numbers : int
        How many numbers it is told besides the time.

    References
    ----------
    Lippe et al., "PDE-Refiner: Achieving Accurate Long Rollouts with Neural PDE Solvers"
    (NeurIPS 2023). Official code: pdearena/pdearena, ``Unetmod-1d-64``.
    """

    def __init__(
        self,
        inputs: int = 2,
        outputs: int = 1,
        hidden: int = 64,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        blocks: int = 2,
        numbers: int = 2,
    ) -> None:
        super().__init__()
        if hidden % _GROUPS:
            raise ValueError(f"hidden must be a multiple of {_GROUPS}, got {hidden}.")
        self.hidden, self.levels = hidden, len(multipliers)
        told = 4 * hidden
        self.time_embed = _embedding(hidden, told)
        self.pde_emb = nn.ModuleList(_embedding(hidden, told) for _ in range(numbers))
        self.image_proj = _around(inputs, hidden)
        widths = [hidden]
        for multiplier in multipliers:
            widths.append(widths[-1] * multiplier)
        down: list[nn.Module] = []
        skips = [hidden]
        for level, (before, width) in enumerate(pairwise(widths)):
            for block in range(blocks):
                down.append(_Level(width if block else before, width, told))
                skips.append(width)
            if level + 1 < self.levels:
                down.append(_Down(width))
                skips.append(width)
        self.down = nn.ModuleList(down)
        self.middle = nn.ModuleDict(
            {name: _Residual(widths[-1], widths[-1], told) for name in ("res1", "res2")}
        )
        up: list[nn.Module] = []
        for level, (before, width) in reversed(list(enumerate(pairwise(widths)))):
            for block in range(blocks + 1):
                out = width if block < blocks else before
                up.append(_Level(width + skips.pop(), out, told))
            if level:
                up.append(_Up(before))
        self.up = nn.ModuleList(up)
        self.norm = nn.GroupNorm(_GROUPS, hidden)
        self.final = _zeroed(_around(hidden, outputs))

    @classmethod
    def from_official(cls, unet: Any) -> CircleUnet:
        """Return the network of the authors' config, with their names.

        Raises
        ------
        ValueError
            For what they never released: attention, or more axes.
        """
        if any(unet["is_attn"]) or unet["n_dims"] != 1:
            raise ValueError("the authors' network has attention or several axes; expected none.")
        kind = unet["param_conditioning"] or "scalar_0"
        return cls(
            unet["n_input_scalar_components"] * unet["time_history"],
            unet["n_output_scalar_components"] * unet["time_future"],
            unet["hidden_channels"],
            unet["ch_mults"],
            unet["n_blocks"],
            1 if kind == "scalar" else int(kind.removeprefix("scalar_")),
        )

    @property
    def divisor(self) -> int:
        """What the number of points must be a multiple of."""
        return int(2 ** (self.levels - 1))

    def forward(
        self, x: Float[Tensor, "b c n"], t: Float[Tensor, " b"], numbers: Float[Tensor, "b k"]
    ) -> Float[Tensor, "b d n"]:
        """Return the output at times of 0 to 1000."""
        told = self.time_embed(_waves(t, self.hidden))
        for embedding, number in zip(self.pde_emb, numbers.unbind(1), strict=True):
            told = told + embedding(_waves(number, self.hidden))
        x = self.image_proj(x)
        skips = [x]
        for part in self.down:
            x = part(x, told)
            skips.append(x)
        x = self.middle["res2"](self.middle["res1"](x, told), told)
        for part in self.up:
            x = part(x if isinstance(part, _Up) else torch.cat([x, skips.pop()], 1), told)
        return self.final(F.gelu(self.norm(x)))


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(1, inputs), _around(inputs, outputs)
        self.cond_emb = nn.Linear(told, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(1, outputs), _zeroed(_around(outputs, outputs))
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = self.conv1(F.gelu(self.norm1(x))) + self.cond_emb(told)[..., None]
        return self.conv2(F.gelu(self.norm2(h))) + self.shortcut(x)


class _Level(nn.Module):
    def __init__(self, inputs: int, outputs: int, told: int) -> None:
        super().__init__()
        self.res = _Residual(inputs, outputs, told)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.res(x, told)


class _Down(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = _around(width, width, stride=2)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.conv(x)


class _Up(nn.Module):
    """Not around the circle: the authors' transposed convolutions are padded with zeros."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(width, width, 4, 2, 1)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return self.conv(x)


def _around(inputs: int, outputs: int, **options: Any) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, 3, padding=1, padding_mode="circular", **options)


def _zeroed(layer: nn.Conv1d) -> nn.Conv1d:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _embedding(hidden: int, told: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(hidden, told), nn.GELU(), nn.Linear(told, told))


def _waves(t: Tensor, width: int) -> Tensor:
    half = width // 2
    rates = torch.exp(-math.log(_PERIOD) * torch.arange(half, device=t.device) / half)
    angle = t[:, None].float() * rates
    return torch.cat([angle.cos(), angle.sin()], 1)
