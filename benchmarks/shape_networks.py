"""Shapes: TripoSG's flow and its decoder against the same written plainly, and mosaics a minute.

    python benchmarks/shape_networks.py --data SHARDS --out benchmarks/results/shape_networks.json

Times are of the processor (``process_time``), one thread, both ways in turns with the same weights.

* ``flow``: one call of the flow at a quarter of the released width (512; 21 blocks) on 512 tokens
  and 257 states of an image. Plainly, attention makes all of its weights, and norms are sums.
* ``decode``: a field at points from 512 tokens, at half of the released width (512; 16 blocks).
  Plainly, keys and values are made anew for every chunk of points.
* ``fit``: meshes of the test split as mosaics, as many a minute of one core.
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
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_shape.data.prepared import PreparedShapes, mesh_of
from rectiflow_shape.evaluation import chosen_rows
from rectiflow_shape.mosaic import FitSettings
from rectiflow_shape.networks import TripoSGDiT, TripoSGVae
from rectiflow_shape.networks.attention import Attention, Block
from rectiflow_shape.reconstruction import mosaic_of
from torch import Tensor, nn

CHUNK = 5000


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return seconds of the processor, and what was made."""
    started = time.process_time()
    made = work()
    return time.process_time() - started, made


def plain_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise as a textbook has it."""
    spread = ((x - x.mean(-1, keepdim=True)) ** 2).mean(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / torch.sqrt(spread + norm.eps) * norm.weight + norm.bias


def plain_attention(layer: Attention, x: Tensor, context: Tensor | None) -> Tensor:
    """Attend with all weights at once."""
    if context is None:
        q, k, v = layer.qkv(x).chunk(3, -1)
    else:
        if layer.norm_cross is not None:
            context = plain_norm(context, layer.norm_cross)
        q, (k, v) = layer.q(x), layer.kv(context).chunk(2, -1)
    q, k, v = (part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in (q, k, v))
    if layer.norm_q is not None and layer.norm_k is not None:
        q, k = layer.norm_q(q), layer.norm_k(k)
    weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
    return layer.out((weights @ v).transpose(1, 2).flatten(2))


def plain_block(block: Block, x: Tensor, context: Tensor | None, skip: Tensor | None) -> Tensor:
    """Compute a block part after part."""
    layer: Any = block
    if skip is not None:
        x = plain_norm(layer.skip_linear(torch.cat([skip, x], -1)), layer.skip_norm)
    if layer.attn1 is not None:
        x = x + plain_attention(layer.attn1, plain_norm(x, layer.norm1), None)
    if context is not None:
        x = x + plain_attention(layer.attn2, plain_norm(x, layer.norm2), context)
    return x + layer.ff(plain_norm(x, layer.norm3))


def plain_flow(network: TripoSGDiT, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Compute what the flow does, from its weights."""
    h = torch.cat([network.time_proj(1000 * (1 - t))[:, None], network.proj_in(x)], 1)
    middle = len(network.blocks) // 2
    kept: list[Tensor] = []
    for i, block in enumerate(network.blocks):
        h = plain_block(block, h, context, kept.pop() if i > middle else None)  # type: ignore
        if i < middle:
            kept.append(h)
    return network.proj_out(plain_norm(h, network.norm_out)[:, 1:])


def plain_decode(vae: TripoSGVae, latents: Tensor, xyz: Tensor) -> Tensor:
    """Compute the field chunk by chunk, keys and values with each."""
    decoder, found = vae.decoder, []
    tokens = vae.post_quant(latents)
    for block in decoder.blocks[:-1]:
        tokens = plain_block(block, tokens, None, None)  # type: ignore[arg-type]
    for part in xyz.split(CHUNK, 1):
        x = decoder.proj_query(vae.embedding(part))
        x = plain_block(decoder.blocks[-1], x, tokens, None)  # type: ignore[arg-type]
        found.append(-decoder.proj_out(plain_norm(x, decoder.norm_out))[..., 0])
    return torch.cat(found, 1)


def in_turns(ours: Callable[[], Tensor], plain: Callable[[], Tensor], rounds: int) -> Any:
    """Time both, round after round; the first is not counted."""
    rows = []
    for _ in range(rounds + 1):
        seconds, found = timed(ours)
        slow, wanted = timed(plain)
        rows.append({"seconds": seconds, "seconds_plain": slow, "ratio": slow / seconds})
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    median = float(np.median([row["ratio"] for row in rows[1:]]))
    return {"rounds": rows[1:], "ratio": median, "difference": difference}


@torch.no_grad()
def flow(rounds: int) -> dict[str, Any]:
    """Time one call of the flow."""
    torch.manual_seed(0)
    network = TripoSGDiT(64, 512, 8, 21, context=1024).eval()
    x, context, t = torch.randn(1, 512, 64), torch.randn(1, 257, 1024), torch.tensor([0.5])
    told = {"context": context}
    both = (lambda: network(x, t, told)), (lambda: plain_flow(network, x, t, context))
    return in_turns(*both, rounds)


@torch.no_grad()
def decode(rounds: int, points: int) -> dict[str, Any]:
    """Time the field at points."""
    torch.manual_seed(0)
    vae = TripoSGVae(64, 8, 256, 512, 1, 16, 8, truncation=0.05).eval()
    latents, xyz = torch.randn(1, 512, 64), torch.rand(1, points, 3) * 2 - 1
    both = (lambda: vae.decode(latents, xyz)), (lambda: plain_decode(vae, latents, xyz))
    return {"points": points} | in_turns(*both, rounds)


def fit(shards: Path, number: int) -> dict[str, Any]:
    """Fit mosaics, and tell how many a minute."""
    prepared, settings = PreparedShapes(shards), FitSettings(grids=64, resolution=7, steps=20)
    total = 0.0
    for name, row in chosen_rows(prepared, "test", number).items():
        mesh, generator = mesh_of(prepared.records[row]), counter_generator("fit", 0, name)
        total += timed(lambda m=mesh, g=generator: mosaic_of(m, settings, g))[0]
    return {"shapes": number, "seconds": total, "shapes_per_minute": 60 * number / total}


def main() -> None:
    """Time, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, help="Prepared shapes; mosaics are left out if absent."
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--points", type=int, default=50_000)
    parser.add_argument("--shapes", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    document = {
        "environment": environment(),
        "flow": flow(args.rounds),
        "decode": decode(args.rounds, args.points),
    }
    if args.data is not None:
        document["fit"] = fit(args.data, args.shapes)
    write_json(args.out, document, indent=1)


if __name__ == "__main__":
    main()
