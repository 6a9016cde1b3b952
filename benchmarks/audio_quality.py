"""How well sounds are separated, at several numbers of steps, against masks and doing nothing.

    python benchmarks/audio_quality.py --data PREPARED --out FILE.json

``--data`` is a folder made by ``rectiflow audio prepare``; every clip of its test split is mixed
once with a clip of another class. ``--mask`` names weights of the discriminative baseline, made by
``benchmarks/audio_mask_network.py``. ``--pictures DIR`` draws six cases. What weights are best
used with is looked for on another split:

    python benchmarks/audio_quality.py --data PREPARED --split valid --steps 2 --only-mean \\
        --weights small_patches --guidance 1.25 --exponent 0.85 --out FILE.json
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any, get_args

import torch
from audio_mask_network import load_mask_network, mask_estimate
from environment import environment
from rectiflow.conditioning import TextEncoder
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_audio import LogMel, Masking, Mean, SeparationPipeline
from rectiflow_audio.data.augment import fit
from rectiflow_audio.data.dataset import Clips, MixtureDataset
from rectiflow_audio.data.mixtures import MixtureRules, mix
from rectiflow_audio.data.prepared import PreparedSounds
from rectiflow_audio.evaluation import ESTIMATE, Evaluation, Example, evaluate
from rectiflow_audio.frontend import SAMPLE_RATE
from rectiflow_audio.metrics import si_sdr
from rectiflow_audio.plots import separation_figure
from rectiflow_audio.request import Channels
from rectiflow_audio.waveform import Generated
from torch import Tensor

AMBIGUOUS = {"drum_loop": ("kick_drum", "snare_drum", "hi_hat", "tabla")}
AIMS = {
    "si_sdri": 8.0,
    "mel_lsd_reduction": 0.45,
    "paraphrase_loss": 1.0,
    "two_steps_loss": 0.3,
    "hard": 4.0,
    "absent": {"energy": 0.05, "share": 0.9},
}

PARAPHRASES = {
    "chainsaw": "a power saw at work",
    "clock_tick": "tick-tock of a timepiece",
    "crackling_fire": "a campfire burning",
    "crying_baby": "an infant wailing",
    "dog_bark": "hound barking",
    "drum_loop": "a rhythm track on the drums",
    "helicopter": "a chopper in the air",
    "hi_hat": "metallic ticks of a drum kit",
    "kick_drum": "a bass drum being hit",
    "rain": "a heavy downpour",
    "rooster": "a cockerel at dawn",
    "sea_waves": "surf at the shore",
    "snare_drum": "cracks of a drum with wires",
    "sneezing": "achoo, somebody has a cold",
    "speech": "a voice says some numbers",
    "tabla": "an Indian hand drum",
}
"""Wordings that no training caption has."""

SCENE = ((1.0, 0.3), (0.4, 1.0))
"""Levels left and right of target and interferer in the stereo scenes."""

FRAME = 1600
"""Samples over which the level between channels is taken, 0.1 s."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", nargs="+", default=["small", "small_patches"])
    parser.add_argument("--only-mean", action="store_true", help="no class, probe or picture")
    parser.add_argument("--data", type=Path, required=True, help="prepared sounds")
    parser.add_argument("--split", default="test")
    parser.add_argument("--mask", type=Path, help="weights of the discriminative baseline")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5, 10])
    parser.add_argument("--guidance", type=float, help="instead of what the weights say")
    parser.add_argument("--exponent", type=float, help="of the masks, instead of the weights' own")
    parser.add_argument("--seconds", type=float, default=2.56)
    parser.add_argument("--snr", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


class NoTexts(dict):
    """Stands for embeddings, which the pipeline makes itself."""

    def __contains__(self, text: object) -> bool:
        return True

    def __missing__(self, text: str) -> Any:
        from rectiflow_audio.data.texts import Context

        return Context(torch.zeros(1, 1), torch.ones(1))


@dataclass(frozen=True)
class Mixed(Example):
    """An example that also says which class the other sound is of."""

    interferer: str = ""


def examples(args: argparse.Namespace) -> list[Mixed]:
    """Mix every clip of the split with one of another class."""
    clips: Clips = PreparedSounds(args.data).clips(args.split)
    rules = MixtureRules((args.snr, args.snr), AMBIGUOUS)
    mixed = MixtureDataset(clips, NoTexts(), args.seconds, rules=rules, loop=0.0, seed=args.seed)
    made = []
    for row in range(len(mixed)):
        item, label = mixed[row], clips.labels[row]
        name = f"{label}_{row:03d}"
        other = clips.labels[mixed.partner(row)]
        made.append(Mixed(item["mixture"], item["target"], item["caption"], label, name, other))
    return made


def separate_by(pipe: SeparationPipeline, **options: Any) -> Callable[[Tensor, str], Tensor]:
    def separate(mixture: Tensor, query: str) -> Tensor:
        found = pipe(mixture, SAMPLE_RATE, query, **options)
        return torch.from_numpy(found.estimates[0].samples[0])

    return separate


def codec_of(pipe: SeparationPipeline) -> Callable[[Tensor], Tensor]:
    """Return the round trip of a true target, its wave by masking a mixture of itself and noise.

    Without a vocoder the codec's part is its log-mel: the phase is the target's own.
    """
    log_mel = LogMel()

    def codec(target: Tensor) -> Tensor:
        mel = log_mel(target)[None, None]
        mel = mel[:, :, : mel.shape[2] // 32 * 32]
        with torch.no_grad():
            through = pipe.vae.decode(pipe.vae.encode(mel).mean)[:, 0]
        generator = torch.Generator().manual_seed(0)
        one = Generated(through, mel[:, 0], target[None], log_mel, None, generator)
        return Masking(1.0, 0.0)(one)[0]

    return codec


def rounded(evaluation: Evaluation, system: str = ESTIMATE) -> dict[str, Any]:
    """Return the means of one system, and of its classes."""
    shown = ("si_sdri", "sdri", "mel_lsd", "lsd")
    found = evaluation.summary["systems"][system]
    classes = {
        label: {name: round(each[name], 3) for name in shown[::2]} | {"count": each["count"]}
        for label, each in sorted(found["classes"].items())
    }
    return {name: round(found["mean"][name], 3) for name in shown} | {"classes": classes}


def measure(args: argparse.Namespace, weights: str, mixed: list[Mixed]) -> dict[str, Any]:
    """Evaluate one checkpoint at every number of steps."""
    pipe = SeparationPipeline.from_pretrained(weights)
    given = {"guidance": args.guidance, "mask_exponent": args.exponent}
    told = {name: value for name, value in given.items() if value is not None}
    pipe.settings = replace(pipe.settings, **told)
    codec, rows = codec_of(pipe), {}
    for steps in args.steps:
        begin = time.process_time()
        separate = separate_by(pipe, steps=steps, seed=args.seed)
        evaluation = evaluate(separate, mixed, codec=codec, ideal_mask=True)
        spent = (time.process_time() - begin) / len(mixed)
        rows[str(steps)] = rounded(evaluation) | {"cpu_seconds_per_clip": round(spent, 3)}
        print(weights, steps, rows[str(steps)]["si_sdri"], rows[str(steps)]["mel_lsd"], flush=True)
    found = {
        "guidance": pipe.settings.guidance,
        "mask_exponent": pipe.settings.mask_exponent,
        "steps": rows,
        "references": {
            name: rounded(evaluation, name) for name in ("mixture", "codec", "ideal mask")
        },
    }
    if args.only_mean:
        return found
    separate = separate_by(pipe, seed=args.seed)
    asked = [replace(e, query=PARAPHRASES.get(e.label, e.query)) for e in mixed]
    averaged = separate_by(pipe, seed=args.seed, n_candidates=8, pick=Mean())
    return found | {
        "own_steps": pipe.settings.steps,
        "paraphrases": rounded(evaluate(separate, asked, codec=codec)),
        "mean_of_8": rounded(evaluate(averaged, mixed, codec=codec)),
        "speech_over_sea_waves": rounded(
            evaluate(separate, over(args, "speech", "sea_waves"), codec=codec)
        ),
        "absent": absent(pipe, args, mixed),
        "stereo": stereo(pipe, args, mixed),
    }


def over(args: argparse.Namespace, label: str, interferer: str) -> list[Example]:
    """Mix every clip of one class with clips of another in turn."""
    clips: Clips = PreparedSounds(args.data).clips(args.split)
    length = round(args.seconds * SAMPLE_RATE)
    rows = {
        name: [row for row, told in enumerate(clips.labels) if told == name]
        for name in (label, interferer)
    }
    made = []
    for i, row in enumerate(rows[label]):
        other = rows[interferer][i % len(rows[interferer])]
        waves = [
            fit(clips.waves[r], length, torch.Generator().manual_seed(i)) for r in (row, other)
        ]
        mixture = mix(*(wave - wave.mean() for wave in waves), args.snr)
        made.append(
            Example(mixture.mixture, mixture.target, clips.captions[row], label, f"{label}_{i}")
        )
    return made


def absent(
    pipe: SeparationPipeline, args: argparse.Namespace, mixed: list[Mixed]
) -> dict[str, float]:
    """Ask each mixture for a sound that is not in it; report the energy of what comes out."""
    energies = []
    for row, example in enumerate(mixed):
        here = {example.label, example.interferer}
        here |= {name for label in here for name in AMBIGUOUS.get(label, ())}
        here |= {label for label, names in AMBIGUOUS.items() if here & set(names)}
        others = sorted({e.label for e in mixed} - here)
        generator = counter_generator("absent", args.seed, row)
        label = others[int(torch.randint(len(others), (), generator=generator))]
        query = next(e.query for e in mixed if e.label == label)
        found = pipe(example.mixture, SAMPLE_RATE, query, seed=args.seed)
        energies.append(found.estimates[0].energy)
    most = AIMS["absent"]["energy"]
    return {
        "share": round(fmean(energy <= most for energy in energies), 3),
        "mean_energy": round(fmean(energies), 4),
        "median_energy": round(median(energies), 4),
    }


def stereo(
    pipe: SeparationPipeline, args: argparse.Namespace, mixed: list[Mixed]
) -> dict[str, dict[str, float]]:
    """Put target and interferer in two places; report separation and how far the target wanders.

    ``wander_db`` is the range, without a tenth at each end, of the error of the level between the
    channels, over the frames in which the target is within 20 dB of its loudest.
    """
    found: dict[str, dict[str, float]] = {}
    for channels in get_args(Channels):
        gains, ranges = [], []
        for example in mixed[::2]:
            sounds = (example.target, example.mixture - example.target)
            target, other = (
                torch.tensor(levels)[:, None] * sound
                for levels, sound in zip(SCENE, sounds, strict=True)
            )
            mixture = target + other
            made = pipe(mixture, SAMPLE_RATE, example.query, seed=args.seed, channels=channels)
            estimate = torch.from_numpy(made.estimates[0].samples)
            scores = [si_sdr(wave.flatten(), target.flatten()) for wave in (estimate, mixture)]
            gains.append(float(scores[0] - scores[1]))
            heard, level = (
                w.unfold(-1, FRAME, FRAME).square().mean(-1) for w in (target, estimate)
            )
            loud = heard.sum(0) > 0.01 * heard.sum(0).max()
            between = 10 * (level + 1e-12).log10()[:, loud].diff(dim=0)[0]
            low, high = between.quantile(torch.tensor([0.1, 0.9]))
            ranges.append(float(high - low))
        found[channels] = {"si_sdri": round(fmean(gains), 3), "wander_db": round(fmean(ranges), 3)}
    return found


def draw(args: argparse.Namespace, weights: str, mixed: list[Mixed]) -> None:
    """Draw mixture, estimate and target of the first case of six classes."""
    pipe = SeparationPipeline.from_pretrained(weights)
    args.pictures.mkdir(parents=True, exist_ok=True)
    first = {example.label: example for example in reversed(mixed)}
    for label in ("dog_bark", "rain", "crying_baby", "hi_hat", "speech", "rooster"):
        if label not in first:
            continue
        example = first[label]
        found = separate_by(pipe, seed=args.seed)(example.mixture, example.query)
        figure = separation_figure(example.mixture, found, example.target, query=example.query)
        figure.savefig(args.pictures / f"audio-small-{label.replace('_', '-')}.png", dpi=70)


def main() -> None:
    args = parse()
    torch.set_grad_enabled(False)
    mixed = examples(args)
    report: dict[str, Any] = {
        "environment": environment(),
        "settings": {
            "split": args.split,
            "mixtures": len(mixed),
            "seconds": args.seconds,
            "snr_db": args.snr,
            "seed": args.seed,
        },
        "aims": AIMS,
        "weights": {name: measure(args, name, mixed) for name in args.weights},
    }
    if args.mask:
        network, step = load_mask_network(args.mask)
        estimate = mask_estimate(network, TextEncoder.load())
        found = evaluate(estimate, mixed, codec=lambda wave: wave)
        report["mask_network"] = {"training_steps": step} | rounded(found)
        print("mask network", report["mask_network"]["si_sdri"], flush=True)
    if args.pictures:
        draw(args, args.weights[0], mixed)
    write_json(args.out, report, indent=1)


if __name__ == "__main__":
    main()
