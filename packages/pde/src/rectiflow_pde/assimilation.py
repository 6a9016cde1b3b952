"""Data assimilation: flows that a checkpoint holds possible and that sensors have read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.fields import VelocityField
from rectiflow.inverse import Gaussian, Matrix, Measurement, Method
from rectiflow.randomness import KeyedNoise
from rectiflow.steering import Steer
from torch import Tensor

from rectiflow_pde import sampling
from rectiflow_pde.flow import guided_field
from rectiflow_pde.incompressible import Incompressible, held
from rectiflow_pde.kriging import fitted_kernel, kriged
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.networks.patches import PatchCodec
from rectiflow_pde.networks.simulator import FlowTransformer
from rectiflow_pde.readings import at_readings
from rectiflow_pde.request import Request, make_request
from rectiflow_pde.result import SimulationResult
from rectiflow_pde.trajectory import FIELDS

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_pde.pipeline import SimulationPipeline
    from rectiflow_pde.readings import Readings

CODEC_ERROR = 0.03
"""Of decoded latents, in units of the inflow: what readings are off beside their own noise."""

SPEEDS = (0.0, 0.6, 0.8, 1.0)
"""Of what travels, in units of the mean inflow: kernels of what readings leave over."""


@dataclass(frozen=True)
class Expected(Method):
    """The conditional mean of the flow: what its first step tells, readings aside.

    The best guess before any reading in the sense of squares; one evaluation, whatever is allowed.
    """

    def __call__(
        self,
        field: VelocityField,
        measurement: Measurement,
        x0: Tensor,
        evaluations: int,
        noise: KeyedNoise,
    ) -> Tensor:
        """Return the means; see :class:`rectiflow.inverse.Method`."""
        v: Any = field(x0, 0.0)
        return x0 + v


_EXPECTED = Expected()


def measurement_of(
    pipe: SimulationPipeline, request: Request, readings: Readings, noise: float
) -> Measurement:
    """Return readings as a linear measurement of latents, in units of the inflow.

    The codec is linear: each reading is a weighted sum over the patches around it.
    """
    codec, raster = pipe.codec, pipe.settings.raster
    if not isinstance(codec, PatchCodec) or raster is None:
        raise ValueError(
            f"assimilation needs latents that are linear in the flow, got {type(codec).__name__}; "
            "expected a checkpoint with a PatchCodec."
        )
    c, count = codec.sizes, len(readings.values)
    (ix, wx), (iy, wy) = raster.stencil(readings.places)
    at = np.clip(readings.times / pipe.settings.frame_step, 0, pipe.settings.frames - 1)
    it = np.clip(np.floor(at).astype(int), 0, max(pipe.settings.frames - 2, 0))
    it = np.stack([it, np.minimum(it + 1, pipe.settings.frames - 1)], -1)
    wt = np.stack([1 - (at - it[:, 0]), at - it[:, 0]], -1)
    shape = (count, 4, 4, 2)
    x, y, t, weight = (
        np.broadcast_to(part, shape).reshape(count, -1).copy()
        for part in (
            ix[:, :, None, None],
            iy[:, None, :, None],
            it[:, None, None, :],
            wx[:, :, None, None] * wy[:, None, :, None] * wt[:, None, None, :],
        )
    )
    k = np.broadcast_to(readings.which[:, None], x.shape)
    px, py, pt = c.patch
    inside = ((k * px + x % px) * py + y % py) * pt + t % pt
    patch = (x // px * c.grid[1] + y // py) * c.grid[2] + t // pt
    mean, std = codec.mean.double().cpu(), codec.std.double().cpu()
    offset = (torch.from_numpy(weight) * mean[k, x, y]).sum(1)
    basis = (codec.basis * codec.spread).double().cpu()
    values = torch.from_numpy(weight)[..., None] * std[k][..., None] * basis[inside]
    cells = int(np.prod(c.grid))
    columns = torch.from_numpy(patch)[..., None] + cells * torch.arange(c.latent)
    rows = torch.arange(count)[:, None, None].expand_as(columns)
    index = torch.stack([rows.flatten(), columns.flatten()])
    size = (count, cells * c.latent)
    told = index, values.flatten().float(), size
    matrix = torch.sparse_coo_tensor(*told, check_invariants=True)
    units = pipe.settings.scaling.units(request.numbers)[readings.which]
    read = torch.from_numpy(readings.values / units) - offset
    operator = Matrix(matrix.to(pipe.device), codec.latent_shape)
    level = Gaussian(float(np.hypot(noise, CODEC_ERROR)))
    return Measurement(operator, read.float()[None].to(pipe.device), level)


def assimilate(
    pipe: SimulationPipeline,
    readings: Readings,
    prompt: str | None = None,
    *,
    mesh: Mesh | None = None,
    viscosity: float | None = None,
    noise: float = 0.02,
    evaluations: int = 12,
    method: Method = _EXPECTED,
    hold: bool = True,
    num: int = 1,
    indices: Sequence[int] | None = None,
    seed: int = 0,
) -> SimulationResult:
    """Estimate flows that fit sparse, noisy, possibly moving sensors.

    The checkpoint's flow, led by the readings in its latents, is the mean of a Gaussian process
    whose kernel travels with the vortices: what readings leave over is kriged, and the whole is
    moved to the nearest flow that obeys its boundaries and has no weak divergence.

    Parameters
    ----------
    pipe : SimulationPipeline
        Of our small kind, whose codec is linear.
    readings : Readings
        In seconds from the first frame on.
    prompt, mesh, viscosity
        As for the pipeline: what is known of the flow beside the readings.
    noise : float, default 0.02
        Standard deviation of readings, as a share of the mean inflow (of its square for pressure).
    evaluations : int, default 12
        Of the network, for each sample; backward passes count.
    method : Method
        How readings guide latents; see :mod:`rectiflow.inverse`. :class:`Expected` leaves them all
        to kriging.
    hold : bool, default True
        Whether flows are projected: no weak divergence, the parabola at the inflow, rest at walls.
        Methods that take a solver hold their data predictions on the way as well.
    num, indices, seed
        As for the pipeline.

    Raises
    ------
    ValueError
        If a sensor is outside of the mesh or of the time, or the checkpoint of another kind.
    """
    began = time.perf_counter()
    request = make_request(prompt, mesh=mesh, viscosity=viscosity)
    if not isinstance(pipe.network, FlowTransformer):
        raise ValueError("assimilation needs a flow from noise; expected our own kind of weights.")
    settings = pipe.settings
    readings.checked(request.mesh, (settings.frames - 1) * settings.frame_step)
    measured = measurement_of(pipe, request, readings, noise)
    if not method.fits(measured):
        raise ValueError(f"{method} does not fit readings with noise; expected another method.")
    wanted = list(range(num)) if indices is None else list(indices)
    speed = request.numbers["u_mean"]
    told_method = repr(method)
    obey = Incompressible(request.mesh, speed)
    if hold and hasattr(method, "solver"):
        assert settings.raster is not None
        correct = held(pipe.codec, settings.raster, obey, speed)
        method = replace(method, solver=Steer(method.solver, correct))  # type: ignore
    z, misfit = _latents(pipe, request, measured, method, evaluations, wanted, seed)
    made = sampling.fields(pipe, z, request.mesh, request)
    made = np.stack([_kriged(each, request, readings, pipe.times(), noise) for each in made])
    if hold:
        made = obey(made)
    told = {
        "readings": len(readings.values),
        "noise": noise,
        "evaluations": evaluations,
        "method": told_method,
        "hold": hold,
        "seed": seed,
        "misfit": [round(value, 5) for value in misfit],
    }
    return pipe.result(request, made, wanted, told, time.perf_counter() - began)


def _kriged(
    made: Float[np.ndarray, "t n 3"],
    request: Request,
    readings: Readings,
    times: Float[np.ndarray, " t"],
    noise: float,
) -> Float[np.ndarray, "t n 3"]:
    """Add to a flow what the readings leave over, kriged field by field."""
    speed, mesh = request.numbers["u_mean"], request.mesh
    rest = readings.values - at_readings(made, mesh, times, readings)
    points = np.column_stack([readings.places, readings.times])
    found = made.astype(np.float64)
    for i in range(len(FIELDS)):
        own = readings.which == i
        if own.sum() < 2:
            continue
        level = noise * (speed if i < 2 else speed**2)
        told = points[own], rest[own], level
        kernel = fitted_kernel(*told, speeds=[share * speed for share in SPEEDS])
        found[..., i] += kriged(*told, kernel, mesh.points, times)
    return found.astype(np.float32)


def _latents(
    pipe: SimulationPipeline,
    request: Request,
    measured: Measurement,
    method: Method,
    evaluations: int,
    indices: list[int],
    seed: int,
) -> tuple[Tensor, list[float]]:
    cond = sampling.condition(pipe, request)
    rows = {
        name: value.to(pipe.device).expand(len(indices), *value.shape[1:])
        for name, value in cond.items()
    }
    field = guided_field(pipe.network, rows, 1.0)
    noise = sampling.noise_of(pipe, indices, seed)
    with torch.no_grad():
        z = method(field, measured, noise, evaluations, KeyedNoise(seed, indices))
        return z, measured.misfit(z).tolist()
