"""How often a checkpoint's guard tells what lies outside of its training, and how often in vain.

    python benchmarks/pde_guard.py --weights small --out benchmarks/results/pde_guard.json

All first frames are solved on coarse meshes (16 edges around a cylinder) that no training flow has.

* ``inside``: flows drawn from the ranges of the training; every warning is a false alarm.
* ``numbers``: prompts with one number beyond its range by a tenth of it or more, nothing else.
* ``geometry``: other channels and obstacles, with flows solved in them.
* ``frame``: an inflow that is no parabola, the flow of another cylinder, a pressure in other units,
  noise; all numbers within range.
* ``start``: what is not claimed: a flow that has just started looks like one at a lower Reynolds
  number everywhere.

With ``--data SHARDS`` frames of their test flows count as inside as well.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_pde.data.datamodule import flows_of
from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.metrics.interpolation import interpolation
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.request import Request, make_request
from rectiflow_pde.scaling import NUMBERS
from rectiflow_pde.solvers.cylinder import CylinderFlow
from rectiflow_pde.solvers.draws import CylinderRanges
from rectiflow_pde.solvers.navier_stokes import NavierStokes

EARLY, LATE = 0.05, 1.5
"""Seconds after the start from Stokes flow; training flows begin at the latter."""

Frame = np.ndarray
Inflow = Callable[[np.ndarray], np.ndarray]


def drawn(index: int, **ranges: tuple[float, float]) -> CylinderFlow:
    """Draw a flow of this benchmark's own seed."""
    flow = CylinderRanges(**ranges).draw(counter_generator("guard", 7, index), (EARLY, LATE))
    return replace(flow, edge=2 * math.pi * flow.channel.radius / 16, far=0.055)


def frames(mesh: Mesh, flow: CylinderFlow, inflow: Inflow | None = None) -> tuple[Frame, Frame]:
    """Solve to the early and the late time; return u, v, p at the nodes."""
    solver = NavierStokes(mesh, flow.viscosity, inflow or flow.inflow)
    (cx, cy), r = flow.channel.centre, flow.channel.radius
    places = solver.space.places
    away = (places[:, 0] - cx - 2 * r) ** 2 + (places[:, 1] - cy) ** 2
    push = flow.push * flow.u_mean**2 / flow.diameter * np.exp(-away / r**2)
    until, body = 8 * r / flow.u_mean, np.stack([0 * push, push])
    found = [
        state
        for state in solver.run(
            solver.stokes(),
            [EARLY, LATE],
            step=0.5 * solver.stable_step(),  # odd obstacles need less than the usual one
            force=lambda t: body if t < until else None,
        )
        if state.time in (EARLY, LATE)
    ]
    early, late = (np.column_stack([*s.velocity[:, : mesh.n_nodes], s.pressure]) for s in found)
    return early, late


def stretched(mesh: Mesh, flow: CylinderFlow) -> Mesh:
    """Make the cylinder an ellipse, twice as high as long."""
    off = mesh.points - np.array(flow.channel.centre)
    near = np.exp(-(((off**2).sum(1) / (2.5 * flow.channel.radius) ** 2) ** 2))
    return Mesh(
        mesh.points - np.column_stack([0.45 * near * off[:, 0], 0 * near]),
        mesh.triangles,
        mesh.node_type,
    )


