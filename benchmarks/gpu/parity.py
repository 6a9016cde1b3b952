"""Golden files on this device: the ReQFlow networks in three precisions, the core's solvers.

Float32 without TF32 must agree with the authors' code on a CPU within ``LIMITS``; TF32 and bf16
edges are reported. Solvers run in float64 and must agree to 1e-9.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from entry import parse, write
from rectiflow.grids import log_snr, uniform
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import (
    DDIM,
    RK4,
    DPMSolver2,
    DPMSolverPP2S,
    Euler,
    FireFlow,
    Heun,
    Midpoint,
)
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from safetensors.torch import load_file
from torch import Tensor

LIMITS = {"trans": 1e-4, "rot": 1e-5}  # Å, and components of unit quaternions
SOLVER_LIMIT = 1e-9
ON_TIME = {
    "euler": Euler(),
    "midpoint": Midpoint(),
    "heun": Heun(),
    "rk4": RK4(),
    "fireflow": FireFlow(),
}
ON_LOG_SNR = {"dpm1": DDIM(), "dpm2s": DPMSolver2(), "dpmpp2s": DPMSolverPP2S()}


def sizes(config: dict) -> ReQFlowConfig:
    """Translate the authors' configuration."""
    nodes, edges, ipa = config["node_features"], config["edge_features"], config["ipa"]
    return ReQFlowConfig(
        c_s=config["node_embed_size"],
        c_z=config["edge_embed_size"],
        c_pos_emb=nodes["c_pos_emb"],
        c_timestep_emb=nodes["c_timestep_emb"],
        feat_dim=edges["feat_dim"],
        num_bins=edges["num_bins"],
        c_hidden=ipa["c_hidden"],
        heads=ipa["no_heads"],
        qk_points=ipa["no_qk_points"],
        v_points=ipa["no_v_points"],
        tfmr_heads=ipa["seq_tfmr_num_heads"],
        tfmr_layers=ipa["seq_tfmr_num_layers"],
        blocks=ipa["num_blocks"],
    )


def golden_weights(shapes: dict[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """Draw the weights again by the rule in the golden files."""
    made = {}
    for name, shape in shapes.items():
        z = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if len(shape) >= 2:
            z = z / np.sqrt(shape[-1]) * (0.1 if "bb_update_" in name else 1.0)
        elif "head_weights" in name:
            z = 0.5413 + 0.1 * z
        else:
            z = 1 + 0.1 * z if name.endswith("weight") else 0.05 * z
        made[name] = torch.from_numpy(z.astype(np.float32))
    return made


def digest(weights: dict[str, Tensor]) -> str:
    data = b"".join(weights[name].numpy().tobytes() for name in sorted(weights))
    return hashlib.sha256(data).hexdigest()


def errors(network: ReQFlowNetwork, given: dict, expected: dict) -> dict[str, float]:
    """Largest errors over real residues."""
    with torch.no_grad():
        found = network(
            {"trans": given["trans_t"], "rot": given["rotquats_t"]},
            given["so3_t"][:, 0],
            res_idx=given["res_idx"],
            diffuse_mask=given["diffuse_mask"],
            res_mask=given["res_mask"],
            trans_sc=given.get("trans_sc"),
        )
    real = given["res_mask"].bool()
    rot = found["rot"][real]
    target = expected["pred_rotquats"][real]
    target = target * torch.sign((rot * target).sum(-1, keepdim=True))  # q and -q are one rotation
    return {
        "trans": (found["trans"] - expected["pred_trans"])[real].abs().max().item(),
        "rot": (rot - target).abs().max().item(),
    }


def network_cases(golden: Path, device: str) -> Iterator[dict]:
    """Every case of every ReQFlow golden file, in every precision."""
    for path in sorted(golden.glob("reqflow_*.safetensors")):
        notes = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        tensors = load_file(path, device=device)
        network = ReQFlowNetwork(sizes(notes["config"])).eval()
        shapes = {name: value.shape for name, value in network.state_dict().items()}
        weights = golden_weights(shapes, notes["weights_seed"])
        if "weights" in notes and digest(weights) != notes["weights"]["sha256"]:
            raise SystemExit(f"{path.name}: the weights drawn here differ from the golden ones")
        network.load_state_dict(weights)
        network.to(device)
        for case in notes["cases"]:
            given, expected = (
                {k.rpartition("/")[2]: v for k, v in tensors.items() if k.startswith(f"{case}/{g}")}
                for g in ("in/", "out/")
            )
            row: dict = {"file": path.stem, "case": case}
            for name, precision, dtype in (
                ("float32", "highest", torch.float32),
                ("tf32", "high", torch.float32),
                ("tf32_bf16_edges", "high", torch.bfloat16),
            ):
                torch.set_float32_matmul_precision(precision)
                network.edge_dtype = dtype
                row[name] = errors(network, given, expected)
            torch.set_float32_matmul_precision("highest")
            row["passed"] = all(row["float32"][k] <= limit for k, limit in LIMITS.items())
            yield row


def solver_cases(golden: Path, device: str) -> Iterator[dict]:
    """Points carried by a Gaussian-mixture flow, against ``core_solvers.npz``."""
    with np.load(golden / "core_solvers.npz") as file:
        arrays = {name: torch.from_numpy(file[name]).to(device) for name in file.files}
    w, means, covariances = arrays["w"], arrays["m"], arrays["C"]
    eye = torch.eye(2, dtype=w.dtype, device=device)

    def velocity(x: Tensor, t: float | Tensor) -> Tensor:
        spread = (1 - t) ** 2 * eye + t**2 * covariances
        offset = x[:, None] - t * means
        whitened = torch.linalg.solve(spread, offset[..., None])[..., 0]
        logits = w.log() - 0.5 * (spread.logdet() + (offset * whitened).sum(-1))
        parts = means + torch.einsum("kij,bkj->bki", t * covariances - (1 - t) * eye, whitened)
        return (logits.softmax(-1)[..., None] * parts).sum(1)

    for key in sorted(arrays):
        name, _, steps = key.rpartition("_N")
        if name in ON_TIME:
            end = integrate(velocity, arrays["x0"], plan(uniform(int(steps)), ON_TIME[name]))
        elif name in ON_LOG_SNR:
            moves = plan(log_snr(int(steps), 0.02, 0.98), ON_LOG_SNR[name])
            end = integrate(velocity, arrays["xa"], moves)
        else:
            continue
        error = (end - arrays[key]).abs().max().item()
        yield {"case": key, "error": error, "passed": error <= SOLVER_LIMIT}


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    networks = list(network_cases(args.golden, args.device))
    solvers = list(solver_cases(args.golden, args.device))
    wrong = [row["case"] for row in [*networks, *solvers] if not row["passed"]]
    results = {
        "passed": bool(networks and solvers) and not wrong,
        "limits": {**LIMITS, "solvers": SOLVER_LIMIT},
        "networks": networks,
        "solvers": solvers,
    }
    write(args, "parity", results)
    print(f"{len(networks)} network cases, {len(solvers)} solver cases, wrong: {wrong or 'none'}")
    if not results["passed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
