"""Drag, lift and Strouhal number of the flow solver at Re 100 against the literature.

Confined: Schäfer and Turek's case 2D-2 (channel 2.2 x 0.41, cylinder of diameter 0.1 at 0.2, 0.2),
at two resolutions. Unconfined: sliding walls 20 diameters away. The seconds are of this machine,
with whatever else ran on it; the CPU seconds are of this process.

    python benchmarks/pde_solver.py --out benchmarks/results/pde_solver.json
    python benchmarks/pde_solver.py --only confined_coarse
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass

import numpy as np
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.metrics.shedding import shedding
from rectiflow_pde.solvers.navier_stokes import NavierStokes

VISCOSITY, U_MEAN, DIAMETER = 1e-3, 1.0, 0.1


@dataclass(frozen=True)
class Case:
    """A flow, how it is meshed, and what others found."""

    channel: Channel
    edge: float
    far: float
    wake: float
    seconds: float
    window: float
    is_open: bool
    reference: dict[str, tuple[float, float]]

    def inflow(self, y):
        """Parabola of mean 1 m/s, or a uniform velocity between sliding walls."""
        height = self.channel.height
        return (
            np.full_like(y, U_MEAN) if self.is_open else 6 * U_MEAN * y * (height - y) / height**2
        )


DFG = {"cd_max": (3.22, 3.24), "cl_max": (0.99, 1.01), "strouhal": (0.295, 0.305)}
OPEN = {"cd_mean": (1.33, 1.36), "cl_max": (0.32, 0.34), "strouhal": (0.164, 0.166)}
NARROW = Channel(0.05, (0.2, 0.2), 2.2, 0.41)
WIDE = Channel(0.05, (1.5, 2.05), 5.0, 4.1)
CASES = {
    "confined_coarse": Case(NARROW, 0.011, 0.036, 0.024, 6.5, 2.0, False, DFG),
    "confined_fine": Case(NARROW, 0.008, 0.028, 0.018, 6.5, 2.0, False, DFG),
    "unconfined": Case(WIDE, 0.0098, 0.4, 0.045, 16.0, 4.0, True, OPEN),
}


def measure(case: Case) -> dict:
    """Run a case from Stokes flow on, with a push, and measure its last seconds."""
    mesh = mesh_channel(case.channel, case.edge, case.far, wake=case.wake)
    started, cpu = time.perf_counter(), time.process_time()
    solver = NavierStokes(mesh, VISCOSITY, case.inflow, slips=case.is_open)
    places, (cx, cy) = solver.space.places, case.channel.centre
    away = (places[:, 0] - cx - DIAMETER) ** 2 + (places[:, 1] - cy) ** 2
    push = np.exp(-away / (DIAMETER / 2) ** 2) * 4
    body = np.stack([0 * push, push])
    times = np.arange(1, round(case.seconds / 0.1) + 1) * 0.1
    history, worst = [], 0.0
    for state in solver.run(
        solver.stokes(), times, force=lambda t: body if t < 4 * DIAMETER else None
    ):
        history.append((state.time, *state.force))
        if len(history) % 100 == 0:
            weak = solver.space.divergence @ state.velocity.ravel()
            worst = max(worst, float(np.abs(weak).max()))
    steps, seconds = len(history), time.perf_counter() - started
    cpu = time.process_time() - cpu
    time_, drag, lift = np.array(history).T
    last = time_ > case.seconds - case.window
    cd, cl = (2 * force[last] / (U_MEAN**2 * DIAMETER) for force in (drag, lift))
    found = shedding(time_[last], cl)
    measured = {
        "cd_mean": cd.mean(),
        "cd_max": cd.max(),
        "cl_max": cl.max(),
        "cl_min": cl.min(),
        "strouhal": found.strouhal(DIAMETER, U_MEAN) or math.nan,
    }
    return {
        "nodes": mesh.n_nodes,
        "edges_around": len(mesh.edges_of(NodeType.OBSTACLE)),
        "time_step": solver.stable_step(),
        "steps": steps,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "cpu_ms_per_step": 1e3 * cpu / steps,
        "weak_divergence_max": worst,
        "regime": found.regime,
        "measured": {key: float(value) for key, value in measured.items()},
        "reference": {key: list(span) for key, span in case.reference.items()},
        "off_percent": {
            key: 100 * off(measured[key], *span) for key, span in case.reference.items()
        },
    }


def off(value: float, low: float, high: float) -> float:
    """Share by which a value is outside a span."""
    return float(max(low - value, value - high, 0) / (low if value < low else high))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out")
    parser.add_argument("--only", choices=tuple(CASES))
    args = parser.parse_args()
    document = {"environment": environment(), "cases": {}}
    for name, case in CASES.items():
        if args.only in (None, name):
            document["cases"][name] = measure(case)
            print(name, json.dumps(document["cases"][name], indent=1), flush=True)
            if args.out:
                write_json(args.out, document)


if __name__ == "__main__":
    main()
