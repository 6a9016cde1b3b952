"""A shape as a mosaic: grids placed on its surface, filled, then optimised together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_shape.geometry import farthest_points
from rectiflow_shape.mosaic.field import blend, holders
from rectiflow_shape.mosaic.representation import Mosaic, places

if TYPE_CHECKING:
    from jaxtyping import Float

Distance = Callable[[Tensor], Tensor]
"""Signed distances ``(q,)`` of points ``(q, 3)``, negative inside."""

_COVER = 8
"""Surface samples for each grid, from which the grids are chosen and which they must cover."""

_ON_SURFACE = 2e-3
"""A sample of the surface with a larger distance lies inside another part, and has no normal."""


@dataclass(frozen=True)
class FitSettings:
    """How a shape becomes a mosaic.

    Parameters
    ----------
    grids, resolution : int
        The n and k of the representation; published are 1024 and 7.
    steps : int
        Of the optimisation; 0 leaves the grids as they were filled.
    batch : int
        Points of each term and step.
    pool : int
        Points near the surface whose distance is measured once, to draw batches from.
    lr : float
        Of Adam, in units of the scale for places and values.
    gradient_weight : float
        The λ of the gradient's term. The paper's value was not at hand: 0.1 is recalled.
    frozen : int
        Steps before places and scales move as well.
    """

    grids: int = 256
    resolution: int = 7
    steps: int = 200
    batch: int = 1024
    pool: int = 12_000
    lr: float = 3e-3
    gradient_weight: float = 0.1
    frozen: int = 50

    def __post_init__(self) -> None:
        bad = [name for name in ("grids", "batch", "pool") if getattr(self, name) < 1]
        if bad or self.resolution < 2 or self.steps < 0 or self.frozen < 0 or self.lr <= 0:
            raise ValueError(
                f"a fit needs grids, batch and pool of at least 1, a resolution of at least 2 and "
                f"a positive lr, got {self}."
            )


@dataclass(frozen=True)
class Started:
    """A mosaic as it was filled, and what it is optimised on.

    Attributes
    ----------
    mosaic : Mosaic
    near, distance : Tensor, shapes (p, 3) and (p,)
        Points in the cubes and their signed distances.
    surface, normals : Tensor, shapes (m, 3)
        Points of the outer surface, and the gradient of the distance there.
    """

    mosaic: Mosaic
    near: Tensor
    distance: Tensor
    surface: Tensor
    normals: Tensor


@dataclass(frozen=True)
class Fitted:
    """A mosaic and the mean absolute error of its field at points near the surface."""

    mosaic: Mosaic
    error_before: float
    error: float


def start(
    points: Float[Tensor, "m 3"],
    normals: Float[Tensor, "m 3"],
    distance: Distance,
    settings: FitSettings,
    generator: torch.Generator,
) -> Started:
    """Place grids on a surface and fill them.

    Parameters
    ----------
    points, normals : Tensor
        Samples of the surface, evenly spread, at least as many as there are grids.
    distance : callable
        Of the shape.
    settings : FitSettings
    generator : torch.Generator
        On the CPU; draws the points of the optimisation.

    Raises
    ------
    ValueError
        When there are fewer samples than grids.
    """
    n, k = settings.grids, settings.resolution
    if len(points) < n:
        raise ValueError(f"{n} grids need as many samples of the surface, got {len(points)}.")
    dense = points[: _COVER * max(n, 1024)]
    chosen = farthest_points(dense[None].float(), n)[0]
    centres = dense[chosen].float()
    far = torch.stack(
        [(part[:, None] - centres).abs().amax(-1).amin(1).max() for part in dense.split(1024)]
    ).max()
    # A little more than covers the surface, so that it runs inside the cubes.
    scale = float(far) * (1 + 1 / (k - 1))
    scales = torch.full((n,), scale)
    values = distance(places(centres, scales, k).flatten(0, 1)).float().view(n, k, k, k)
    mosaic = Mosaic(centres, scales, values)
    at = torch.randint(len(points), (settings.pool,), generator=generator)
    spread = torch.rand(settings.pool, 3, generator=generator) * 2 - 1
    reach = torch.rand(settings.pool, 1, generator=generator).square()
    near = points[at].float() + 0.8 * scale * reach * spread
    found = distance(torch.cat([near, points.float()]))
    on_surface = found[len(near) :].abs() < _ON_SURFACE
    return Started(
        mosaic, near, found[: len(near)].float(), points[on_surface].float(), normals[on_surface]
    )


def refine(
    started: Sequence[Started],
    settings: FitSettings,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> list[Fitted]:
    """Optimise mosaics of one size together: distance and gradient near their surfaces.

    Parameters
    ----------
    started : sequence of Started
        Of one number of grids and one resolution.
    settings : FitSettings
    generator : torch.Generator
        On the CPU; draws the batches.
    device : device
        Where it runs.
    """
    before = [_error(each.mosaic, each, device) for each in started]
    stacked = [
        torch.stack([getattr(s.mosaic, name) for s in started]).to(device)
        for name in ("centres", "scales", "values")
    ]
    unit = stacked[1][..., None]  # of each cube: steps are shares of its size
    move = torch.zeros_like(stacked[0], requires_grad=True)
    grow = torch.zeros_like(stacked[1], requires_grad=True)
    change = torch.zeros_like(stacked[2], requires_grad=True)
    factors = [10 * settings.lr, settings.lr, 10 * settings.lr]
    optimiser = torch.optim.Adam(
        [{"params": [p], "lr": lr} for p, lr in zip((change, grow, move), factors, strict=True)],
        betas=(0.9, 0.99),
    )

    def current() -> tuple[Tensor, Tensor, Tensor]:
        scales = stacked[1] * grow.exp()
        return stacked[0] + unit * move, scales, stacked[2] + unit[..., None, None] * change

    for step in range(settings.steps):
        moving = step >= settings.frozen
        move.requires_grad_(moving), grow.requires_grad_(moving)
        for group, lr in zip(optimiser.param_groups, factors, strict=True):
            group["lr"] = lr * (1 - step / settings.steps)
        centres, scales, values = current()
        x, wanted = _draw(started, "near", "distance", settings.batch, generator, device)
        y, normal = _draw(started, "surface", "normals", settings.batch // 4, generator, device)
        y.requires_grad_()
        points = torch.cat([x, y], dim=1)
        held = holders(centres.detach(), scales.detach(), points.detach())
        joined = centres.flatten(0, 1), scales.flatten(0, 1), values.flatten(0, 1)
        value, total = blend(*joined, points.flatten(0, 1), held)
        value, is_in = value.view(len(x), -1), (total > 0).view(len(x), -1)
        count = x.shape[1]
        off = (value[:, :count] - wanted).abs() * is_in[:, :count]
        (slope,) = torch.autograd.grad(value[:, count:].sum(), y, create_graph=True)
        turned = (slope - normal).norm(dim=-1) * is_in[:, count:]
        loss = off.mean(1).sum() + value[:, count:].abs().mean(1).sum()
        loss = loss + settings.gradient_weight * turned.mean(1).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        rows = zip(*(part.detach().cpu() for part in current()), strict=True)
    found = []
    for each, first, row in zip(started, before, rows, strict=True):
        mosaic = Mosaic(*row)
        found.append(Fitted(mosaic, first, _error(mosaic, each, device)))
    return found


def fit(
    points: Float[Tensor, "m 3"],
    normals: Float[Tensor, "m 3"],
    distance: Distance,
    settings: FitSettings | None = None,
    *,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Turn one shape into a mosaic: :func:`start`, then :func:`refine`."""
    told = settings or FitSettings()
    return refine([start(points, normals, distance, told, generator)], told, generator, device)[0]


def _draw(
    started: Sequence[Started],
    places: str,
    values: str,
    count: int,
    generator: torch.Generator,
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Draw so many points of each shape, with what is known of them."""
    rows = []
    for each in started:
        own = getattr(each, places)
        at = torch.randint(len(own), (count,), generator=generator)
        rows.append((own[at], getattr(each, values)[at]))
    return tuple(torch.stack(part).to(device) for part in zip(*rows, strict=True))  # type: ignore[return-value]


def _error(mosaic: Mosaic, target: Started, device: torch.device | str) -> float:
    """Return the mean absolute error at points of the pool that lie in the cubes."""
    own, near = mosaic.to(device), target.near[:20_000].to(device)
    held = holders(own.centres[None], own.scales[None], near[None])
    value, total = blend(own.centres, own.scales, own.values, near, held)
    off = (value.cpu() - target.distance[: len(near)]).abs()[total.cpu() > 0]
    return float(off.mean())
