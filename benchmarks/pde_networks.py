"""Physics: neighbours and integrals against dense distances, and cost as nodes grow.

    python benchmarks/pde_networks.py --out benchmarks/results/pde_networks.json

Times are of the processor (``process_time``), so that a busy machine does not count; one thread.

* ``integral``: the released encoder's kernel integral, 64^3 cells and radius 0.0425, on 25 frames.
  The fallback compares every cell with every node and sums cell by cell; it is timed on one cell in
  ``--share`` and scaled, since the whole would need 100 GB.
* ``growth``: the search for neighbours and the same integral at 2 frames, by nodes.
* ``raster``: what a simulation with the small codec costs besides its flow, by nodes: mesh to
  raster to latents, and back.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.networks.integral import lattice
from rectiflow_pde.networks.neighbours import within_radius
from rectiflow_pde.networks.patches import PatchCodec
from rectiflow_pde.networks.transforms import Cloud, ToGrid, TransformConfig
from rectiflow_pde.raster import Raster
from scipy.spatial import Delaunay

CONFIG = TransformConfig()
CELLS = 64


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of the processor, and what was made."""
    started = time.process_time()
    made = work()
    return time.process_time() - started, made


def cloud_of(nodes: int, frames: int, seed: int = 0) -> torch.Tensor:
    """Return places and times of random nodes."""
    places = np.random.default_rng(seed).random((nodes, 1, 2))
    times = np.linspace(0, 1, frames)[None, :, None]
    whole = [
        np.broadcast_to(places, (nodes, frames, 2)),
        np.broadcast_to(times, (nodes, frames, 1)),
    ]
    return torch.from_numpy(np.concatenate(whole, -1).reshape(-1, 3)).float()


@torch.no_grad()
def dense(layer: ToGrid, points: torch.Tensor, values: torch.Tensor, grid: torch.Tensor) -> Any:
    """Average over neighbours as a fallback does: all distances, then cell by cell."""
    near = torch.cdist(grid, points) <= CONFIG.radius
    f, y = layer.x_projection(values), layer.pos_embed(points)
    x, out = layer.pos_embed(grid), []
    for cell, row in zip(x, near, strict=True):
        (index,) = row.nonzero(as_tuple=True)
        if not len(index):
            out.append(f.new_zeros(f.shape[1]))
            continue
        told = torch.cat([y[index], cell.expand(len(index), -1)], -1)
        out.append((layer.gno_in.mlp(told) * f[index]).mean(0))
    return torch.stack(out)


@torch.no_grad()
def integral(nodes: int, frames: int, share: int) -> dict[str, Any]:
    """Time the integral both ways."""
    torch.manual_seed(0)
    layer = ToGrid(CONFIG, 3, 3, 64).eval()
    grid, points = lattice((CELLS,) * 3), cloud_of(nodes, frames)
    values = torch.randn(len(points), 3)
    some = torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))
    some = some[: len(grid) // share]
    search, cloud = timed(lambda: Cloud.of(points, grid[some], CONFIG.radius))
    ours, found = timed(lambda: layer(values, cloud, grid[some])[0])
    slow, wanted = timed(lambda: dense(layer, points, values, grid[some]))
    error = float((found - wanted).abs().max() / wanted.abs().max())
    return {
        "nodes": nodes,
        "frames": frames,
        "share_of_cells": 1 / share,
        "pairs": len(cloud.to_grid.source),
        "seconds_search": search,
        "seconds_integral": ours,
        "seconds_dense": slow,
        "ratio": slow / (search + ours),
        "difference": error,
    }


def growth(nodes: int) -> dict[str, Any]:
    """Time the search for neighbours of all cells by the number of nodes."""
    points = cloud_of(nodes, 2).double().numpy()
    grid = lattice((32,) * 3).double().numpy()
    seconds, near = timed(lambda: within_radius(grid, points, CONFIG.radius))
    return {"nodes": nodes, "pairs": len(near.source), "seconds_search": seconds}


@torch.no_grad()
def raster(nodes: int) -> dict[str, Any]:
    """Time the way to the small codec's latents and back."""
    points = np.random.default_rng(0).random((nodes, 2)) * [1.6, 0.41]
    mesh = Mesh(points, Delaunay(points).simplices, np.zeros(nodes))
    fields = np.random.default_rng(1).normal(size=(24, nodes, 3)).astype(np.float32)
    grid, codec = Raster(), PatchCodec()

    def there() -> torch.Tensor:
        made = np.moveaxis(grid.from_mesh(mesh, fields), (3, 0), (0, 3)).copy()
        return codec.encode(torch.from_numpy(made)[None])

    def back() -> np.ndarray:
        made = codec.decode(z)[0].numpy()
        return grid.to_points(np.moveaxis(made, (0, 3), (3, 0)), mesh.points)

    there_s, z = timed(there)
    back_s, _ = timed(back)
    return {"nodes": nodes, "seconds_encode": there_s, "seconds_decode": back_s}


def main() -> None:
    """Measure, tell, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--nodes", type=int, nargs="+", default=[1000, 3000, 10_000, 30_000, 100_000]
    )
    parser.add_argument("--share", type=int, default=256, help="one cell in so many")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {
        "environment": environment(),
        "integral": integral(2000, 25, args.share),
        "growth": [growth(nodes) for nodes in args.nodes],
        "raster": [raster(nodes) for nodes in args.nodes],
    }
    write_json(args.out, results, indent=1)


if __name__ == "__main__":
    main()
