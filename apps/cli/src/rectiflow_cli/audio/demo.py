"""The audio card: two sounds out of one mixture, by words."""

from __future__ import annotations

import html
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.commands import counter, pick_device

from rectiflow_cli.demo.card import Card, Metric, Request, numbers, settings_list
from rectiflow_cli.demo.page import asset, picture

if TYPE_CHECKING:
    from rectiflow_audio.result import Estimate, SeparationResult

HERE = Path(__file__).parent
SHIPPED = "small_patches"
LONGEST = 30.0  # seconds of a user's sound: the page stays light and the wait short
QUERIES = ("a person is speaking", "rain is falling")
"""What is looked for in a user's sound unless told."""

MIXTURE = "sounds/mixture.wav"

CREDIT = (
    "A dog in the rain, with the same power, two recordings that no training has heard: "
    '"Chihuahua Barks" by Mewsel and "1 Minute Rain (Medium)" by yzhamua, both CC0 1.0, from '
    "Freesound (208030, 188655) by way of ESC-10 (K. J. Piczak)."
)
"""What the demo's own mixture is made of."""


METRICS = (
    Metric(
        "energy",
        "Energy",
        "{:.0%}",
        "Share of the estimate in the mixture's energy. Near 0, nothing was found.",
    ),
    Metric(
        "si_sdr_mixture",
        "SI-SDR before (dB)",
        "{:.1f}",
        "Scale-invariant signal-to-distortion ratio of the mixture to the true sound.",
    ),
    Metric("si_sdr", "SI-SDR after (dB)", "{:.1f}", "The same of the estimate. More is better."),
    Metric(
        "mel_lsd_mixture",
        "Mel-LSD before",
        "{:.2f}",
        "Distance of the mixture's log-mel spectrogram to that of the true sound, in powers of "
        "ten. It does not know phase.",
    ),
    Metric("mel_lsd", "Mel-LSD after", "{:.2f}", "The same of the estimate. Less is better."),
)


@dataclass(frozen=True)
class Source:
    """What is separated: a mixture (channels, n), and the true sounds in it where known."""

    title: str
    samples: np.ndarray
    sample_rate: int
    queries: tuple[str, ...]
    references: tuple[np.ndarray, ...] = ()


def reads(path: Path) -> bool:
    """Say whether a file's name is that of a sound."""
    from rectiflow_audio.io import FORMATS

    return path.suffix.lower() in {*FORMATS, ".aif", ".aiff"}


def card(request: Request) -> Card:
    """Separate a mixture by two queries, measure what came out, and lay everything out."""
    source = _own(request) if request.input is None else _users(request)
    result = _separate(request, source)
    assert result.residual is not None
    metrics = [_measure(source, i, e) for i, e in enumerate(result.estimates)]
    sections, files = _sections(source, result)
    files |= {
        MIXTURE: _wav(source.samples, source.sample_rate),
        "sounds/residual.wav": _wav(result.residual, source.sample_rate),
    }
    settings = {**result.settings, "seconds": round(result.seconds, 2)}
    page = Template(asset("demo.html", HERE)).substitute(
        source=html.escape(source.title),
        steps=result.settings["steps"],
        waveform=_how(result.settings["waveform"]),
        mixture=_player(MIXTURE, "The mixture"),
        queries="\n".join(sections),
        residual=_player("sounds/residual.wav", "Everything but the estimates"),
        numbers=numbers(
            "Query",
            METRICS,
            ((html.escape(e.query), m) for e, m in zip(result.estimates, metrics, strict=True)),
        ),
        settings=settings_list({k: v for k, v in settings.items() if k != "queries"}),
        again=html.escape(_again(request, result)),
    )
    told = {
        "settings": settings,
        "sample_rate": source.sample_rate,
        "mixture": MIXTURE,
        "residual": "sounds/residual.wav",
        "estimates": [
            {"file": _file(i, e), "query": e.query, **m}
            for i, (e, m) in enumerate(zip(result.estimates, metrics, strict=True))
        ],
    }
    return Card("Separated sounds", page, files, told)


def _own(request: Request) -> Source:
    """Mix a dog and rain, recorded each by itself, as loud as each other."""
    from rectiflow_audio.data.mixtures import mix
    from rectiflow_audio.io import read_audio

    dog, rain = (read_audio(HERE / f"{name}.flac") for name in ("dog_bark", "rain"))
    waves = [torch.from_numpy(sound.mono()) for sound in (dog, rain)]
    samples = min(map(len, waves))
    bark, drops = (wave[:samples] - wave[:samples].mean() for wave in waves)
    made = mix(bark, drops, 0.0)
    return Source(
        CREDIT,
        made.mixture[None].numpy(),
        dog.sample_rate,
        request.queries or ("a dog barks", "rain is falling"),
        () if request.queries else (made.target.numpy(), (made.mixture - made.target).numpy()),
    )


