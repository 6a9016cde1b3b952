"""TripoSG's networks against their golden files on this device, in float32 and in bf16."""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entry import parse, write
from rectiflow_shape.networks import Posterior
from rectiflow_shape.weights import dit_from_official, expected, vae_from_official
from safetensors.torch import load_file

LIMIT = 1e-4  # of the largest value


def drawn(about: dict[str, Any], shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Draw the official weights by the rule of the golden files, and check their digest."""
    told, found = about["weights"], {}
    for key, shape in shapes.items():
        z = normal(told["seed"], key, shape)
        if len(shape) >= 2:
            z /= np.sqrt(np.prod(shape[1:]))
        else:
            z = 1 + 0.1 * z if key.endswith("weight") else 0.05 * z
        z *= next((f for suffix, f in told["factors"].items() if key.endswith(suffix)), 1.0)
        found[key] = torch.from_numpy(z.astype(np.float32))
    digest = hashlib.sha256()
    for name in sorted(found):
        digest.update(found[name].numpy().astype("<f4").tobytes())
    if digest.hexdigest() != told["sha256"]:
        raise ValueError("the drawn weights are not those of the golden file")
    return found


def normal(seed: int, key: str, shape: Any) -> np.ndarray:
    """Draw what the golden files draw under a name."""
    return np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(tuple(shape))


@torch.no_grad()
def case(path: Path, device: str) -> dict[str, Any]:
    """Return how far a network is from its golden output."""
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    tensors = load_file(path)
    for name, told in about.get("generated_inputs", {}).get("tensors", {}).items():
        values = normal(about["weights"]["seed"], name, told["shape"]).astype(np.float32)
        tensors[name] = torch.from_numpy(values)
    is_vae = "_vae_" in path.stem
    make: Any = vae_from_official if is_vae else dit_from_official
    network = make(drawn(about, expected(about["config"], is_vae)), about["config"]).to(device)
    given = {name: value.to(device) for name, value in tensors.items()}

    def output() -> torch.Tensor:
        if is_vae:
            mean, logvar = given["out/moments"].chunk(2, dim=-1)
            z = Posterior(mean, logvar.clamp(-30, 20)).sample(given["in/latent_noise"])
            return network.decode(z, given["in/query_points"])[..., None]
        contexts = [given[n] for n in ("in/context", "in/context_2") if n in given]
        told = about.get("attention_kwargs") or {}
        names = ("cross_attention_scale", "cross_attention_2_scale")
        scales = tuple(told.get(name, 1.0) for name in names)
        return network.at(given["in/latents"], given["in/timestep"], *contexts, scales=scales)

    wanted = given["out/values" if is_vae else "out/velocity"]
    size = wanted.abs().max()
    plain = float((output() - wanted).abs().max() / size)
    with torch.autocast(torch.device(device).type, torch.bfloat16):
        half = float((output().float() - wanted).abs().max() / size)
    return {"case": path.stem, "float32": plain, "bf16": half}


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    torch.backends.cuda.matmul.allow_tf32 = False
    found = sorted(args.golden.glob("triposg_*.safetensors"))
    paths = [path for path in found if "scheduler" not in path.stem]
    if not args.device.startswith("cuda"):
        paths = [path for path in paths if "released" not in path.stem]
    rows = [case(path, args.device) for path in paths]
    passed = all(row["float32"] <= LIMIT for row in rows)
    write(args, "shape-parity", {"cases": rows, "limit": LIMIT, "passed": passed})


if __name__ == "__main__":
    main()
