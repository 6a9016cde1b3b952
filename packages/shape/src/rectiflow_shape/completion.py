"""Half-scanned objects completed, and parts of meshes drawn anew, by a flow of mosaics.

A mosaic is a set of grids, and the flow's state is one token for each: what is known of a shape is
a mask of tokens. A first guess of all grids is made without the flow, then those that were not seen
are taken back to a noise level and drawn again, while the others are put in their place after every
step (:class:`rectiflow.inverse.Replacement`).

The first guess uses symmetry: a mirror plane or a turn about the upright axis is believed if it
brings what was seen on the seen side onto what was seen (Thrun & Wegbreit, "Shape from symmetry",
ICCV 2005). Where nothing is believed the scan is mirrored at its back.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.integrate import Moved, integrate, plan
from rectiflow.inverse import Replacement, hooks, noised
from rectiflow.randomness import KeyedNoise
from torch import Tensor

from rectiflow_shape.data.mosaics import outline_of
from rectiflow_shape.flow import guided_field
from rectiflow_shape.geometry import HALF_EXTENT, Mesh, Placement, extract, normalise
from rectiflow_shape.mosaic import FitSettings, Mosaic, MosaicField
from rectiflow_shape.mosaic.fit import start
from rectiflow_shape.pipeline import finished
from rectiflow_shape.request import Asked
from rectiflow_shape.result import ShapeResult
from rectiflow_shape.sampling import Sampler, Tick, without_crumbs
from rectiflow_shape.scan import POINTS, Scan, ScanDistance

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

    from rectiflow_shape.geometry import Extraction
    from rectiflow_shape.pipeline import ShapePipeline
    from rectiflow_shape.request import Options

    Box = Float[np.ndarray, "2 3"]

NEAR = 0.03
"""Of a normalised shape: a point this near to the scan lies on it, unless the scan is coarser."""

BELIEVED = 0.9
"""Share of the points on the seen side that must fall onto the scan, for a symmetry."""

DOUBT = 0.4
"""How far the guess of what was not seen is taken back to the noise, unless told otherwise."""

_OPEN = 0.5  # of the scan's sum of normals, which of a closed surface is 0: more is not closed
_SUPPORT = 0.1  # of all points, that must fall on the seen side for anything to be said
_TURNS = range(1, 8)  # of 45 degrees


@dataclass(frozen=True)
class Guess:
    """A scan with what was added to it, and by which symmetries.

    ``seen`` says which points were scanned, ``doubtful`` which no symmetry speaks for.
    """

    scan: Scan
    seen: Bool[np.ndarray, " n"]
    doubtful: Bool[np.ndarray, " n"]
    by: tuple[str, ...]


def symmetries() -> dict[str, Float[np.ndarray, "3 3"]]:
    """Return the candidates: mirrors along the axes, and turns about the upright one."""
    found = {f"mirror {axis}": np.diag(1.0 - 2 * np.eye(3)[k]) for k, axis in enumerate("xyz")}
    for k in _TURNS:
        c, s = math.cos(k * math.pi / 4), math.sin(k * math.pi / 4)
        found[f"turn {45 * k}"] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return found


def guess(scan: Scan) -> Guess:
    """Guess the whole of a normalised scan: with its images under all symmetries that it shows.

    The seen side ends where the scan does, along its mean normal. What symmetry leaves open beyond
    it, if that is much by the sum of the normals, is the scan mirrored at its end.
    """
    from scipy.spatial import cKDTree

    tree, (side, back) = cKDTree(scan.points), scan.end
    near = max(NEAR, ScanDistance(scan).width)
    found, origin = {}, np.zeros(3)
    for name, turn in symmetries().items():
        image = scan.points @ turn.T
        image = image[image @ side > back + near]
        if len(image) >= _SUPPORT * len(scan.points):
            on_scan = tree.query(image, distance_upper_bound=near)[0] < near
            if on_scan.mean() >= BELIEVED:
                found[name] = turn
    whole = scan
    for turn in 2 * list(found.values()):  # images of images as well
        whole = _with(whole, whole.moved(turn, origin), side, back)
    believed = len(whole.points)
    if np.linalg.norm(whole.normals.sum(0)) > _OPEN * np.linalg.norm(scan.normals.sum(0)):
        found["mirror at the back"] = np.eye(3) - 2 * np.outer(side, side)
        mirrored = scan.moved(found["mirror at the back"], back * side)
        whole = _with(whole, mirrored, side, back)
    index = np.arange(len(whole.points))
    return Guess(whole, index < len(scan.points), index >= believed, tuple(found))


def _with(whole: Scan, image: Scan, side: np.ndarray, back: float) -> Scan:
    """Add the points of an image that lie behind the scan's end and are not there yet."""
    from scipy.spatial import cKDTree

    new = image.points @ side < back
    new[new] = cKDTree(whole.points).query(image.points[new])[0] > NEAR / 2
    pairs = (whole.points, image.points[new]), (whole.normals, image.normals[new])
    return Scan(*map(np.concatenate, pairs))


