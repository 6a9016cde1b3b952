"""Text2PDE's released sizes on a GPU: a first-frame simulation of 25 steps, and training steps."""

from __future__ import annotations

import time

import torch
from entry import parse, seconds_left, write
from rectiflow_pde.networks import DitConfig, LatentTransformer, MeshAutoencoder, MeshConfig
from rectiflow_pde.networks.convolution import ConvConfig
from rectiflow_pde.networks.transforms import TransformConfig

SIZES = {
    "S": DitConfig(),
    "M": DitConfig(width=1024, depth=28),
    "smoke L": DitConfig((6, 16, 16), (1, 2, 2), 16, 0, 1536, 28, 16, 768),
}
STEPS = 25


def timed(work, args, rounds):
    """Return the least seconds of a few rounds, the first left out."""
    best = float("inf")
    for i in range(rounds + 1):
        started = time.perf_counter()
        work()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        if i:
            best = min(best, time.perf_counter() - started)
    return best


def network_row(name, sizes, args, dtype, rounds):
    """Time the calls of a simulation at batch 1 and 8, and a training step."""
    torch.manual_seed(0)
    with torch.device(args.device):
        network = LatentTransformer(sizes)
        context = torch.randn(8, 64, sizes.context)
        x, t = torch.randn(8, sizes.channels, *sizes.grid), torch.full((8,), 500.0)
    row = {"name": name, "parameters": sum(p.numel() for p in network.parameters())}
    cast = torch.autocast(args.device.partition(":")[0], dtype, enabled=dtype != torch.float32)

    def sample(batch):
        with torch.no_grad(), cast:
            for _ in range(STEPS):
                network(x[:batch], t[:batch], context[:batch])

    def step():
        network.zero_grad(set_to_none=True)
        with cast:
            loss = (network(x, t, context) - x).square().mean()
        loss.backward()

    for batch in (1, 8):
        row[f"ms_of_{STEPS}_calls_batch_{batch}"] = 1e3 * timed(
            lambda b=batch: sample(b), args, rounds
        )
    row["samples_per_second_training"] = 8 / timed(step, args, rounds)
    return row


def codec_row(args, sizes, nodes, frames, rounds):
    """Time the mesh autoencoder on random nodes."""
    torch.manual_seed(0)
    codec = MeshAutoencoder(sizes).to(args.device).eval()
    points = torch.rand(nodes, 2)
    started = time.perf_counter()
    cloud = codec.place(points, frames).to(args.device)
    search = time.perf_counter() - started
    fields = torch.randn(nodes, frames, 3, device=args.device)
    with torch.no_grad():
        encode = timed(lambda: codec.encode(fields, cloud), args, rounds)
        z = codec.encode(fields, cloud).mean
        decode = timed(lambda: codec.decode(z, cloud), args, rounds)
    return {
        "nodes": nodes,
        "frames": frames,
        "pairs": len(cloud.to_grid.source),
        "ms_search": 1e3 * search,
        "ms_encode": 1e3 * encode,
        "ms_decode": 1e3 * decode,
    }


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    on_gpu = args.device.startswith("cuda")
    dtype, rounds = (torch.bfloat16, 5) if on_gpu else (torch.float32, 1)
    small = {"tiny": DitConfig((4, 4, 4), (2, 2, 2), 4, 0, 32, 1, 2, 8)}
    tiny = MeshConfig(3, 8, TransformConfig(0.2, 4, (8,)), ConvConfig(8, (1, 2), 1, 4, (), 4))
    rows = []
    for name, sizes in (SIZES if on_gpu else small).items():
        if seconds_left(args) < 60 and rows:
            break
        rows.append(network_row(name, sizes, args, dtype, rounds))
    nodes = (2000, 20_000) if on_gpu else (60,)
    codecs = [codec_row(args, MeshConfig() if on_gpu else tiny, n, 25, rounds) for n in nodes]
    write(args, "pde-networks", {"dtype": str(dtype), "networks": rows, "codec": codecs})


if __name__ == "__main__":
    main()