def _users(request: Request) -> Source:
    from rectiflow_audio.io import read_audio

    assert request.input is not None
    audio = read_audio(request.input)
    samples = audio.samples[:, : round(LONGEST * audio.sample_rate)]
    cut = samples.shape[1] < audio.samples.shape[1]
    title = f"The first {LONGEST:g} seconds of {request.input.name}." if cut else ""
    return Source(
        title or f"{request.input.name}.",
        samples,
        audio.sample_rate,
        request.queries or QUERIES,
    )


def _separate(request: Request, source: Source) -> SeparationResult:
    from rectiflow_audio.pipeline import SeparationPipeline

    device = pick_device(request.device)
    pipe = SeparationPipeline.from_pretrained(request.weights, device=device)
    with counter("separating sounds", unit="window", quiet=request.quiet) as show:
        return pipe(
            source.samples,
            source.sample_rate,
            source.queries,
            residual=True,
            steps=request.steps,
            seed=request.seed,
            progress=show,
        )


def _measure(source: Source, number: int, estimate: Estimate) -> dict[str, float]:
    """Compare an estimate and the mixture with the true sound, where it is known."""
    from rectiflow_audio.frontend import LogMel
    from rectiflow_audio.metrics import mel_log_spectral_distance, si_sdr

    found = {"energy": estimate.energy}
    if source.references:
        reference = torch.from_numpy(source.references[number])
        log_mel = LogMel()
        for key, samples in (("_mixture", source.samples), ("", estimate.samples)):
            wave = torch.from_numpy(samples.mean(0))
            found[f"si_sdr{key}"] = float(si_sdr(wave, reference))
            found[f"mel_lsd{key}"] = float(
                mel_log_spectral_distance(log_mel(wave), log_mel(reference))
            )
    return {key: round(value, 4) for key, value in found.items()}


def _sections(source: Source, result: SeparationResult) -> tuple[list[str], dict[str, bytes]]:
    """Lay out a part for each query: players and spectrograms."""
    sections: list[str] = []
    files: dict[str, bytes] = {}
    for i, estimate in enumerate(result.estimates):
        query = html.escape(estimate.query)
        files[_file(i, estimate)] = _wav(estimate.samples, source.sample_rate)
        players = [_player(_file(i, estimate), f"Estimate: {estimate.query}")]
        reference = source.references[i] if source.references else None
        if reference is not None:
            truth = f"sounds/reference_{i}.wav"
            files[truth] = _wav(reference[None], source.sample_rate)
            players.append(_player(truth, f"The true sound: {estimate.query}"))
        figure, its_files = picture(
            f"separation_{i}",
            lambda estimate=estimate, reference=reference: _drawn(source, estimate, reference),
            alt=f"Spectrograms of the mixture and of what was found for: {estimate.query}",
            caption="Time to the right, pitch upwards, bright is loud; one scale for all.",
        )
        files |= its_files
        sections.append(
            f"<h3>“{query}”</h3>\n"
            f'<div class="players">\n{chr(10).join(players)}\n</div>\n'
            f'<div class="pictures wide">\n{figure}\n</div>'
        )
    return sections, files


def _drawn(source: Source, estimate: Estimate, reference: np.ndarray | None) -> Any:
    from rectiflow_audio.frontend import SAMPLE_RATE, resample
    from rectiflow_audio.plots import separation_figure

    def wave(samples: np.ndarray) -> torch.Tensor:
        return resample(torch.from_numpy(samples), source.sample_rate, SAMPLE_RATE)

    target = None if reference is None else wave(reference)
    return separation_figure(
        wave(source.samples.mean(0)), wave(estimate.samples.mean(0)), target, query=estimate.query
    )


def _how(waveform: str) -> str:
    """Say how waves were made of spectrograms."""
    if waveform.startswith("Masking"):
        return "The sound is cut out of the mixture with a mask made of the generated spectrogram."
    return "The sound is made anew from the generated spectrogram."


def _player(file: str, label: str) -> str:
    name = html.escape(label)
    return (
        f'<div><p>{name}</p><audio controls preload="metadata" src="{file}" '
        f'aria-label="{name}"></audio></div>'
    )


def _file(number: int, estimate: Estimate) -> str:
    return f"sounds/{number}_{estimate.name}.wav"


def _again(request: Request, result: SeparationResult) -> str:
    """Spell the command that makes the same sounds."""
    words: Sequence[str] = ["rectiflow", "audio", "separate", MIXTURE]
    for estimate in result.estimates:
        words = [*words, "--query", estimate.query]
    told = ["--residual", "--weights", request.weights, "--seed", str(request.seed)]
    return shlex.join([*words, *told, "--steps", str(result.settings["steps"]), "-o", "separated"])


def _wav(samples: np.ndarray, sample_rate: int) -> bytes:
    from rectiflow_audio.io import write_audio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sound.wav"
        write_audio(path, samples, sample_rate)
        return path.read_bytes()
