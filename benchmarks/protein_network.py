"""Speed and memory of the ReQFlow network against a textbook implementation of it.

Both networks hold the same weights and answer the same inputs; their agreement is checked first.
They are timed in turns, so that other load on the machine cancels in the ratios. Peak memory is
that of a process of its own for each measurement. The matrix rate is a large product's, measured
in the same run, and the operations are those of section 5 of the network's specification.

    python benchmarks/protein_network.py --out benchmarks/results/protein_network.json
    python benchmarks/protein_network.py --sizes small --lengths 64 128
    python benchmarks/protein_network.py --device cuda
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from environment import environment
from rectiflow.storage.files import write_text
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from reference_reqflow import ReferenceNetwork
from torch import Tensor, nn

SIZES = {
    "released": ReQFlowConfig(),
    "small": ReQFlowConfig(
        c_s=128,
        c_z=32,
        c_pos_emb=64,
        c_timestep_emb=64,
        feat_dim=16,
        c_hidden=16,
        heads=4,
        qk_points=4,
        v_points=8,
        blocks=4,
    ),
}
CONTENDERS = ("textbook", "ours", "ours_bf16")
AIMS = {"speed_up_forward_256": 2.5, "memory_ratio_forward_256": 0.5, "gpu_ms_per_call_300": 5.0}
GPU_LENGTH = 300  # the length that published timings are given for
AGREEMENT = 1e-3  # Å between the two networks in float32; coordinates reach 30 Å
MEMORY_KEPT_FREE = 3 * 2**30  # bytes that a measurement must leave to the machine


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Draw weights that keep every path alive: at initialisation the network is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim > 1:
                scale = 0.1 if "bb_update" in name else 1.0
                draw = torch.randn(p.shape, generator=generator)
                p.copy_(draw * scale / p.shape[-1] ** 0.5)
    return network


def make(name: str, sizes: str, device: torch.device) -> nn.Module:
    torch.manual_seed(0)  # biases keep their initial draws
    ours = randomise(ReQFlowNetwork(SIZES[sizes]), seed=0)
    if name == "textbook":
        network: nn.Module = ReferenceNetwork(SIZES[sizes])
        network.load_state_dict(ours.state_dict())
        return network.to(device).eval()
    if name == "ours_bf16":
        ours.edge_dtype = torch.bfloat16
    return ours.to(device).eval()


def make_inputs(n: int, batch: int, device: torch.device) -> Callable[[nn.Module], dict]:
    """Return a call of a network on noisy chains of ``n`` residues."""
    generator = torch.Generator().manual_seed(n)
    trans, previous = 10 * torch.randn(2, batch, n, 3, generator=generator).to(device)
    rot = nn.functional.normalize(torch.randn(batch, n, 4, generator=generator), dim=-1)
    x = {"trans": trans, "rot": rot.to(device)}
    t = torch.full((batch,), 0.3, device=device)
    res_idx = torch.arange(n, dtype=torch.float32, device=device).expand(batch, n)
    return lambda network: network(x, t, res_idx=res_idx, trans_sc=previous)


def run(network: nn.Module, call: Callable, backward: bool) -> dict[str, Tensor]:
    """Call the network, with the backward pass of a mean square if asked for."""
    with torch.set_grad_enabled(backward):
        out = call(network)
        if backward:
            network.zero_grad(set_to_none=True)
            (out["trans"].square().mean() + out["rot"].square().mean()).backward()
    return out


def operations(c: ReQFlowConfig, n: int, *, textbook: bool) -> tuple[float, float]:
    """Floating-point operations of one chain: on pairs, and of residues and attention."""
    hidden = c.c_z + 2 * (c.c_s // 2)
    embed = 2 * c.c_z**2
    first = c.c_z * hidden
    if textbook:
        embed += (3 * c.feat_dim + 2 * c.num_bins + 2) * c.c_z + c.feat_dim**2
        first = hidden**2
    transition = first + hidden**2 + hidden * c.c_z
    pair_terms = c.c_z * (c.heads + c.c_z // 4)
    pairs = n**2 * (embed + c.blocks * pair_terms + (c.blocks - 1) * transition)

    attention = c.heads * (2 * c.c_hidden + 3 * (c.qk_points + c.v_points) + c.c_z // 4)
    attention += 2 * c.tfmr_layers * c.c_s
    ipa = 3 * c.c_hidden + 3 * (2 * c.qk_points + c.v_points)  # into features, per head
    ipa += c.c_hidden + 4 * c.v_points + c.c_z // 4  # and out of them
    node = c.c_s * c.heads * ipa + c.c_s**2 * (6 * c.tfmr_layers + 1 + 3) + 6 * c.c_s
    return 2.0 * pairs, 2.0 * c.blocks * (n**2 * attention + n * node)


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Best of several products of large square matrices, in operations per second."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / min(clock(device, torch.matmul, a, b)[0] for _ in range(8))


def copy_rate(device: torch.device) -> float:
    """Bytes per second read and written by a large copy."""
    source = torch.empty(2**28, device=device)
    target = torch.empty_like(source)
    best = min(clock(device, target.copy_, source)[0] for _ in range(8))
    return 2 * source.nbytes / best


def clock(device: torch.device, work: Callable, *inputs: object) -> tuple[float, float]:
    """Seconds on the wall, and of this process on its processors."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work(*inputs)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def check_agreement(networks: dict[str, nn.Module], n: int, device: torch.device) -> dict:
    """Distances of the networks' predictions in ångström; the float32 ones must agree."""
    call = make_inputs(n, 1, device)
    ends = {name: run(network, call, False)["trans"] for name, network in networks.items()}
    apart = (ends["ours"] - ends["textbook"]).abs().max().item()
    if not apart < AGREEMENT:
        raise SystemExit(f"the networks disagree by {apart:.2g} Å at {n} residues")
    low = (ends["ours_bf16"] - ends["ours"]).norm(dim=-1)
    return {
        "ours_to_textbook_max": apart,
        "bf16_to_float32_max": low.max().item(),
        "bf16_to_float32_rms": low.square().mean().sqrt().item(),
        "coordinates_rms": ends["ours"].norm(dim=-1).square().mean().sqrt().item(),
    }


