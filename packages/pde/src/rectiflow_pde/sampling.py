"""From a request to fields: what the networks are told, the flow, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.grids import uniform
from rectiflow.guidance import RectifiedCFG
from rectiflow.integrate import integrate, plan
from rectiflow.poisson import StudentT
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.rectify import sample_generator, solver_for
from rectiflow.solvers import Euler, Solver
from rectiflow.sources import NORMAL, Source
from rectiflow.spacing import Spacing
from torch import Tensor

from rectiflow_pde.data.captions import published_caption
from rectiflow_pde.data.rasters import still
from rectiflow_pde.flow import Diffusion, guided_field
from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.networks.simulator import FlowTransformer, beside
from rectiflow_pde.request import Request

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_pde.pipeline import SimulationPipeline


def condition(pipe: SimulationPipeline, request: Request) -> dict[str, Tensor]:
    """Return what the network is told of a request, one row."""
    numbers = pipe.settings.scaling.numbers(request.numbers)[None]
    if isinstance(pipe.network, FlowTransformer):
        first = first_latent(pipe, request)
        if first is None:
            told = beside(torch.zeros(1, *pipe.codec.latent_shape), False)
        else:
            told = beside(first)
        return {"numbers": numbers, "beside": told}
    assert pipe.conditioner is not None
    if pipe.reads_words:
        if request.first_frame is not None:
            raise ValueError("these weights are told words alone; expected no first frame.")
        with torch.no_grad():
            return {"context": pipe.conditioner([published_caption(request.numbers)])[0]}
    if request.first_frame is None:
        raise ValueError("these weights start from a first frame; expected one, with its mesh.")
    scaling = pipe.settings.scaling
    cloud = pipe.conditioner.place(scaling.place(request.mesh)).to(pipe.device)
    values = scaling.normalise(request.first_frame[None], request.numbers)[:, 0]
    with torch.no_grad():
        return {"context": pipe.conditioner(values.to(pipe.device), cloud)}


def first_latent(pipe: SimulationPipeline, request: Request) -> Float[Tensor, "1 c *g"] | None:
    """Return the latent of the still first frame, or None without one."""
    raster, scaling = pipe.settings.raster, pipe.settings.scaling
    if request.first_frame is None or raster is None:
        return None
    grid = raster.from_mesh(request.mesh, request.first_frame[None])
    grid = grid / scaling.units(request.numbers)
    flow = torch.from_numpy(np.moveaxis(grid, (3, 0), (0, 3)).astype(np.float32).copy())[None]
    whole = flow.expand(-1, -1, -1, -1, pipe.settings.frames)
    return pipe.codec.encode(still(whole.to(pipe.device)))


@torch.no_grad()
def latents(
    pipe: SimulationPipeline,
    cond: dict[str, Tensor],
    indices: Sequence[int],
    *,
    steps: int,
    seed: int,
    solver: Solver | None = None,
    grid: Spacing | None = None,
    guidance: float = 1.0,
    rule: RectifiedCFG | None = None,
    stretch: int = 0,
) -> Float[Tensor, "b c *g"]:
    """Flow from the noise of each index to latents, a row of the condition each or one for all.

    Each stretch of a simulation has noise of its own.
    """
    noise = noise_of(pipe, indices, seed, stretch)
    rows = {
        name: value.to(pipe.device).expand(len(indices), *value.shape[1:])
        for name, value in cond.items()
    }
    method = solver or Euler()
    if pipe.settings.guesses:
        return pipe.network(torch.zeros_like(noise), noise.new_zeros(len(noise)), rows)
    if isinstance(pipe.network, FlowTransformer):
        moves = plan((grid or uniform)(steps), solver_for(pipe.network, method))
        field = guided_field(pipe.network, rows, guidance, rule=rule, moves=moves)
        drawn = KeyedNoise(seed, indices).later(stretch * len(moves))
        return integrate(field, noise, moves, noise=drawn)
    if grid is not None:
        raise ValueError(
            f"these weights are a diffusion in discrete steps, got the grid {grid}; expected none."
        )
    diffusion = Diffusion()
    velocity = diffusion.velocity(lambda x, t, c: pipe.network(x, t, c["context"]))
    times = diffusion.grid(steps)
    moves = plan(times, method)
    state = integrate(
        guided_field(velocity, rows, 1.0),
        diffusion.start(noise, steps),
        moves,
        noise=KeyedNoise(seed, indices).later(stretch * len(moves)),
    )
    return state / (times[-1] ** 2 + (1 - times[-1]) ** 2) ** 0.5 / pipe.codec.scale


def noise_of(
    pipe: SimulationPipeline, indices: Sequence[int], seed: int, stretch: int = 0
) -> Tensor:
    """Return the noise of each index in a stretch, the same whatever the batch."""
    dimensions, shape = pipe.settings.dimensions, (1, *pipe.codec.latent_shape)
    source: Source = NORMAL if dimensions is None else StudentT(dimensions)
    if stretch:
        generators = [counter_generator("stretch", seed, i, stretch) for i in indices]
    else:
        generators = [sample_generator(seed, i) for i in indices]
    drawn = [source.sample(shape, generator=generator) for generator in generators]
    return torch.cat(drawn).to(pipe.device)


@torch.no_grad()
def continued(
    pipe: SimulationPipeline,
    request: Request,
    cond: dict[str, Tensor],
    z: Float[Tensor, "b c *g"],
    at: int,
) -> dict[str, Tensor]:
    """Return what the network is told of the stretches that go on from frame ``at`` of others.

    On a raster a frame is passed on as it was decoded, whatever the mesh.

    Raises
    ------
    ValueError
        If the weights are told words alone.
    """
    if pipe.reads_words:
        raise ValueError(
            f"these weights are told words alone and make {pipe.settings.frames} frames; expected "
            "no more, since they cannot go on from a frame."
        )
    if isinstance(pipe.network, FlowTransformer) and pipe.settings.raster is not None:
        flow = pipe.codec.decode(z)
        first = pipe.codec.encode(flow[..., at : at + 1].expand_as(flow))
        return {**cond, "beside": beside(first)}
    frames = fields(pipe, z, request.mesh, request)[:, at]
    rows = [condition(pipe, replace(request, first_frame=frame)) for frame in frames]
    return {name: torch.cat([row[name] for row in rows]) for name in cond}


@torch.no_grad()
def fields(
    pipe: SimulationPipeline, z: Float[Tensor, "b c *g"], mesh: Mesh, request: Request
) -> Float[np.ndarray, "b t n 3"]:
    """Return u, v, p at the nodes of any mesh in SI units; nothing moves on walls."""
    raster, scaling, frames = (
        pipe.settings.raster,
        pipe.settings.scaling,
        pipe.settings.frames,
    )
    made = []
    if raster is not None:
        for flow in pipe.codec.decode(z).cpu().numpy():
            grid = np.moveaxis(flow, (0, 3), (3, 0)) * scaling.units(request.numbers)
            made.append(raster.to_points(grid, mesh.points))
    else:
        cloud = pipe.codec.place(scaling.place(mesh), frames).to(pipe.device)
        for row in z:
            found = pipe.codec.decode(row[None], cloud)
            made.append(scaling.restore(found, request.numbers))
    whole = np.stack(made)
    whole[:, :, mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE), :2] = 0
    return whole
