"""A small channel, flows on it, and files of them."""

from __future__ import annotations

import meshio
import numpy as np
import pytest
from rectiflow_pde.mesh import Mesh, NodeType
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.trajectory import Trajectory

HEIGHT = 0.41


@pytest.fixture(scope="session")
def channel() -> Channel:
    return Channel(0.05, (0.3, 0.2))


@pytest.fixture(scope="session")
def mesh(channel) -> Mesh:
    """About 300 nodes, 16 edges around the cylinder."""
    return mesh_channel(channel, 2 * np.pi * 0.05 / 16, 0.06)


@pytest.fixture(scope="session")
def flow(mesh) -> Trajectory:
    """Six frames of a made-up flow that slides nowhere and leaves as it enters."""
    x, y = mesh.points.T
    times = 0.05 * np.arange(6)
    profile = 4 * 1.2 * y * (HEIGHT - y) / HEIGHT**2
    moves = ~mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE)
    u = np.broadcast_to(profile * moves, (6, len(x))).astype(np.float32)
    wave = np.sin(20 * x - 18 * times[:, None]) * 0.2 * moves * (x > 0.4)
    p = np.broadcast_to(0.1 * (1.6 - x), (6, len(x))).astype(np.float32)
    return Trajectory(mesh, times, {"u": u, "v": wave.astype(np.float32), "p": p})


@pytest.fixture(scope="session")
def vtu(mesh):
    """Write one frame as VTU: ``vtu(path, flow, frame, **fields)``; None leaves a field out."""

    def write(path, flow, frame=0, **changed):
        zeros = np.zeros(mesh.n_nodes)
        u, v = flow.fields["u"][frame], flow.fields["v"][frame]
        data = {"U": np.stack([u, v, zeros], 1), "p": flow.fields["p"][frame]} | changed
        data = {name: values for name, values in data.items() if values is not None}
        points = np.column_stack([mesh.points, zeros])
        meshio.Mesh(points, [("triangle", mesh.triangles)], point_data=data).write(path)
        return path

    return write


@pytest.fixture(scope="session")
def arrays(mesh, flow):
    """Return a flow as MeshGraphNets has it."""
    official = np.array([0, 4, 5, 6, 6])[mesh.node_type]
    return {
        "mesh_pos": mesh.points,
        "cells": mesh.triangles,
        "node_type": official,
        "velocity": np.stack([flow.fields["u"], flow.fields["v"]], -1),
        "pressure": flow.fields["p"],
        "time": flow.times,
        "viscosity": np.array(1e-3),
        "density": np.array(1.0),
    }
