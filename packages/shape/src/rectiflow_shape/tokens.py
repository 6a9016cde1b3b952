"""Which points of a cloud become tokens of the autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_shape.geometry import farthest_points
from rectiflow_shape.networks.vae import OVERSAMPLING

if TYPE_CHECKING:
    from jaxtyping import Float


def choose_tokens(
    points: Float[Tensor, "b p 6"], tokens: int, generator: torch.Generator | None = None
) -> Float[Tensor, "b n 6"]:
    """Choose points that are spread out: four times as many at random, then the farthest of them.

    Parameters
    ----------
    points : Tensor
        Places and normals.
    tokens : int
        How many to choose.
    generator : torch.Generator, optional
        Draws the candidates, the same of every cloud, and the first point of each. Without one, all
        points are candidates in their order and the first is the first.

    Raises
    ------
    ValueError
        When there are fewer points than tokens.
    """
    if points.shape[1] < tokens:
        raise ValueError(f"{tokens} tokens need as many points, got {points.shape[1]}.")
    some = points
    if generator is not None:
        order = torch.randperm(points.shape[1], generator=generator, device=generator.device)
        some = points[:, order[: OVERSAMPLING * tokens].to(points.device)]
    found = farthest_points(some[..., :3], tokens, 0 if generator is None else generator)
    return some.gather(1, found[..., None].expand(-1, -1, points.shape[-1]))
