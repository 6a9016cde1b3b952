"""Speed and memory of a whole separation by FlowSep's networks, against textbook ones.

Both sides hold the same weights, drawn by a fixed seed, and separate the same 10.24 s of sound by
the same noise; their agreement is checked first. A separation encodes the mixture, flows in Euler
steps with guidance (the textbook calls its UNet twice per step), decodes and vocodes. They are
timed in turns, so that other load on the machine cancels in the ratios. Peak memory is that of a
process of its own for each contender.

    python benchmarks/audio_separation.py --out benchmarks/results/audio_separation.json
    python benchmarks/audio_separation.py --small --budget 20
    python benchmarks/audio_separation.py --device cuda
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from environment import environment
from rectiflow import grids
from rectiflow.guidance import batched_cfg
from rectiflow.integrate import integrate, plan
from rectiflow.solvers import Euler
from rectiflow.storage.files import write_text
from rectiflow_audio.networks import SeparationUNet, SpectrogramVae, UNetConfig, VaeConfig
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig
from reference_flowsep import ReferenceUNet, ReferenceVae, ReferenceVocoder
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

SIZES = {
    "released": (UNetConfig(), VaeConfig(), VocoderConfig()),
    "small": (
        UNetConfig(channels=64, multipliers=(1, 2, 3), attention=(False, True, True)),
        VaeConfig(channels=32),
        VocoderConfig(channels=128),
    ),
}
CONTENDERS = ("textbook", "ours", "ours_bf16")
PARTS = ("encode", "flow", "decode", "vocoder")
AIMS = {"speed_up_whole_cpu": 3.0}
AGREEMENT = 1e-3  # of the two in float32, relative to each part's largest value
TOKENS = 50
SECONDS_PER_FRAME = 0.01
FACTORS = {
    "conv_pre.weight": 0.2,
    "convs2": 0.3,
    "conv_post.weight": 0.15,
}  # keep the wave in range


@dataclass
class Networks:
    """The parts of a separation as functions; ``unet(x, t, cond)`` gives a velocity."""

    encode: Callable[[Tensor], Tensor]
    prepare: Callable[[dict], dict]
    unet: Callable[[Tensor, Tensor, dict], Tensor]
    decode: Callable[[Tensor], Tensor]
    vocoder: Callable[[Tensor], Tensor]
    is_textbook: bool


def randomise(network: nn.Module, seed: int) -> nn.Module:
    """Draw weights that keep the size of what passes; nothing is zero at the start."""
    generator = torch.Generator().manual_seed(seed)
    rates = network.sizes.rates if isinstance(network, BigVgan) else ()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if p.ndim < 2:
                if name.endswith(("alpha", "beta")):
                    p.copy_(0.3 * torch.randn(p.shape, generator=generator))
                continue
            fan = p[0].numel()
            if up := re.fullmatch(r"ups\.(\d+)\.0\.weight", name):
                fan = p.shape[0] * p.shape[2] / rates[int(up[1])]
            factor = next((f for part, f in FACTORS.items() if part in name), 1.0)
            p.normal_(generator=generator).mul_(factor / fan**0.5)
    return network


def make(name: str, sizes: str, device: torch.device, *, compiled: bool = False) -> Networks:
    torch.manual_seed(0)  # biases keep their initial draws
    unet_sizes, vae_sizes, vocoder_sizes = SIZES[sizes]
    unet = randomise(SeparationUNet(unet_sizes), 1)
    vae = randomise(SpectrogramVae(vae_sizes), 2)
    vocoder = randomise(BigVgan(vocoder_sizes), 3)
    if name == "textbook":
        return textbook(unet, vae, vocoder, device)
    dtype = torch.bfloat16 if name == "ours_bf16" else torch.float32
    for network in (unet, vae):
        network.to(device, dtype, memory_format=torch.channels_last).eval()
    vocoder.to(device, dtype).eval()

    def wrap(call: Callable) -> Callable:
        if compiled:
            call = torch.compile(call, mode="reduce-overhead", dynamic=False)
        # A copy, as the next replay of a CUDA graph writes to the same place.
        return lambda x, *rest: call(x.to(dtype), *rest).float().clone()

    return Networks(
        encode=wrap(vae.to_latent),
        prepare=lambda cond: unet.with_text_keys({k: v.to(dtype) for k, v in cond.items()}),
        unet=wrap(unet),
        decode=wrap(vae.from_latent),
        vocoder=wrap(vocoder),
        is_textbook=False,
    )


def textbook(unet: nn.Module, vae: nn.Module, vocoder: nn.Module, device: torch.device) -> Networks:
    ports = [ReferenceUNet(unet.sizes), ReferenceVae(vae.sizes), ReferenceVocoder(vocoder.sizes)]
    sources = [unet.unet, vae.autoencoder, vocoder]
    for port, source in zip(ports, sources, strict=True):
        port.load_state_dict(source.state_dict(), assign=True)
        port.to(device).eval()
    unet_port, vae_port, vocoder_port = ports
    hop = vocoder.sizes.hop
    return Networks(
        encode=vae_port.encode,
        prepare=lambda cond: cond,
        unet=lambda x, t, cond: unet_port(
            x, t, cond["mixture"], cond["context"], cond["context_mask"]
        ),
        decode=vae_port.decode,
        vocoder=lambda log_mel: vocoder_port(log_mel)[:, : hop * log_mel.shape[2]],
        is_textbook=True,
    )


def make_inputs(args: argparse.Namespace, batch: int, device: torch.device) -> dict[str, Tensor]:
    unet, _, vocoder = SIZES[args.sizes]
    generator = torch.Generator().manual_seed(4)

    def draw(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=generator).to(device)

    mask = torch.ones(batch, TOKENS, device=device)
    mask[:, TOKENS // 4 :] = 0
    return {
        "log_mel": 2 * draw(1, args.frames, vocoder.n_mels) - 5,
        "noise": draw(unet.latent_channels, args.frames // 4, vocoder.n_mels // 4),
        "context": draw(TOKENS, unet.context_channels),
        "null": draw(TOKENS, unet.context_channels),
        "mask": mask,
    }


@torch.inference_mode()
def separate(
    networks: Networks, inputs: dict[str, Tensor], steps: int, guidance: float, clock: Clock
) -> dict[str, Tensor]:
    """Separate, with a lap of the clock after each part; return what each part made."""
    z = networks.encode(inputs["log_mel"])
    clock.lap("encode")
    cond, null = (
        networks.prepare({"mixture": z, "context": context, "context_mask": mask})
        for context, mask in (
            (inputs["context"], inputs["mask"]),
            (inputs["null"], torch.ones_like(inputs["mask"])),
        )
    )
    if networks.is_textbook:
        x = euler(networks.unet, cond, null, inputs["noise"], steps, guidance)
    else:
        field = batched_cfg(networks.unet, cond, null, guidance)
        x = integrate(field, inputs["noise"], plan(grids.uniform(steps), Euler()))
    clock.lap("flow")
    log_mel = networks.decode(x)
    clock.lap("decode")
    wave = networks.vocoder(log_mel[:, 0].transpose(1, 2))
    clock.lap("vocoder")
    return {"encode": z, "flow": x, "decode": log_mel, "vocoder": wave}


def euler(unet: Callable, cond: dict, null: dict, x: Tensor, steps: int, guidance: float) -> Tensor:
    for i in range(steps):
        t = x.new_full((len(x),), i / steps)
        v = unet(x, t, cond)
        if guidance != 1:
            v_null = unet(x, t, null)
            v = v_null + guidance * (v - v_null)
        x = x + v / steps
    return x


class Clock:
    """Collects seconds, on the wall and of the processors, and growth of memory between laps."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self.bytes: dict[str, int] = {}
        self.start()

    def lap(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = time.perf_counter() - self._begin
        self.cpu_seconds[name] = time.process_time() - self._cpu_begin
        self.bytes[name] = peak_so_far(self.device) - self._before
        self.start()

    def start(self) -> None:
        self._before = forget_peak(self.device)
        self._begin, self._cpu_begin = time.perf_counter(), time.process_time()


def forget_peak(device: torch.device) -> int:
    """Start measuring the peak anew, where the system can; return what is in use."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    # Where this is not allowed, the peak since the start of the process is what counts.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return peak_so_far(device)


def peak_so_far(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * (int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def best_seconds(device: torch.device, work: Callable, *inputs: object, rounds: int = 8) -> float:
    taken = []
    for _ in range(rounds):
        clock = Clock(device)
        work(*inputs)
        clock.lap("work")
        taken.append(clock.seconds["work"])
    return min(taken)


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Best of several products of large square matrices, in operations per second."""
    size = 8192 if device.type == "cuda" else 2048
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    return 2 * size**3 / best_seconds(device, torch.matmul, a, b)


def operations(args: argparse.Namespace) -> dict[str, float]:
    """Operations of each part for one sound, its flow with one call of the UNet per step."""
    device, found = torch.device("meta"), {}
    with device:
        unet, vae, vocoder = SIZES[args.sizes]
        ports = ReferenceUNet(unet), ReferenceVae(vae), ReferenceVocoder(vocoder)
        latent = torch.zeros(1, unet.latent_channels, args.frames // 4, vocoder.n_mels // 4)
        context = torch.zeros(1, TOKENS, unet.context_channels), torch.ones(1, TOKENS)
        log_mel = torch.zeros(1, 1, args.frames, vocoder.n_mels)
    calls = {
        "encode": lambda: ports[1].encode(log_mel),
        "flow": lambda: ports[0](latent, torch.zeros(1, device=device), latent, *context),
        "decode": lambda: ports[1].decode(latent),
        "vocoder": lambda: ports[2](log_mel[:, 0].transpose(1, 2)),
    }
    for name, call in calls.items():
        with FlopCounterMode(display=False) as counter:
            call()
        found[name] = float(counter.get_total_flops()) * (args.steps if name == "flow" else 1)
    return found


def check_agreement(contenders: dict[str, Networks], args: argparse.Namespace) -> dict:
    """Largest relative differences of each part's outputs; those in float32 must agree."""
    device = torch.device(args.device)
    inputs = make_inputs(args, 1, device)
    made = {
        name: separate(networks, inputs, 2, args.guidance, Clock(device))
        for name, networks in contenders.items()
    }
    apart: dict = {part: {} for part in PARTS}
    for part in PARTS:
        exact = made["textbook"][part]
        for name in CONTENDERS[1:]:
            difference = made[name][part] - exact
            apart[part][name] = {
                "max": (difference.abs().max() / exact.abs().max()).item(),
                "rms": (difference.norm() / exact.norm()).item(),
            }
        if not apart[part]["ours"]["max"] < AGREEMENT:
            raise SystemExit(f"the networks disagree in {part}: {apart[part]['ours']}")
    return apart


def time_in_turns(contenders: dict[str, Networks], args: argparse.Namespace) -> dict[str, list]:
    """Time all contenders once per round, with and without guidance, for about the budget."""
    device = torch.device(args.device)
    inputs = make_inputs(args, 1, device)
    taken: dict[str, list] = {name: [] for name in contenders}
    begin = time.perf_counter()
    for turn in range(args.rounds):
        for name in list(contenders)[:: 1 if turn % 2 else -1]:
            clock = Clock(device)
            separate(contenders[name], inputs, args.steps, args.guidance, clock)
            one_call(contenders[name], inputs)
            clock.lap("call")
            both = (
                with_totals(clock.seconds, args.steps),
                with_totals(clock.cpu_seconds, args.steps),
            )
            taken[name].append(both)
        if (time.perf_counter() - begin) * (turn + 2) / (turn + 1) > args.budget:
            break
    return taken


def with_totals(laps: dict[str, float], steps: int) -> dict[str, float]:
    """Add the whole separation, with guidance as timed and without it by its parts."""
    rest = sum(laps[part] for part in PARTS if part != "flow")
    return {
        **laps,
        "whole_guided": rest + laps["flow"],
        "whole": rest + steps * laps["call"],
    }


@torch.inference_mode()
def one_call(networks: Networks, inputs: dict[str, Tensor]) -> Tensor:
    """Call the UNet once, without guidance; the text's keys are made as in a first step."""
    x = inputs["noise"]
    given = {"mixture": x, "context": inputs["context"], "context_mask": inputs["mask"]}
    return networks.unet(x, x.new_zeros(len(x)), networks.prepare(given))


def measure_memory(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Peak MiB of each part beyond what was in use before it, by contender."""
    peaks = {}
    for name in CONTENDERS:
        words = [sys.executable, __file__, "--child", name, "--device", args.device]
        words += ["--threads", str(args.threads), "--frames", str(args.frames)]
        words += ["--small"] if args.small else []
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        peaks[name] = json.loads(done.stdout)
    return peaks


def peaks_of(name: str, args: argparse.Namespace) -> dict[str, float]:
    device = torch.device(args.device)
    networks, clock = make(name, args.sizes, device), Clock(device)
    weights = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    tiny = argparse.Namespace(**{**vars(args), "frames": 32})
    separate(networks, make_inputs(tiny, 1, device), 1, args.guidance, clock)  # loads libraries
    clock = Clock(device)
    separate(networks, make_inputs(args, 1, device), 1, args.guidance, clock)
    found = {part: round(size / 2**20, 1) for part, size in clock.bytes.items()}
    return found | ({"weights": round(weights / 2**20, 1)} if weights else {})


def summarise(contenders: dict[str, Networks], args: argparse.Namespace, rates: dict) -> dict:
    work, memory = operations(args), measure_memory(args)
    work |= {"call": work["flow"] / args.steps}
    work |= {"whole": sum(work[part] for part in PARTS)}
    work["whole_guided"] = work["whole"] + work["flow"]
    work["flow"] *= 2 if args.guidance != 1 else 1
    taken = time_in_turns(contenders, args)
    rows: dict = {}
    for name, rounds in taken.items():
        rate = rates["bfloat16" if name == "ours_bf16" else "float32"]
        rows[name] = {}
        for part in (*PARTS, "call", "whole", "whole_guided"):
            known = [wall[part] for wall, _ in taken["textbook"]]
            known_cpu = [cpu[part] for _, cpu in taken["textbook"]]
            wall, cpu = [wall[part] for wall, _ in rounds], [cpu[part] for _, cpu in rounds]
            rows[name][part] = {
                "seconds": {"median": statistics.median(wall), "minimum": min(wall)},
                "cpu_seconds_minimum": min(cpu),
                "fraction_of_matrix_rate": work[part] / min(wall) / rate,
                "speed_up": statistics.median(a / b for a, b in zip(known, wall, strict=True)),
                "speed_up_of_minima": min(known) / min(wall),
                "speed_up_of_cpu_minima": min(known_cpu) / min(cpu),
            }
            if part in memory[name]:
                own, other = memory[name][part], max(memory["textbook"][part], 0.1)
                rows[name][part] |= {"peak_extra_mib": own, "memory_ratio": own / other}
        rows[name]["rounds"] = len(rounds)
    return {"operations": work, "contenders": rows}


def measure_compiled(args: argparse.Namespace, rates: dict, deadline: float) -> dict:
    """Time bf16 networks compiled to CUDA graphs: latency of one sound, and best throughput."""
    device, work = torch.device(args.device), sum(operations(args).values())
    networks, rows = make("ours_bf16", args.sizes, device, compiled=True), []
    length = args.frames * SECONDS_PER_FRAME
    for batch in args.batches:
        if time.monotonic() > deadline:
            break
        inputs = make_inputs(args, batch, device)
        compiling = Clock(device)
        for _ in range(3):
            separate(networks, inputs, args.steps, 1.0, Clock(device))
        compiling.lap("all")
        taken = []
        for _ in range(10):
            clock = Clock(device)
            separate(networks, inputs, args.steps, 1.0, clock)
            taken.append(clock.seconds)
        median = statistics.median(sum(each.values()) for each in taken)
        rows.append(
            {
                "batch": batch,
                "seconds": {"median": median, "minimum": min(sum(t.values()) for t in taken)},
                "parts": {part: statistics.median(t[part] for t in taken) for part in PARTS},
                "hours_of_audio_per_hour": batch * length / median,
                "fraction_of_floor": batch * work / rates["bfloat16"] / median,
                "compile_seconds": compiling.seconds["all"],
            }
        )
    best = max(rows, key=lambda row: row["hours_of_audio_per_hour"], default=None)
    return {"guidance": 1.0, "batches": rows, "best_batch": best and best["batch"]}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="small networks")
    parser.add_argument("--frames", type=int, default=1024, help="mel frames, a multiple of 32")
    parser.add_argument("--steps", type=int, default=10, help="Euler steps")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5, help="at most")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds for all rounds")
    parser.add_argument("--limit", type=float, default=300.0, help="no compilation starts later")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.sizes = "small" if args.small else "released"
    torch.set_num_threads(args.threads)
    return args


def main() -> None:
    args = arguments()
    if args.child:
        print(json.dumps(peaks_of(args.child, args)))
        return
    begin, device = time.monotonic(), torch.device(args.device)
    rates = {str(d)[6:]: matrix_rate(d, device) for d in (torch.float32, torch.bfloat16)}
    results = {
        "environment": environment(),
        "settings": {k: v for k, v in vars(args).items() if k not in ("out", "child")},
        "aims": AIMS,
        "rates_per_second": rates,
    }
    if device.type == "cuda":
        results["compiled"] = measure_compiled(args, rates, begin + args.limit)
    contenders = {name: make(name, args.sizes, device) for name in CONTENDERS}
    results["difference_from_textbook"] = check_agreement(contenders, args)
    results |= summarise(contenders, args, rates)
    results["seconds_in_all"] = time.monotonic() - begin
    text = json.dumps(results, indent=1)
    print(text)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
