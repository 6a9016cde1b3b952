"""FlowSep's golden files on this device: UNet, autoencoder and vocoder in three precisions.

Float32 without TF32 must agree with the authors' code on a CPU within ``LIMIT`` of the largest
value; TF32 and bf16 are reported.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from entry import parse, write
from rectiflow_audio.networks import (
    BigVgan,
    UNetConfig,
    VaeConfig,
    VocoderConfig,
)
from rectiflow_audio.weights import unet_from_official, vae_from_official
from safetensors.torch import load_file
from torch import Tensor, nn

LIMIT = 3e-5
PRECISIONS = {
    "float32": ("highest", torch.float32),
    "tf32": ("high", torch.float32),
    "bf16": ("high", torch.bfloat16),
}


def golden_weights(notes: dict, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Draw the weights again by the rule in the golden files."""
    rule, rates = notes["weights"], notes["config"].get("upsample_rates")
    made = {}
    for name, shape in notes["state_dict"].items():
        if name.endswith(".filter"):
            made[name] = tensors["const.filter"].reshape(shape)
            continue
        z = np.random.default_rng([rule["seed"], zlib.crc32(name.encode())]).standard_normal(shape)
        stage = re.fullmatch(r"ups\.(\d+)\.0\.weight", name)
        if stage and rates:
            z /= np.sqrt(shape[0] * shape[2] / rates[int(stage[1])])
        elif len(shape) >= 2:
            z /= np.sqrt(np.prod(shape[1:]))
        elif name.endswith("weight"):
            z = 1 + 0.1 * z
        else:
            z *= 0.3 if name.endswith((".alpha", ".beta")) else 0.05
        factor = next((f for end, f in rule["factors"].items() if name.endswith(end)), 1.0)
        made[name] = torch.from_numpy((factor * z).astype(np.float32))
    return made


def unet_case(notes: dict, weights: dict, given: dict) -> tuple[nn.Module, Callable, str]:
    network = unet_from_official(weights, UNetConfig.from_official(notes["config"]["unet_config"]))
    cond = {
        "mixture": given["in.mixture_latent"],
        "context": given["in.context"],
        "context_mask": given["in.context_mask"],
    }
    half = notes["config"]["latent_channels"]
    given["out.v"] = given["out.v"][:, :half]
    return network, lambda n: n(given["in.x"], given["in.t"], cond), "out.v"


def vae_case(notes: dict, weights: dict, given: dict) -> tuple[nn.Module, Callable, str]:
    network = vae_from_official(weights, VaeConfig.from_official(notes["config"]))
    return network, lambda n: n.decode(n.encode(given["in.log_mel"]).mean), "out.decoded_mode"


def vocoder_case(notes: dict, weights: dict, given: dict) -> tuple[nn.Module, Callable, str]:
    network = BigVgan(VocoderConfig.from_official(notes["config"]))
    network.load_state_dict(weights)
    return network, lambda n: n.raw(given["in.mel"]), "out.wav"


CASES: dict[str, Callable[..., tuple[Any, Callable, str]]] = {
    "flowsep_unet_": unet_case,
    "flowsep_vae_": vae_case,
    "flowsep_vocoder_": vocoder_case,
}


def rows(golden: Path, device: str) -> Iterator[dict]:
    """Every golden network in every precision: largest error over largest value."""
    for prefix, make in CASES.items():
        for path in sorted(golden.glob(f"{prefix}*.safetensors")):
            notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            stored = load_file(path)
            weights = golden_weights(notes, stored)
            given = {name: value.to(device) for name, value in stored.items()}
            network, call, name = make(notes, weights, given)
            network.to(device).eval()
            row: dict[str, Any] = {"case": path.stem}
            for precision, (matmul, dtype) in PRECISIONS.items():
                torch.set_float32_matmul_precision(matmul)
                torch.backends.cudnn.allow_tf32 = matmul == "high"
                lower = dtype != torch.float32
                with torch.no_grad(), torch.autocast(given[name].device.type, dtype, enabled=lower):
                    found = call(network).float().reshape(given[name].shape)
                error = (found - given[name]).abs().max() / given[name].abs().max()
                row[precision] = error.item()
            row["passed"] = row["float32"] <= LIMIT
            yield row


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    found = list(rows(args.golden, args.device))
    wrong = [row["case"] for row in found if not row["passed"]]
    write(
        args, "audio-parity", {"passed": bool(found) and not wrong, "limit": LIMIT, "cases": found}
    )
    print(f"{len(found)} cases, wrong: {wrong or 'none'}")
    if wrong or not found:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
