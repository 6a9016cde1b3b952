"""The flow network of Mosaic-SDF: a transformer over grids, whose order means nothing to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from rectiflow import Pretrained
from rectiflow.rectify.flow_map import Until, added
from torch import Tensor, nn

from rectiflow_shape.mosaic import Mosaic
from rectiflow_shape.networks.attention import Attention
from rectiflow_shape.networks.dit import LEVELS, sinusoid

if TYPE_CHECKING:
    from jaxtyping import Float

GROUPS = ("centres", "scales", "values")
_SINES = 256


class _Block(nn.Module):
    """Self-attention, attention to the condition and a perceptron, modulated by time and class."""

    def __init__(self, width: int, heads: int, context: bool) -> None:
        super().__init__()
        self.shifts = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.norm1, self.norm2, self.norm3 = (
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(3)
        )
        self.attn1 = Attention(width, heads, qk_norm=True)
        self.attn2 = Attention(width, heads, width, qk_norm=True) if context else None
        self.ff = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)
        )
        if self.attn2 is not None:
            nn.init.zeros_(self.attn2.out.weight)

    def forward(self, x: Tensor, told: Tensor, context: Tensor | None) -> Tensor:
        a, b, gate, c, d, gate2 = (told + self.shifts)[:, :, None].unbind(1)
        x = x + gate * self.attn1(self.norm1(x) * (1 + b) + a)
        if self.attn2 is not None and context is not None:
            x = x + self.attn2(self.norm2(x), context)
        return x + gate2 * self.ff(self.norm3(x) * (1 + d) + c)


class MosaicTransformer(Pretrained, nn.Module):
    """The velocity of mosaics as tokens: one a grid, of place, log-size and values.

    A token is ``[centre, log(scale), values / scale]``, each of the three groups with a mean and a
    spread of its own that :meth:`measure` takes from the training data. There is no positional
    code: renumbering the grids renumbers the output.

    A velocity has the noise in it, which a network narrower than its tokens cannot pass on. Such a
    network is to be told the values of a grid by their principal components, of which the last,
    which hardly vary, are left out.

    Parameters
    ----------
    resolution : int
        The k of the grids.
    width, heads, layers : int
        Published, as recalled: 1024, 16 and 24.
    classes : int
        How many there are; one more label stands for none.
    context : int, optional
        Width of a text's states; None where there are no texts.
    components : int, optional
        Principal components that stand for the values of a grid; None for the values themselves,
        as published.
    is_map : bool
        Whether it is a network of maps, from :func:`rectiflow.rectify.to_map`.

    References
    ----------
    Yariv et al., "Mosaic-SDF for 3D Generative Models" (CVPR 2024); Chen et al., "PixArt-α" (ICLR
    2024) for one modulation shared by all blocks.
    """

    def __init__(
        self,
        resolution: int = 7,
        width: int = 1024,
        heads: int = 16,
        layers: int = 24,
        classes: int = 0,
        context: int | None = None,
        components: int | None = None,
        is_map: bool = False,
    ) -> None:
        super().__init__()
        count = resolution**3
        if components is not None and not 1 <= components <= count:
            raise ValueError(f"components must lie in 1 to {count}, got {components}.")
        self.resolution, self.classes, self.is_map = resolution, classes, is_map
        self.until = Until(width) if is_map else None
        self.channels = 4 + (components or count)
        self.proj_in = nn.Linear(self.channels, width)
        self.time = nn.Sequential(nn.Linear(_SINES, width), nn.SiLU(), nn.Linear(width, width))
        self.labels = nn.Embedding(classes + 1, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.context_in = None if context is None else nn.Linear(context, width, bias=False)
        self.blocks = nn.ModuleList(
            _Block(width, heads, context is not None) for _ in range(layers)
        )
        self.norm_out = nn.LayerNorm(width)
        self.proj_out = nn.Linear(width, self.channels)
        self.means: Tensor
        self.spreads: Tensor
        self.register_buffer("means", torch.zeros(3))
        self.register_buffer("spreads", torch.ones(3))
        self.register_buffer("sizes", torch.tensor([-6.0, 1.0]))
        self.middle: Tensor | None
        self.basis: Tensor | None
        self.register_buffer("middle", None if components is None else torch.zeros(count))
        self.register_buffer("basis", None if components is None else torch.eye(count, components))
        last: Any = self.modulation[1]
        for layer in (self.proj_out, last):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.proj_out.bias)
        nn.init.normal_(self.labels.weight, std=0.02)

    def slim_sizes(self) -> dict[str, int]:
        """Return the sizes of half the width."""
        width, heads = self.config["width"], self.config["heads"]
        return {"width": width // 2, "heads": max(heads // 2, 1)}

    def forward(
        self,
        x: Float[Tensor, "b n c"],
        t: Float[Tensor, " b"],
        cond: Mapping[str, Tensor],
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n c"]:
        """Return the velocity at our time; ``cond`` holds ``label (b,)`` and ``context``.

        Of a network of maps it is the mean velocity up to ``until``.
        """
        told = self.time(sinusoid(LEVELS * t, _SINES).to(x.dtype))
        told = added(told, self.until, t, until)
        told = told + self.labels(cond["label"].long())
        told = self.modulation(told).unflatten(-1, (6, -1))
        context = None if self.context_in is None else self.context_in(cond["context"])
        h = self.proj_in(x)
        for block in self.blocks:
            h = block(h, told, context)
        return self.proj_out(self.norm_out(h))

    @torch.no_grad()
    def measure(
        self,
        centres: Float[Tensor, "m 3"],
        scales: Float[Tensor, " m"],
        values: Float[Tensor, "m k k k"],
    ) -> None:
        """Take components, means and spreads of the three groups, and the range of sizes."""
        if self.basis is not None and self.middle is not None:
            rows = (values.flatten(1) / scales[:, None]).double()
            off = rows - rows.mean(0)
            energy, vectors = torch.linalg.eigh(off.T @ off / len(off))
            count = self.basis.shape[1]
            spread = energy.flip(0)[:count].clamp_min(1e-12) ** 0.25
            self.middle.copy_(rows.mean(0))
            self.basis.copy_(vectors.flip(1)[:, :count] / spread)
        parts = self._groups(centres, scales, values)
        self.means.copy_(torch.stack([part.mean() for part in parts]))
        self.spreads.copy_(torch.stack([part.std() for part in parts]).clamp_min(1e-3))
        self.sizes.copy_(torch.stack([parts[1].min(), parts[1].max()]))  # type: ignore[operator]

    def tokens(
        self,
        centres: Float[Tensor, "*b n 3"],
        scales: Float[Tensor, "*b n"],
        values: Float[Tensor, "*b n k k k"],
    ) -> Float[Tensor, "*b n c"]:
        """Return mosaics as the flow has them, near unit spread."""
        parts = self._groups(centres, scales, values)
        normal = zip(parts, self.means, self.spreads, strict=True)
        return torch.cat([(part - mean) / spread for part, mean, spread in normal], dim=-1)

    def mosaic(self, tokens: Float[Tensor, "n c"]) -> Mosaic:
        """Return the mosaic of tokens; sizes are held to the range of the data."""
        parts = tokens.float().split([3, 1, self.channels - 4], dim=-1)
        told = zip(parts, self.means, self.spreads, strict=True)
        centres, sizes, values = (part * spread + mean for part, mean, spread in told)
        low, high = self.sizes.tolist()  # type: ignore[operator]
        scales = sizes[:, 0].clamp(low, high).exp()
        k = self.resolution
        if self.basis is not None and self.middle is not None:
            # The columns are orthogonal, each as long as the inverse root of its spread.
            values = values @ (self.basis / self.basis.square().sum(0)).T + self.middle
        return Mosaic(centres, scales, values.view(-1, k, k, k) * scales[:, None, None, None])

    def _groups(self, centres: Tensor, scales: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        size = scales[..., None]
        told = values.flatten(-3) / size
        if self.basis is not None and self.middle is not None:
            told = (told - self.middle) @ self.basis
        return centres, size.log(), told