def requests(count: int) -> Iterator[tuple[str, str, Request]]:
    """Yield group, kind and request, one after the other; ``count`` flows are solved inside."""
    rng = np.random.default_rng(0)
    before: tuple[Mesh, Frame] | None = None
    for i in range(count):
        flow = drawn(i)
        mesh = flow.mesh()
        early, late = frames(mesh, flow)

        def ask(frame: Frame, on: Mesh = mesh) -> Request:
            return make_request(mesh=on, first_frame=frame)

        yield "inside", "solved", ask(late)
        yield "start", "just started", ask(early)
        swirl = rng.normal(size=late.shape) * [1, 1, flow.u_mean] * 0.1 * flow.u_mean
        swirl[mesh.node_type != NodeType.FLUID, :2] = 0
        yield "frame", "noise of a tenth", ask(late + swirl)
        yield "frame", "pressure of 10 kg/m³", ask(late * [1, 1, 10])
        if before is not None:
            other = interpolation(before[0], mesh.points)(before[1].T[None])[0].T
            other = np.where(np.isfinite(other), other, 0)
            other[mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE), :2] = 0
            yield "frame", "of another cylinder", ask(other)
        before = mesh, late
        if i % 3 == 0:
            height = flow.channel.height
            ramp: Inflow = lambda y, u=flow.u_mean, h=height: 2 * u * y / h  # noqa: E731
            even: Inflow = lambda y, u=flow.u_mean: np.full_like(y, u)  # noqa: E731
            yield "frame", "even inflow", ask(frames(mesh, flow, even)[1])
            yield "frame", "sheared inflow", ask(frames(mesh, flow, ramp)[1])
            ellipse = stretched(mesh, flow)
            yield "geometry", "ellipse", ask(frames(ellipse, flow)[1], ellipse)
            channel = replace(flow.channel, height=0.55)
            tall = replace(flow, channel=channel)
            yield "geometry", "higher channel", ask(frames(tall.mesh(), tall)[1], tall.mesh())
            small = replace(flow.channel, radius=0.02)
            thin = replace(flow, channel=small, edge=2 * math.pi * 0.02 / 16)
            yield "geometry", "thinner cylinder", ask(frames(thin.mesh(), thin)[1], thin.mesh())
            empty = mesh_channel(Channel(0.0), 0.05, 0.05)
            y = empty.points[:, 1]
            still = np.column_stack([flow.inflow(y), 0 * y, 0.1 * (1.6 - empty.points[:, 0])])
            yield "geometry", "no cylinder", ask(still, empty)


def beyond(pipe: SimulationPipeline, count: int) -> Iterator[tuple[str, Request]]:
    """Yield requests with one number beyond the trained range."""
    scaling = pipe.settings.scaling
    spans = dict(zip(NUMBERS, zip(scaling.low, scaling.high, strict=True), strict=True))
    mesh = mesh_channel(Channel(0.05), 0.02, 0.1)
    for i in range(count):
        name = NUMBERS[i % len(NUMBERS)]
        share = torch.rand(6, generator=counter_generator("beyond", 0, i)).tolist()
        told = {
            k: low + s * (high - low)
            for (k, (low, high)), s in zip(spans.items(), share[:5], strict=True)
        }
        low, high = spans[name]
        out = (0.1 + share[5]) * (high - low)
        told[name] = max(low - out, 0.01 * low) if i % 2 else high + out
        yield name, Request(mesh, told, None, "")


def main() -> None:
    """Solve, ask, count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--weights", default="small")
    parser.add_argument("--count", type=int, default=30, help="Flows inside; others go with them.")
    parser.add_argument("--data", nargs="*", default=[], help="Prepared flows of other seeds.")
    args = parser.parse_args()
    pipe = SimulationPipeline.from_pretrained(args.weights)
    flagged: dict[str, dict[str, list[bool]]] = {}

    def judge(group: str, kind: str, request: Request) -> None:
        told = pipe.warnings(request)[len(request.notes) :]
        flagged.setdefault(group, {}).setdefault(kind, []).append(bool(told))

    for case in requests(args.count):
        judge(*case)
    for flow in (flow for folder in args.data for flow in flows_of(folder, "test")):
        for frame in flow.stacked[::10]:
            judge("inside", "test flows", make_request(mesh=flow.mesh, first_frame=frame))
    for name, request in beyond(pipe, 10 * args.count):
        judge("numbers", name, request)
    rates = {
        group: {
            "cases": sum(map(len, kinds.values())),
            "flagged": float(np.mean([x for row in kinds.values() for x in row])),
            "kinds": {k: {"cases": len(v), "flagged": float(np.mean(v))} for k, v in kinds.items()},
        }
        for group, kinds in flagged.items()
    }
    write_json(args.out, {"environment": environment(), "weights": args.weights, "rates": rates})


if __name__ == "__main__":
    main()
