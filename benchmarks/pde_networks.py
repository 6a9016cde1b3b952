"""Physics: neighbours and integrals against dense distances, and cost as nodes grow.

    python benchmarks/pde_networks.py --out benchmarks/results/pde_networks.json
    python benchmarks/pde_networks.py --only encode --out encode.json

Times are of the processor (``process_time``), so that a busy machine does not count; one thread.

* ``integral``: the released encoder's kernel integral, 64^3 cells and radius 0.0425, on 25 frames,
  whole. The fallback compares every cell with every node, takes the kernel of all pairs, and sums
  cell by cell; it is timed on one cell in ``--share`` and scaled, since the whole would need 50 GB.
* ``transformer``: the released S against the same written plainly, in turns, with the same weights.
* ``growth``: the search for neighbours and the same integral at 2 frames on 32^3 cells, by nodes.
* ``raster``: what a simulation with the small codec costs besides its flow, by nodes: mesh to
  raster to latents, and back.
* ``encode``: the released encoder whole on 100,000 nodes x 25 frames, and the peak memory of the
  process; minutes, so by ``--only`` alone.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.networks import LatentTransformer, MeshAutoencoder
from rectiflow_pde.networks.integral import lattice
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
    query, source = (torch.cdist(grid, points) <= CONFIG.radius).nonzero(as_tuple=True)
    f, y, x = layer.x_projection(values), layer.pos_embed(points), layer.pos_embed(grid)
    value = layer.gno_in.mlp(torch.cat([y[source], x[query]], -1)) * f[source]
    ends = torch.bincount(query, minlength=len(grid)).cumsum(0).tolist()
    zero = f.new_zeros(f.shape[1])
    return torch.stack(
        [value[a:b].mean(0) if b > a else zero for a, b in itertools.pairwise([0, *ends])]
    )


@torch.no_grad()
def integral(nodes: int, frames: int, share: int) -> dict[str, Any]:
    """Time the integral both ways."""
    torch.manual_seed(0)
    layer = ToGrid(CONFIG, 3, 3, 64).eval()
    grid, points = lattice((CELLS,) * 3), cloud_of(nodes, frames)
    values = torch.randn(len(points), 3)
    some = torch.randperm(len(grid), generator=torch.Generator().manual_seed(0))
    some = some[: len(grid) // share]
    search, cloud = timed(lambda: Cloud.of(points, grid, CONFIG.radius))
    ours, found = timed(lambda: layer(values, cloud, grid)[0])
    slow, wanted = timed(lambda: dense(layer, points, values, grid[some]))
    slow *= len(grid) / len(some)
    return {
        "nodes": nodes,
        "frames": frames,
        "share_of_cells_of_the_fallback": len(some) / len(grid),
        "pairs": len(cloud.to_grid.source),
        "seconds_search": search,
        "seconds_integral": ours,
        "seconds_dense": slow,
        "ratio": slow / (search + ours),
        "ratio_of_a_known_mesh": slow / ours,
        "difference": float((found[some] - wanted).abs().max() / wanted.abs().max()),
    }


def plain_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> Any:
    """Attend as a textbook has it: all weights at once."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    return (weights @ v).transpose(1, 2).flatten(2)


def plain_transformer(network: LatentTransformer, x: Any, t: Any, context: Any) -> Any:
    """Compute what the transformer does, layer after layer, from its weights."""
    c = network.sizes
    normed = torch.nn.LayerNorm(c.width, 1e-6, elementwise_affine=False)
    h = network.x_embedder["proj"](x).flatten(2).transpose(1, 2) + network.pos_embed
    told = network.vector(t, context)
    for block in network.blocks:
        parts = block.adaLN_modulation(told)[:, None].chunk(6, -1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        own = block.attn.qkv(normed(h) * (1 + scale) + shift).chunk(3, -1)
        h = h + gate * block.attn.proj(plain_attention(*own, c.heads))
        cross = block.cross_attn
        q, k, v = cross.to_q(normed(h)), cross.to_k(context), cross.to_v(context)
        h = h + cross.to_out[0](plain_attention(q, k, v, c.heads))
        inner = block.mlp["fc1"](normed(h) * (1 + scale_mlp) + shift_mlp)
        gelu = torch.nn.functional.gelu(inner, approximate="tanh")
        h = h + gate_mlp * block.mlp["fc2"](gelu)
    return network.final_layer(h, told)


@torch.no_grad()
def transformer(rounds: int) -> dict[str, Any]:
    """Time one call of the released S both ways, in turns."""
    torch.manual_seed(0)
    network = LatentTransformer().eval()
    for parameter in network.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    c = network.sizes
    x, context = torch.randn(1, c.channels, *c.grid), torch.randn(1, 64, c.context)
    t, rows = torch.tensor([500.0]), []
    for _ in range(rounds):
        ours, found = timed(lambda: network(x, t, context))
        plain, wanted = timed(lambda: plain_transformer(network, x, t, context))
        rows.append({"seconds": ours, "seconds_plain": plain, "ratio": plain / ours})
    return {
        "rounds": rows,
        "ratio": float(np.median([row["ratio"] for row in rows])),
        "norms": [float(found.norm()), float(wanted.norm())],
    }


@torch.no_grad()
def encode(nodes: int, frames: int = 25) -> dict[str, Any]:
    """Encode fields on a large mesh with the released autoencoder; tell the peak of memory."""
    torch.manual_seed(0)
    codec = MeshAutoencoder().eval()
    points = torch.from_numpy(np.random.default_rng(0).random((nodes, 2))).float()
    search, cloud = timed(lambda: codec.place(points, frames))
    seconds, posterior = timed(lambda: codec.encode(torch.randn(nodes, frames, 3), cloud))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "nodes": nodes,
        "frames": frames,
        "pairs": len(cloud.to_grid.source),
        "seconds_search": search,
        "seconds_encode": seconds,
        "peak_gib": peak,
        "latent": list(posterior.mean.shape),
    }


@torch.no_grad()
def growth(nodes: int) -> dict[str, Any]:
    """Time the search for the neighbours of all cells and the integral over them."""
    torch.manual_seed(0)
    layer, grid, points = ToGrid(CONFIG, 3, 3, 64).eval(), lattice((32,) * 3), cloud_of(nodes, 2)
    search, cloud = timed(lambda: Cloud.of(points, grid, CONFIG.radius))
    values = torch.randn(len(points), 3)
    summed, _ = timed(lambda: layer(values, cloud, grid))
    pairs = len(cloud.to_grid.source)
    return {"nodes": nodes, "pairs": pairs, "seconds_search": search, "seconds_integral": summed}


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
    parser.add_argument("--rounds", type=int, default=3, help="Of the transformer.")
    parser.add_argument("--only", choices=("integral", "transformer", "growth", "raster", "encode"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts: dict[str, Callable[[], Any]] = {
        "integral": lambda: integral(2000, 25, args.share),
        "transformer": lambda: transformer(args.rounds),
        "growth": lambda: [growth(nodes) for nodes in args.nodes],
        "raster": lambda: [raster(nodes) for nodes in args.nodes],
        "encode": lambda: encode(100_000),
    }
    chosen = [args.only] if args.only else [name for name in parts if name != "encode"]
    results = {"environment": environment()}
    for name in chosen:
        results[name] = parts[name]()
        write_json(args.out, results, indent=1)


if __name__ == "__main__":
    main()