@torch.no_grad()
def redrawn(
    pipe: ShapePipeline,
    tokens: Float[Tensor, "n c"],
    region: Bool[Tensor, " n"],
    doubt: float,
    options: Options,
    asked: Asked,
    progress: Tick | None = None,
) -> Float[Tensor, "n c"]:
    """Draw some tokens of a mosaic anew; the others stay as they are, bit for bit.

    Parameters
    ----------
    pipe : ShapePipeline
        Of mosaics.
    tokens : Tensor, shape (n, c)
        Of a whole shape.
    region : Tensor, shape (n,)
        True for those that are drawn.
    doubt : float
        How far they are taken back to the noise: 1 forgets them, 0 keeps them.
    options : Options
        As resolved.
    asked : Asked
        What the shape is, and the number of its noise.
    """
    if not 0 <= doubt <= 1:
        raise ValueError(f"doubt must lie in 0 to 1, got {doubt:g}; 1 forgets the first guess.")
    if doubt == 0 or not bool(region.any()):
        return tokens
    sampler = Sampler(pipe, options)
    x1 = tokens.to(pipe.device)[None]
    x0 = sampler.noise([asked.index])[:, : len(tokens)]
    grid = options.grid(options.steps or 1)
    moves = plan([1 - doubt + doubt * t for t in grid], options.solver)  # type: ignore[arg-type]
    known = noised(x1, x0)
    field = guided_field(
        pipe.network,
        sampler.condition([asked]),
        float(options.guidance or 1),
        interval=options.interval,
        rule=options.rule,
        moves=moves,
    )

    def told(moved: Moved) -> None:
        if progress is not None:
            progress((moved.index + 1) / moved.count, 1)

    held = Replacement(~region.to(pipe.device)[:, None], known)
    noise = KeyedNoise(options.seed, [asked.index])
    found = integrate(field, known(1 - doubt), moves, hook=hooks(held, told), noise=noise)
    assert isinstance(found, Tensor)
    return found[0].float()


def complete(
    pipe: ShapePipeline,
    scan: Scan,
    *,
    box: Box | None = None,
    doubt: float = DOUBT,
    asked: Asked | None = None,
    progress: Tick | None = None,
    **options: Any,
) -> ShapeResult:
    """Complete an object of which a part was scanned.

    Parameters
    ----------
    pipe : ShapePipeline
        Of mosaics.
    scan : Scan
        Upright, y up, in any unit.
    box : ndarray, shape (2, 3), optional
        Bounds of the whole object; those of the scan and its mirror image at its back if absent.
    doubt : float
        How far the guess of what was not seen is taken back to the noise.
    asked : Asked, optional
        What it is.
    progress : callable, optional
    **options
        :class:`~rectiflow_shape.request.Options`.

    Raises
    ------
    ValueError
        If the box does not hold the scan, a number is out of range or the weights are of latents.
    """
    began, asked = time.perf_counter(), asked or Asked()
    told = _mosaic_options(pipe, options)
    generator = torch.Generator().manual_seed(told.seed)
    if len(scan.points) > POINTS:
        scan = scan.some(torch.randperm(len(scan.points), generator=generator)[:POINTS].numpy())
    placement = _placement(scan, box)
    middle = np.array(placement.centre)
    normal = Scan((scan.points - middle) / placement.scale, scan.normals)
    whole = guess(normal)
    order = torch.randperm(len(whole.seen), generator=generator).numpy()
    cloud = whole.scan.some(order)
    settings = FitSettings(int(told.tokens or 1), pipe.network.resolution, steps=0, pool=1)
    points, normals = torch.from_numpy(cloud.points), torch.from_numpy(cloud.normals)
    mosaic = start(points, normals, ScanDistance(cloud), settings, generator).mosaic
    which = torch.cdist(mosaic.centres.double(), points).argmin(1).numpy()
    region = torch.from_numpy(whole.doubtful[order][which])
    tokens = pipe.network.tokens(mosaic.centres, mosaic.scales, mosaic.values)
    tokens = redrawn(pipe, tokens, region, doubt, told, asked, progress)
    field = _field(pipe, mosaic, tokens, region).inside_positive
    found = _placed(extract(field, depth=int(told.depth or 7), device=pipe.device), placement)
    found = replace(found, mesh=without_crumbs(found.mesh))
    row = {"guess": list(whole.by), "grids_seen": int(whole.seen[order][which].sum())}
    row |= {"grids_drawn": int(region.sum()), "doubt": doubt}
    sample = finished("completed", found, tokens.cpu(), told, asked.told() | row)
    seconds = time.perf_counter() - began
    return ShapeResult([sample], settings=pipe.describe() | told.described(), seconds=seconds)


