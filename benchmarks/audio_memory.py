"""Memory of a separation of one long recording: at its start, middle and end, and at its peak.

The recording is written and separated piece by piece; what is measured is the resident memory of
this process after a tenth, a half and the end of its windows. The networks are the shipped ones,
or small random ones with ``--tiny``, which need hardly any time: memory that grows with the length
would grow with either.

    python benchmarks/audio_memory.py --out benchmarks/results/audio_memory.json
    python benchmarks/audio_memory.py --tiny --minutes 60
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.conditioning import TextEmbedding
from rectiflow.storage.files import write_json
from rectiflow_audio import (
    SeparationPipeline,
    SeparationSettings,
    SeparationUNet,
    SpectrogramVae,
    UNetConfig,
    VaeConfig,
)
from rectiflow_audio.io import AudioWriter, sound_info

RATE, CHANNELS = 44_100, 2
AIMS = {"peak_mib": 1536.0, "growth_mib": 64.0}
MARKS = {"start": 0.1, "middle": 0.5, "end": 1.0}


class Words:
    """Embeds every text alike."""

    def encode(self, texts: list[str]) -> TextEmbedding:
        """Return one token a text."""
        return TextEmbedding(torch.ones(len(texts), 1, 12), torch.ones(len(texts), 1))

    def null(self, batch: int) -> TextEmbedding:
        """Return one token of zeros."""
        return TextEmbedding(torch.zeros(batch, 1, 12), torch.ones(batch, 1))


def tiny() -> SeparationPipeline:
    """Make the least networks, with windows as long as those of the released ones."""
    torch.manual_seed(0)
    sizes = UNetConfig(4, 4, 16, (1, 2), (False, False), 1, 8, 12, groups=4)
    vae = SpectrogramVae(VaeConfig(8, (1, 1, 1), 1, 4, groups=4))
    settings = SeparationSettings("words", 10.24, 1, posterior_sample=False, has_vocoder=False)
    return SeparationPipeline(SeparationUNet(sizes), vae, text=Words(), settings=settings)


def resident() -> float:
    """Return this process's resident memory in MiB."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("this system does not tell the resident memory; run on Linux.")


def write_recording(path: Path, minutes: float) -> None:
    """Write noise of a slowly changing level, a minute at a time."""
    random = np.random.default_rng(0)
    left = round(minutes * 60 * RATE)
    with AudioWriter(path, RATE, CHANNELS) as writer:
        while left:
            count = min(left, 60 * RATE)
            level = 0.05 + 0.05 * random.random()
            writer.write(level * random.standard_normal((CHANNELS, count), dtype=np.float32))
            left -= count


def measure(pipe: SeparationPipeline, minutes: float, steps: int) -> dict:
    """Separate a recording of a length with its residual, and note the memory on the way."""
    marks: dict[str, float] = {}

    def note(done: int, total: int) -> None:
        for name, share in MARKS.items():
            if name not in marks and done >= share * total:
                marks[name] = round(resident(), 1)

    with tempfile.TemporaryDirectory() as folder:
        source, out, rest = (Path(folder) / f"{name}.wav" for name in ("in", "rain", "rest"))
        write_recording(source, minutes)
        before, started = resident(), time.perf_counter()
        request = pipe.request("rain", residual=True, steps=steps)
        pipe.separate_file(source, request, [out, rest], progress=note)
        seconds = time.perf_counter() - started
        lengths = {sound_info(path).samples for path in (source, out, rest)}
    if len(lengths) != 1:
        raise RuntimeError(f"lengths differ: {lengths}")
    return {
        "minutes": minutes,
        "before_mib": round(before, 1),
        **{f"{name}_mib": value for name, value in marks.items()},
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "growth_mib": round(marks["end"] - marks["start"], 1),
        "seconds": round(seconds, 1),
    }


def main() -> None:
    """Measure, compare with the aims, and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--steps", type=int, default=1, help="of the solver; memory is the same")
    parser.add_argument("--tiny", action="store_true", help="small random networks")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pipe = tiny() if args.tiny else SeparationPipeline.from_pretrained("small")
    found = {
        "networks": "tiny" if args.tiny else "small",
        **measure(pipe, args.minutes, args.steps),
        "aims": AIMS,
        "environment": environment(),
    }
    found["reached"] = all(found[name] <= aim for name, aim in AIMS.items())
    print(json.dumps(found, indent=2))
    if args.out is not None:
        write_json(args.out, found)
    if not found["reached"]:
        raise SystemExit("an aim was missed")


if __name__ == "__main__":
    main()
