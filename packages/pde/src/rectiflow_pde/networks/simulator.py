"""Our own network of the flow: the transformer, told numbers as numbers and a frame in place."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.rectify.flow_map import Until, added
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_pde.networks.dit import DitConfig, LatentTransformer
from rectiflow_pde.networks.integral import PointMlp
from rectiflow_pde.scaling import NUMBERS

if TYPE_CHECKING:
    from jaxtyping import Float

_WAVES = 6
_CLOCK = 1000.0
"""The transformer's time at the data end."""


class FlowTransformer(Pretrained, nn.Module):
    """The velocity of latents, given the numbers of a prompt and the first frame.

    A text encoder blurs numbers, on which a flow depends: here each of those that a prompt tells
    is a token of its own, and one that is not told is a learnt token. The first frame comes as the
    latents of a flow that stands still, in the same places as those that flow, with one channel
    more that says whether there is one.

    Parameters
    ----------
    sizes : DitConfig
        With ``told`` one more than ``channels``.
    is_map : bool
        Whether it is a network of maps, from :func:`rectiflow.rectify.to_map`.
    """

    def __init__(self, sizes: DitConfig, is_map: bool = False) -> None:
        super().__init__()
        if sizes.told != sizes.channels + 1:
            raise ValueError(
                f"told must be one more than channels, got {sizes.told} and {sizes.channels}."
            )
        self.sizes, self.is_map = sizes, is_map
        self.until = Until(sizes.width) if is_map else None
        self.transformer = LatentTransformer(sizes)
        self.embed = PointMlp([1 + 2 * _WAVES, sizes.context, sizes.context])
        self.kinds = nn.Parameter(0.5 * torch.randn(len(NUMBERS), sizes.context))
        self.absent = nn.Parameter(0.5 * torch.randn(len(NUMBERS), sizes.context))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a network from the configuration in ``config.json``."""
        return cls(DitConfig(**config["sizes"]), config.get("is_map", False))

    def slim_sizes(self) -> dict[str, int]:
        """Return the sizes of half the width."""
        return {"width": self.sizes.width // 2, "context": self.sizes.context // 2}

    def tokens(self, numbers: Float[Tensor, "b k"]) -> Float[Tensor, "b k c"]:
        """Return a token for each number, -1 to 1 over the trained range, NaN where not told."""
        known = ~numbers.isnan()
        x = torch.where(known, numbers, 0.0)[..., None]
        rates = math.pi / 4 * 2.0 ** torch.arange(_WAVES, device=x.device, dtype=x.dtype)
        waves = torch.cat([x, (x * rates).sin(), (x * rates).cos()], -1)
        return torch.where(known[..., None], self.embed(waves) + self.kinds, self.absent)

    def forward(
        self,
        x: Float[Tensor, "b c *g"],
        t: Float[Tensor, " b"],
        cond: Mapping[str, Tensor],
        until: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c *g"]:
        """Return the velocity at times 0 (noise) to 1 (data).

        ``cond`` holds ``numbers (b, 5)`` and ``beside (b, c + 1, *g)``. Of a network of maps it is
        the mean velocity up to ``until``.
        """
        told = torch.cat([x, cond["beside"].to(x)], 1)
        further = added(x.new_zeros(len(x), self.sizes.width), self.until, t, until)
        tokens = self.tokens(cond["numbers"].to(x))
        return self.transformer(told, _CLOCK * t, tokens, further=further)


def beside(latent: Float[Tensor, "b c *g"], given: Tensor | bool = True) -> Float[Tensor, "b d *g"]:
    """Return what stands beside a latent: that of the still first frame, or zeros if not given."""
    flag = torch.as_tensor(given, device=latent.device).expand(len(latent)).to(latent)
    flag = flag.reshape(-1, *(1,) * (latent.ndim - 1))
    return torch.cat([latent * flag, flag.expand(-1, 1, *latent.shape[2:])], 1)
