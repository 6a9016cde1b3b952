"""TripoSG at its released size with random weights: flow, decoding near a surface, surface.

A random field has no surface that says anything about cost. Every point that the search asks for is
decoded by the network, and the value that is used is the distance to a ball.
"""

from __future__ import annotations

import time

import torch
from entry import parse, seconds_left, write
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from rectiflow_shape.flow import guided_field
from rectiflow_shape.geometry import extract
from rectiflow_shape.networks import TripoSGDiT, TripoSGVae

AIM_S, FLOOR_S = 3.0, 1.5
GUIDANCE = 7.0
RADIUS = 0.6


def networks(device: str, small: bool) -> tuple[TripoSGDiT, TripoSGVae]:
    """Make networks of the released sizes, or tiny ones, in half precision on a GPU."""
    with torch.device(device):
        dit = TripoSGDiT(8, 32, 2, 3, context=16) if small else TripoSGDiT()
        vae = TripoSGVae(8, 2, 16, 32, 1, 1, 3) if small else TripoSGVae()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return dit.eval().to(dtype), vae.eval().to(dtype)


@torch.no_grad()
def run(
    dit: TripoSGDiT, vae: TripoSGVae, tokens: int, steps: int, depth: int, device: str
) -> dict[str, float]:
    """Make one shape and return the seconds of each stage."""
    dtype = next(dit.parameters()).dtype
    width = dit.config["context"]
    cond = {"context": torch.randn(1, 257, width, device=device, dtype=dtype)}
    x = torch.randn(1, tokens, dit.in_channels, device=device)

    def network(x: torch.Tensor, t: torch.Tensor, cond: dict[str, torch.Tensor]) -> torch.Tensor:
        return dit(x.to(dtype), t, cond)

    marks = [_now(device)]
    moves = plan(uniform(steps), Euler())
    latents = integrate(guided_field(network, cond, GUIDANCE), x, moves).to(dtype)
    marks.append(_now(device))
    keys = vae.keys(latents)
    queries = 0

    def field(xyz: torch.Tensor) -> torch.Tensor:
        nonlocal queries
        queries += len(xyz)
        decoded = vae.field(keys, xyz[None].to(dtype))[0].float()
        return RADIUS - xyz.norm(dim=-1) + 0 * decoded

    surface = extract(field, depth=depth, device=device)
    marks.append(_now(device))
    return {
        "flow_s": marks[1] - marks[0],
        "surface_s": marks[2] - marks[1],
        "total_s": marks[2] - marks[0],
        "queries": queries,
        "dense_queries": surface.dense,
        "faces": len(surface.mesh.faces),
    }


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    small = not args.device.startswith("cuda")
    torch.manual_seed(0)
    dit, vae = networks(args.device, small)
    tokens, depth = (32, 6) if small else (2048, 8)
    rows = []
    for steps in (50, 10):
        if seconds_left(args) < 30:
            break
        run(dit, vae, tokens, 2, depth, args.device)  # warm
        found = [run(dit, vae, tokens, steps, depth, args.device) for _ in range(3)]
        rows.append({"steps": steps, **min(found, key=lambda each: each["total_s"])})
    told = {"tokens": tokens, "depth": depth, "guidance": GUIDANCE, "rows": rows}
    peak = 0 if small else torch.cuda.max_memory_allocated()
    told |= {"peak_bytes": peak, "aim_s": AIM_S, "floor_s": FLOOR_S, "released_size": not small}
    write(args, "shape-generation", told)


if __name__ == "__main__":
    main()