def time_in_turns(
    networks: dict[str, nn.Module], n: int, backward: bool, device: torch.device, budget: float
) -> dict[str, list[tuple[float, float]]]:
    """Time every network once per round; rounds go on for ``budget`` seconds, at most nine."""
    call = make_inputs(n, 1, device)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in networks}
    begin = time.perf_counter()
    for turn in range(9):
        for name in list(networks)[:: 1 if turn % 2 else -1]:
            taken[name].append(clock(device, run, networks[name], call, backward))
        spent = time.perf_counter() - begin
        if spent * (turn + 2) / (turn + 1) > budget:
            break
    return taken


def measure_memory(args: argparse.Namespace) -> dict[tuple, int]:
    """Peak bytes of every contender, length and pass that fits the machine."""
    peaks = {}
    for backward in (False, True):
        for name in CONTENDERS:
            if args.device.startswith("cuda"):
                grown = peak_by_length(name, backward, args)
            else:  # a process of its own: its largest resident size is never set back
                words = [sys.executable, __file__, "--child", name, str(int(backward))]
                words += ["--sizes", args.sizes, "--threads", str(args.threads)]
                words += ["--lengths", *map(str, args.lengths)]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
                grown = {int(n): size for n, size in json.loads(done.stdout).items()}
            peaks |= {(name, n, backward): size for n, size in grown.items()}
    return peaks


def peak_by_length(name: str, backward: bool, args: argparse.Namespace) -> dict[int, int]:
    """Bytes a call needs beyond weights and libraries, by rising length, while they fit."""
    device = torch.device(args.device)
    network = make(name, args.sizes, device)
    run(network, make_inputs(16, 1, device), backward)
    network.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = peak_so_far(device)
    grown: dict[int, int] = {}
    for n in args.lengths:
        wanted = max((p * (n / shorter) ** 2 for shorter, p in grown.items()), default=0)
        if wanted + MEMORY_KEPT_FREE > available_memory(args.device):
            break
        run(network, make_inputs(n, 1, device), backward)
        grown[n] = peak_so_far(device) - before
    return grown


