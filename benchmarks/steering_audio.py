"""Repairs of held-out clips: the damaged input, linear prediction, ours without and with a flow.

One clip of each class of a test split, its first seconds. Clipped: the loudest 3 % of the samples
cut down. A gap: 60 ms missing. A band: everything above 4 kHz missing. LSD is the log-spectral
distance in dB (frames of 32 ms; for a gap, of those that touch it), floor 60 dB below full scale;
SI-SDR is in dB, of the whole. CLIPS is a folder with metadata.csv: file, class, caption, split.

    python benchmarks/steering_audio.py CLIPS --out benchmarks/results/steering_audio.json
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_audio.io import read_audio
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.prediction import linear_prediction
from rectiflow_audio.repair import Band, Clip, Gaps, Repairer

SECONDS, EVALUATIONS = 1.28, 4
GAP = (0.6, 0.66)


def clipped(x):
    """Cut the loudest samples down."""
    level = np.quantile(np.abs(x), 0.97)
    return np.clip(x, -level, level), Clip()


def holed(x, rate=16_000):
    """Take a span out."""
    y = x.copy()
    y[round(GAP[0] * rate) : round(GAP[1] * rate)] = 0
    return y, Gaps((GAP,))


def narrowed(x, rate=16_000):
    """Take everything above 4 kHz out."""
    spectrum, hertz = np.fft.rfft(x), np.fft.rfftfreq(len(x), 1 / rate)
    spectrum[hertz > 4000] = 0
    return np.fft.irfft(spectrum, len(x)), Band(4000.0)


DAMAGE = {"declip": clipped, "inpaint": holed, "bandwidth": narrowed}


def si_sdr(found, truth):
    """Return the scale-invariant ratio of signal to distortion in dB."""
    target = (found @ truth) / (truth @ truth) * truth
    return 10 * np.log10((target @ target) / max((found - target) @ (found - target), 1e-12))


def lsd(found, truth, frames=slice(None)):
    """Return the log-spectral distance in dB."""

    def level(wave):
        told = {"window": torch.hann_window(512), "return_complex": True}
        power = torch.stft(torch.from_numpy(wave).float(), 512, 128, **told).abs().square()
        return 10 * torch.log10(power / 128**2 + 1e-6)

    return (level(found) - level(truth)).square().mean(0).sqrt()[frames].mean().item()


def clips_of(folder, count):
    """Return one clip of each class of the test split, by caption."""
    with (folder / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    first = {row["class"]: row for row in reversed(rows)}
    found = {}
    for name in sorted(first)[:count]:
        wave = read_audio(folder / first[name]["file"]).samples[0].astype(np.float64)
        wave = wave[: round(SECONDS * 16_000)]
        found[name] = first[name]["caption"], 0.9 * wave / max(np.abs(wave).max(), 1e-9)
    return found


def measure(pipe, name, caption, truth):
    """Return SI-SDR and LSD of all ways to repair one clip."""
    heard, damage = DAMAGE[name](truth)
    gap = slice(int(GAP[0] * 125), int(GAP[1] * 125) + 2)
    frames = gap if name == "inpaint" else slice(None)
    made, known = {"input": heard}, damage.known(heard, 16_000)
    if known.any():
        predicted = damage.limit(linear_prediction(heard, known), heard)
        made["linear prediction"] = np.where(known, heard, predicted)
    for label, count in (("ours without the flow", 0), ("ours", EVALUATIONS)):
        made[label] = Repairer(pipe, damage, caption, count)(heard[None], 16_000)[0]
        if not np.array_equal(made[label][known], heard[known]):
            raise RuntimeError(f"samples that were known have changed in {name}")
    return {
        label: [round(si_sdr(x, truth), 2), round(lsd(x, truth, frames), 3)]
        for label, x in made.items()
    }


def summary(rows):
    """Return means and medians over clips."""
    labels = [label for label in rows[0] if label != "clip"]
    found = {"clips": len(rows)}
    for word, over in (("mean", np.mean), ("median", np.median)):
        found[word] = {
            label: dict(
                zip(
                    ("si_sdr", "lsd"),
                    over([row[label] for row in rows], 0).round(3).tolist(),
                    strict=True,
                )
            )
            for label in labels
        }
    return found | {"rows": rows}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--only", nargs="*", choices=tuple(DAMAGE), default=list(DAMAGE))
    parser.add_argument("--out")
    args = parser.parse_args()
    pipe = SeparationPipeline.from_pretrained("small")
    document = {
        "environment": environment(),
        "settings": {"seconds": SECONDS, "evaluations": EVALUATIONS, "weights": "small"},
        "damage": {},
    }
    for name in args.only:
        rows, began = [], time.perf_counter()
        for clip, (caption, truth) in clips_of(args.clips, args.num).items():
            rows.append({"clip": clip} | measure(pipe, name, caption, truth))
            print(json.dumps(rows[-1]), flush=True)
            seconds = round(time.perf_counter() - began, 1)
            document["damage"][name] = summary(rows) | {"seconds": seconds}
            if args.out:
                write_json(args.out, document)
        print(name, json.dumps(document["damage"][name]["mean"]), flush=True)


if __name__ == "__main__":
    main()
