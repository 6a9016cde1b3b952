"""Assimilation of a flow from 32 sensors: against the prior, kriging, and the plain flow.

The flow past a cylinder that ships as an example and that no training has seen, its readings taken
at random places with noise of 2 % of the inflow; at fixed places, and at places that drift along.

    python benchmarks/steering_pde.py --out benchmarks/results/steering_pde.json
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from environment import environment
from rectiflow import inverse
from rectiflow.storage.files import write_json
from rectiflow_pde.assimilation import Expected, assimilate
from rectiflow_pde.examples import SHEDDING
from rectiflow_pde.incompressible import Incompressible
from rectiflow_pde.kriging import fitted_kernel, kriged
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.metrics.errors import relative_l2
from rectiflow_pde.metrics.mesh_fields import divergence
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.readings import Readings, read_off
from rectiflow_pde.result import read_npz

NOISE, SENSORS = 0.02, 32
METHODS = {
    "expected": (Expected(), 1),
    "projected": (inverse.Projected(), 6),
    "posterior": (inverse.Posterior(), 12),
}


def readings_of(flow, places, rng):
    """Return noisy readings of all fields at all frames."""
    times = flow.times - flow.times[0]
    values = read_off(flow, places)
    speed = flow.parameters["u_mean"]
    values = values + NOISE * np.array([speed, speed, speed**2]) * rng.standard_normal(values.shape)
    at = places if places.ndim == 3 else np.repeat(places[:, None], len(times), 1)
    shape, inside = values.shape, np.isfinite(values).ravel()  # a sensor may drift out
    return Readings(
        np.broadcast_to(at.swapaxes(0, 1)[:, :, None], (*shape, 2)).reshape(-1, 2)[inside],
        np.broadcast_to(times[:, None, None], shape).ravel()[inside],
        np.broadcast_to(np.arange(3), shape).ravel()[inside],
        values.ravel()[inside],
    )


def kriging(flow, readings):
    """Return ordinary kriging, its kernel the most likely of a product of space and time."""
    times, speed = flow.times - flow.times[0], flow.parameters["u_mean"]
    made = []
    for i in range(3):
        own = readings.which == i
        points = np.column_stack([readings.places[own], readings.times[own]])
        mean = readings.values[own].mean()
        told = points, readings.values[own] - mean, NOISE * (speed if i < 2 else speed**2)
        kernel = fitted_kernel(*told)
        made.append(mean + kriged(*told, kernel, flow.mesh.points, times))
    return np.stack(made, -1).astype(np.float32)


def errors(flow, found):
    """Return the relative L2 over all fields, and of u, v, p."""
    error = relative_l2(found, flow.stacked)
    return {
        "relative_l2": round(error.total, 4),
        **{f: round(e, 4) for f, e in zip("uvp", error.per_channel, strict=True)},
    }


def weak(flow, found):
    """Return the largest weak divergence, m²/s."""
    return float(np.abs(divergence(flow.mesh, found[..., 0], found[..., 1]).weak).max())


def measure(pipe, flow, methods):
    """Yield what is known of one flow after each way."""
    rng = np.random.default_rng(0)
    inner = np.flatnonzero(flow.mesh.nodes_of(NodeType.FLUID))
    inner = inner[flow.mesh.points[inner, 0] < 1.4]
    places = flow.mesh.points[rng.choice(inner, SENSORS, replace=False)]
    readings = readings_of(flow, places, rng)
    told = {"mesh": flow.mesh, "viscosity": flow.parameters["viscosity"]}
    began = time.process_time()
    sample = pipe(flow.caption, **told, steps=5).flows[0].stacked
    plain = time.process_time() - began
    began = time.process_time()
    held = Incompressible(flow.mesh, flow.parameters["u_mean"])(sample)
    hold = time.process_time() - began
    rows = {"prior, 5 steps": errors(flow, sample), "prior, held": errors(flow, held)}
    found = {
        "reynolds": round(flow.parameters["reynolds"], 1),
        "nodes": flow.mesh.n_nodes,
        "weak_divergence": {
            "plain": weak(flow, sample),
            "held": weak(flow, held),
            "solved": weak(flow, flow.stacked),
        },
        "cpu_seconds": {"plain": round(plain, 3), "hold": round(hold, 3)},
        "errors": rows,
    }
    rows["kriging"] = errors(flow, kriging(flow, readings))
    yield found
    for name in methods:
        method, evaluations = METHODS[name]
        began = time.process_time()
        more = {"noise": NOISE, "method": method, "evaluations": evaluations}
        made = assimilate(pipe, readings, flow.caption, **told, **more).flows[0].stacked
        seconds = round(time.process_time() - began, 2)
        rows[name] = errors(flow, made) | {"cpu_seconds": seconds}
        yield found
    drift = np.linspace(0, 0.1, len(flow.times))[:, None] * [1, 0]
    moving = readings_of(flow, places[:, None] + drift, rng)
    made = assimilate(pipe, moving, flow.caption, **told, noise=NOISE).flows[0].stacked
    rows["expected, sensors that move"] = errors(flow, made)
    yield found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=tuple(METHODS))
    args = parser.parse_args()
    pipe = SimulationPipeline.from_pretrained("small")
    for part in (pipe.network, pipe.codec):
        part.requires_grad_(False)
    document = {
        "environment": environment(),
        "settings": {"sensors": SENSORS, "frames": 24, "noise": NOISE, "weights": "small"},
    }
    for found in measure(pipe, read_npz(SHEDDING), args.methods):
        document["flow"] = found
        print(json.dumps(found), flush=True)
        if args.out:
            write_json(args.out, document)


if __name__ == "__main__":
    main()