def peak_so_far(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def available_memory(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    fields = dict(line.split(":") for line in info.read_text().splitlines())
    return 1024 * float(fields["MemAvailable"].split()[0])


def summarise(taken: list[tuple[float, float]], operations: float, rate: float) -> dict:
    wall = [w for w, _ in taken]
    return {
        "seconds": {"median": statistics.median(wall), "minimum": min(wall)},
        "cpu_seconds_minimum": min(cpu for _, cpu in taken),
        "rounds": len(taken),
        "fraction_of_matrix_rate": operations / min(wall) / rate,
    }


def measure_lengths(args: argparse.Namespace, rates: dict[str, float]) -> list[dict]:
    device, c = torch.device(args.device), SIZES[args.sizes]
    peaks = measure_memory(args)
    networks = {name: make(name, args.sizes, device) for name in CONTENDERS}
    run(networks["ours"], make_inputs(32, 1, device), True)
    rows = []
    for n in args.lengths:
        row: dict = {"length": n, "error_angstrom": check_agreement(networks, n, device)}
        for backward in (False, True):
            fits = {k: v for k, v in networks.items() if (k, n, backward) in peaks}
            taken = time_in_turns(fits, n, backward, device, args.budget)
            results = {}
            for name in fits:
                work = sum(operations(c, n, textbook=name == "textbook")) * (3 if backward else 1)
                rate = rates["bfloat16" if name == "ours_bf16" else "float32"]
                results[name] = summarise(taken[name], work, rate)
                results[name]["peak_extra_mib"] = round(peaks[name, n, backward] / 2**20, 1)
            for name in set(fits) - {"textbook"} if "textbook" in fits else ():
                pairs = zip(taken["textbook"], taken[name], strict=True)
                results[name]["speed_up"] = statistics.median(a[0] / b[0] for a, b in pairs)
                results[name]["speed_up_of_cpu_minima"] = (
                    results["textbook"]["cpu_seconds_minimum"]
                    / results[name]["cpu_seconds_minimum"]
                )
                known = max(1, peaks["textbook", n, backward])
                results[name]["memory_ratio"] = peaks[name, n, backward] / known
            row["forward_backward" if backward else "forward"] = results
        rows.append(row)
    return rows


def measure_gpu(args: argparse.Namespace, rates: dict[str, float], deadline: float) -> dict:
    """Compiled as CUDA graphs, bf16 edges: time per call of one chain, and best throughput."""
    device, c = torch.device(args.device), SIZES[args.sizes]
    pairs, rest = operations(c, GPU_LENGTH, textbook=False)
    network = make("ours_bf16", args.sizes, device)
    network.compile(mode="reduce-overhead", dynamic=False)
    rows = []
    for batch in (1, 4, 16, 64):
        if time.monotonic() > deadline:
            break
        call = make_inputs(GPU_LENGTH, batch, device)
        compiling = sum(clock(device, run, network, call, False)[0] for _ in range(3))
        taken = [clock(device, run, network, call, False)[0] for _ in range(20)]
        # Every pass over the edges: read by attention, then read and written by the update.
        traffic = batch * GPU_LENGTH**2 * c.c_z * 2 * (1 + c.blocks + 2 * (c.blocks - 1))
        arithmetic = batch * (pairs / rates["bfloat16"] + rest / rates["float32"])
        floor = max(arithmetic, traffic / rates["copy_bytes"])
        rows.append(
            {
                "batch": batch,
                "ms_per_call": {
                    "median": 1e3 * statistics.median(taken),
                    "minimum": 1e3 * min(taken),
                },
                "chains_per_second": batch / statistics.median(taken),
                "floor_ms": 1e3 * floor,
                "fraction_of_floor": floor / statistics.median(taken),
                "compile_seconds": compiling,
            }
        )
    best = max(rows, key=lambda row: row["chains_per_second"])
    return {"length": GPU_LENGTH, "batches": rows, "best_batch": best["batch"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", choices=SIZES, default="released")
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--budget", type=float, default=15.0, help="seconds per length and pass")
    parser.add_argument("--limit", type=float, default=420.0, help="no compilation starts later")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.lengths = sorted(args.lengths)
    if args.child:
        print(json.dumps(peak_by_length(args.child[0], args.child[1] == "1", args)))
        return
    deadline = time.monotonic() + args.limit
    device = torch.device(args.device)
    rates = {str(d)[6:]: matrix_rate(d, device) for d in (torch.float32, torch.bfloat16)}
    results = {
        "environment": environment(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "child")},
        "aims": AIMS,
    }
    if device.type == "cuda":
        rates["copy_bytes"] = copy_rate(device)
        results["compiled"] = measure_gpu(args, rates, deadline)
    results["rates_per_second"] = rates
    results["lengths"] = measure_lengths(args, rates)
    text = json.dumps(results, indent=1)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