def edit(
    pipe: ShapePipeline,
    mesh: Mesh,
    region: Box,
    *,
    doubt: float = 1.0,
    asked: Asked | None = None,
    progress: Tick | None = None,
    **options: Any,
) -> ShapeResult:
    """Draw what lies in a box anew; beyond it the surface is that of the mesh.

    The result is extracted from one field: in the box that of the new mosaic, which fades into the
    mesh's own signed distance towards the walls; outside of it nothing but the latter, so that each
    vertex there is that of the mesh's closed copy on the same lattice, bit for bit.

    Parameters
    ----------
    pipe : ShapePipeline
        Of mosaics.
    mesh : Mesh
        Any that :class:`~rectiflow_shape.geometry.SignedDistance` takes.
    region : ndarray, shape (2, 3)
        Least and greatest coordinates of the box, in the mesh's unit.
    doubt : float, default 1
        How far what is in the box is taken back to the noise.
    asked, progress, **options
        As for :func:`complete`.

    Raises
    ------
    ValueError
        If there is no surface in the box, a number is out of range or the weights are of latents.
    """
    began, asked = time.perf_counter(), asked or Asked()
    told = _mosaic_options(pipe, options)
    generator = torch.Generator().manual_seed(told.seed)
    normal, placement = normalise(mesh)
    low, high = (_box(region) - np.array(placement.centre)) / placement.scale
    settings = FitSettings(int(told.tokens or 1), pipe.network.resolution, steps=0, pool=1)
    points, normals, distance = outline_of(normal, generator)
    mosaic = start(points, normals, distance, settings, generator).mosaic
    bounds = torch.from_numpy(np.stack([low, high])).float()
    chosen = ((mosaic.centres > bounds[0]) & (mosaic.centres < bounds[1])).all(1)
    if not bool(chosen.any()):
        raise ValueError(
            f"no surface lies in the box, got {_box(region).tolist()}; expected a part of "
            f"{mesh.bounds.tolist()} that holds one of the {len(chosen)} grids."
        )
    tokens = pipe.network.tokens(mosaic.centres, mosaic.scales, mosaic.values)
    tokens = redrawn(pipe, tokens, chosen, doubt, told, asked, progress)
    new = _field(pipe, mosaic, tokens, chosen)
    edge = min(float(mosaic.scales.mean()), float((high - low).min()) / 4)

    def field(xyz: Tensor) -> Tensor:
        inside = torch.minimum(xyz - bounds[0].to(xyz), bounds[1].to(xyz) - xyz).amin(1)
        share = (inside / edge).clamp(0, 1)
        value, within = distance(xyz), share > 0
        value[within] = value[within].lerp(new(xyz[within]).to(value), share[within])
        return -value

    found = _placed(extract(field, depth=int(told.depth or 7), device=pipe.device), placement)
    row = {"grids_drawn": int(chosen.sum()), "doubt": doubt, "region": _box(region).tolist()}
    sample = finished("edited", found, tokens.cpu(), told, asked.told() | row)
    seconds = time.perf_counter() - began
    return ShapeResult([sample], settings=pipe.describe() | told.described(), seconds=seconds)


def _field(pipe: ShapePipeline, mosaic: Mosaic, tokens: Tensor, region: Tensor) -> MosaicField:
    """Return the field of a mosaic whose grids in a region are those of tokens."""
    new, kept = pipe.network.mosaic(tokens.to(pipe.device)), mosaic.to(pipe.device)
    where = region.to(pipe.device)
    rows = zip(vars(new).values(), vars(kept).values(), strict=True)
    return MosaicField(
        Mosaic(*(torch.where(where.view(-1, *(1,) * (a.ndim - 1)), a, b) for a, b in rows))
    )


def _mosaic_options(pipe: ShapePipeline, options: dict[str, Any]) -> Options:
    if not pipe.is_mosaic:
        raise ValueError(
            f"what is known of a shape is known of its grids, got weights of a "
            f"{type(pipe.network).__name__}; expected a Mosaic-SDF, such as small."
        )
    return pipe.options(**options)


def _box(box: Box) -> Box:
    found = np.asarray(box, np.float64)
    if found.shape != (2, 3) or not np.isfinite(found).all() or not (found[0] < found[1]).all():
        raise ValueError(
            f"a box has three least and three greater coordinates, got {np.asarray(box).tolist()}."
        )
    return found


def _placement(scan: Scan, box: Box | None) -> Placement:
    """Return where the whole object is."""
    if box is None:
        side, back = scan.end
        image = scan.moved(np.eye(3) - 2 * np.outer(side, side), back * side)
        box = np.concatenate([scan.bounds, image.bounds])
        box = np.stack([box.min(0), box.max(0)])
    low, high = _box(box)
    slack = 0.05 * float((high - low).max())
    out = ((scan.points < low - slack) | (scan.points > high + slack)).any(1).mean()
    if out > 0.01:
        raise ValueError(
            f"the box must hold the object, got {[low.tolist(), high.tolist()]}, outside of which "
            f"{out:.0%} of the scan lie; expected bounds in the scan's unit."
        )
    return Placement(
        tuple(((low + high) / 2).tolist()), float((high - low).max()) / 2 / HALF_EXTENT
    )


def _placed(found: Extraction, placement: Placement) -> Extraction:
    return replace(found, mesh=placement.restore(found.mesh))
