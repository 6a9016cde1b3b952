"""A table of distances of separated sounds to their references."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.evaluation import Evaluation
from torch import Tensor

from rectiflow_audio.frontend import SAMPLE_RATE, LogMel
from rectiflow_audio.masking import apply_mask
from rectiflow_audio.metrics import (
    Gaussian,
    clap_score,
    frechet_distance,
    log_spectral_distance,
    mel_log_spectral_distance,
    sdr,
    si_sdr,
)

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_audio.data.lists import MixtureRow
    from rectiflow_audio.metrics import Clap
    from rectiflow_audio.metrics.frechet import Embedder

Separate = Callable[[Tensor, str], Tensor]
"""From a mixture ``(n,)`` at 16 kHz and a query to the estimate ``(n,)``, in the same level."""

ESTIMATE, MIXTURE, CODEC, IDEAL = "estimate", "mixture", "codec", "ideal mask"
HIGHER_IS_BETTER = ("sdr", "sdri", "si_sdr", "si_sdri", "clap_score", "clap_score_audio")
TOLD = ("name", "system", "query", "label")  # columns that are no metrics


@dataclass(frozen=True)
class Example:
    """A mixture and what is to be found in it.

    Attributes
    ----------
    mixture : Tensor, shape (n,)
        At 16 kHz, in [-1, 1].
    target : Tensor, shape (n,), or None
        As it is in the mixture; None where there is no reference.
    query : str
        What to ask for.
    label : str
        Class for the means by class; empty where there are none.
    name : str
        What the row is called.
    """

    mixture: Float[Tensor, " n"]
    target: Float[Tensor, " n"] | None
    query: str
    label: str = ""
    name: str = ""


@dataclass(frozen=True)
class SeparationEvaluation(Evaluation):
    """Metrics of each estimate and of the set, and what they are to be compared with.

    A row has ``name``, ``system``, ``query``, ``label`` and the metrics. Systems are ``estimate``;
    ``mixture``, the mixture taken for the estimate, what doing nothing scores; ``codec``, the true
    target through autoencoder and vocoder, the best that can come out of them; and if asked
    ``ideal mask``, the best a mask can do.

    The summary has ``count`` of examples and ``systems``; for each of these ``mean`` over examples,
    ``class_mean`` (mean over classes of their means), ``class_median`` (of their medians, as
    published for AudioSet), ``classes`` and, with an embedding, ``fad``.
    """

    def table(self) -> str:
        """Return the means as text: a line per system, then one per class of the estimates."""
        systems = self.summary["systems"]
        means = {name: dict(each["mean"]) for name, each in systems.items()}
        for name, each in systems.items():
            if "fad" in each:
                means[name]["fad"] = each["fad"]
        classes = systems[ESTIMATE]["classes"]
        text = _text_table("system", means)
        return f"{text}\n\n{_text_table('class', classes)}" if len(classes) > 1 else text


def evaluate(
    separate: Separate,
    examples: Iterable[Example],
    *,
    codec: Callable[[Tensor], Tensor] | None = None,
    ideal_mask: bool = False,
    log_mel: LogMel | None = None,
    clap: Clap | None = None,
    embed: Embedder | None = None,
    progress: Callable[[int], None] | None = None,
) -> SeparationEvaluation:
    """Separate each mixture and measure the result.

    Parameters
    ----------
    separate : callable
        From a mixture and a query to the estimate, of the same length and level.
    examples : iterable of Example
        At least one. They are taken one by one, so that a set need not fit into the memory.
    codec : callable, optional
        From a waveform to what autoencoder and vocoder make of it. Distances that know phase are
        hard on generated sound, and only beside this and the mixture do they mean anything.
    ideal_mask : bool, default False
        Also measure the Wiener mask of the true bins, applied to the mixture.
    log_mel : LogMel, optional
        The front end of mel-LSD; the released one if absent.
    clap : Clap, optional
        Adds ``clap_score`` (query) and ``clap_score_audio`` (reference). Required where examples
        have no target.
    embed : callable, optional
        Such as :class:`~rectiflow_audio.metrics.Vggish`; adds ``fad`` of each system, over
        examples that have a target.
    progress : callable, optional
        Called with the number of examples done.

    Raises
    ------
    ValueError
        If there is no example, one has no target and there is no CLAP, or a result has another
        length than the mixture or holds NaN or infinity.

    Notes
    -----
    Metrics: ``sdr``, ``sdri``, ``si_sdr``, ``si_sdri`` in decibel, higher is better; ``lsd`` and
    ``mel_lsd`` in powers of ten, lower is better. Definitions: :mod:`rectiflow_audio.metrics`.
    """
    measure = Measure(separate, codec, ideal_mask, log_mel or LogMel(), clap, embed)
    found = []
    for done, example in enumerate(examples, 1):
        found.append(measure(example, done))
        if progress is not None:
            progress(done)
    return summarise(found)


Found = tuple[list[dict[str, Any]], dict[str, Tensor]]
"""Of one example: a row for each system, and what was embedded of each; targets under no name."""


@dataclass(frozen=True)
class Measure:
    """Measures one example; see :func:`evaluate`."""

    separate: Separate
    codec: Callable[[Tensor], Tensor] | None = None
    ideal_mask: bool = False
    log_mel: LogMel = field(default_factory=LogMel)
    clap: Clap | None = None
    embed: Embedder | None = None

    def __call__(self, example: Example, number: int = 1) -> Found:
        """Separate an example, which is called by its number if it has no name, and measure."""
        name = example.name or f"example_{number}"
        if example.target is None and self.clap is None:
            raise ValueError(
                f"{name} has no target and there is no CLAP to do without, got target=None; "
                "expected one of the two. Pass clap=Clap.load()."
            )
        log_mel = self.log_mel if self.ideal_mask else None
        waves = _systems(self.separate, example, self.codec, log_mel, name)
        told = {"query": example.query, "label": example.label}
        rows = [
            {"name": name, "system": system, **told}
            | _measured(wave, example, self.log_mel, self.clap)
            for system, wave in waves.items()
        ]
        if self.embed is None or example.target is None:
            return rows, {}
        heard = waves | {"": _plain(example.target)}
        return rows, {system: self.embed(wave).cpu() for system, wave in heard.items()}


def summarise(
    found: Sequence[Found], failures: Mapping[str, str] | None = None
) -> SeparationEvaluation:
    """Return the table of what was measured of each example; see :func:`evaluate`."""
    rows = [row for own, _ in found for row in own]
    if not rows:
        raise ValueError("nothing to evaluate, got no example; expected at least one mixture.")
    embedded: dict[str, list[Tensor]] = {}
    for _, own in found:
        for system, value in own.items():
            embedded.setdefault(system, []).append(value)
    systems = _summaries(rows)
    for system, distance in _frechet(embedded).items():
        systems[system]["fad"] = distance
    summary = {"count": len(found), "systems": systems}
    return SeparationEvaluation(rows, summary, dict(failures or {}))


def read_examples(rows: Iterable[MixtureRow], *, snr: float = 0.0) -> Iterator[Example]:
    """Read and mix the rows of a list, one at a time.

    Parameters
    ----------
    rows : iterable of MixtureRow
        Of :mod:`rectiflow_audio.data.lists`.
    snr : float, default 0
        Decibel, for rows of clips whose list tells none.

    Yields
    ------
    Example
        At 16 kHz, all channels averaged, the mixture at peak 0.5 with its target scaled alike.
        Clips that are longer than the target are cut at its end, shorter ones end in silence.

    Raises
    ------
    AudioFileError
        If a file cannot be read.
    """
    from rectiflow_audio.data.mixtures import PEAK, mix

    for row in rows:
        target = None if row.target is None else read_sound(row.target)
        label = ", ".join(row.labels)
        named = row.mixture or row.target
        name = "" if named is None else named.stem
        if row.mixture is not None:
            mixture = read_sound(row.mixture)
            factor = PEAK / (mixture.abs().max() + 1e-8)
            if target is not None:
                target = factor * _fitted(target, len(mixture))
            yield Example(factor * mixture, target, row.query, label, name)
            continue
        if target is None or not row.interferers:
            raise ValueError(
                f"the row of query {row.query!r} has nothing to mix, got target {row.target} and "
                f"{len(row.interferers)} interferers; expected a mixture, or both."
            )
        others = torch.stack([_fitted(read_sound(path), len(target)) for path in row.interferers])
        made = mix(target, others.sum(0), snr if row.snr is None else row.snr)
        yield Example(made.mixture, made.target, row.query, label, name)


def ideal_mask_estimate(
    mixture: Float[Tensor, "*b n"], target: Float[Tensor, "*b n"], log_mel: LogMel
) -> Float[Tensor, "*b n"]:
    r"""Return the mixture under the Wiener mask of the true bins.

    .. math:: |T|^2 / (|T|^2 + |M - T|^2)
    """
    powers = [log_mel.stft(wave).abs().square() for wave in (target, mixture - target)]
    mask = powers[0] / (powers[0] + powers[1] + torch.finfo(powers[0].dtype).tiny)
    return apply_mask(mixture, mask, log_mel)


def _systems(
    separate: Separate,
    example: Example,
    codec: Callable[[Tensor], Tensor] | None,
    log_mel: LogMel | None,
    name: str,
) -> dict[str, Tensor]:
    """Make the waveform of each system."""
    samples = len(example.mixture)
    estimate = separate(example.mixture, example.query)
    found = {
        ESTIMATE: _checked(estimate, samples, f"the estimate of {name}"),
        MIXTURE: _plain(example.mixture),
    }
    if example.target is not None:
        target = _checked(example.target, samples, f"the target of {name}")
        if codec is not None:
            made = codec(example.target)
            found[CODEC] = _checked(made, samples, f"the codec's output for {name}")
        if log_mel is not None:
            found[IDEAL] = ideal_mask_estimate(found[MIXTURE], target, log_mel)
    return found


def _measured(
    wave: Tensor, example: Example, log_mel: LogMel, clap: Clap | None
) -> dict[str, float]:
    """Measure one waveform against the target, and with CLAP against the query."""
    measured: dict[str, float] = {}
    if example.target is not None:
        target, mixture = _plain(example.target), _plain(example.mixture)
        pairs = {"sdr": sdr, "si_sdr": si_sdr}
        for name, ratio in pairs.items():
            score = float(ratio(wave, target))
            measured[name] = score
            measured[f"{name}i"] = score - float(ratio(mixture, target))
        measured["lsd"] = float(log_spectral_distance(wave, target, log_mel))
        measured["mel_lsd"] = float(mel_log_spectral_distance(log_mel(wave), log_mel(target)))
    if clap is not None:
        sound = clap.audio([wave])
        measured["clap_score"] = float(clap_score(clap.text([example.query]), sound))
        if example.target is not None:
            reference = clap.audio([_plain(example.target)])
            measured["clap_score_audio"] = float(clap_score(sound, reference))
    return {name: round(value, 5) for name, value in measured.items()}


def _summaries(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Average the metrics of each system: over all rows, within classes, and over classes."""
    summaries: dict[str, dict[str, Any]] = {}
    for system in dict.fromkeys(row["system"] for row in rows):
        own = [row for row in rows if row["system"] == system]
        labels = dict.fromkeys(row["label"] for row in own if row["label"])
        members = [[row for row in own if row["label"] == label] for label in labels]
        classes = [_averaged(each, statistics.fmean) for each in members]
        medians = [_averaged(each, statistics.median) for each in members]
        summaries[system] = {
            "mean": _averaged(own, statistics.fmean),
            "class_mean": _averaged(classes, statistics.fmean),
            "class_median": _averaged(medians, statistics.fmean),
            "classes": {
                label: {"count": len(each), **means}
                for label, each, means in zip(labels, members, classes, strict=True)
            },
        }
    return summaries


def _averaged(
    rows: Sequence[Mapping[str, Any]], average: Callable[[list[float]], float]
) -> dict[str, float]:
    """Average each metric over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row if name not in TOLD)
    return {name: average([row[name] for row in rows if name in row]) for name in names}


def _frechet(embedded: Mapping[str, list[Tensor]]) -> dict[str, float]:
    """Compare the embeddings of each system with those of the targets, kept under no name."""
    if not embedded:
        return {}
    fitted = {system: Gaussian.of(torch.cat(each)) for system, each in embedded.items()}
    references = fitted.pop("")
    return {system: frechet_distance(each, references) for system, each in fitted.items()}


def _text_table(head: str, lines: Mapping[str, Mapping[str, float]]) -> str:
    """Lay out numbers in columns; an arrow tells which way is better."""
    names = list(dict.fromkeys(name for line in lines.values() for name in line))
    cells = [[head, *(name if name == "count" else f"{name} {_arrow(name)}" for name in names)]]
    for title, line in lines.items():
        cells.append([title, *(_cell(name, line.get(name)) for name in names)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in cells
    )


def _arrow(name: str) -> str:
    return "↑" if name in HIGHER_IS_BETTER else "↓"


def _cell(name: str, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return str(value) if name == "count" else f"{value:.3f}"


def _checked(wave: Tensor, samples: int, what: str) -> Tensor:
    """Refuse a waveform that cannot be compared."""
    if wave.shape != (samples,):
        raise ValueError(
            f"{what} does not fit its mixture, got shape {tuple(wave.shape)}; expected "
            f"({samples},). Return one channel, cut to the length of the mixture."
        )
    if not bool(torch.isfinite(wave).all()):
        raise ValueError(f"{what} holds NaN or infinity; expected finite samples.")
    return _plain(wave)


def _plain(wave: Tensor) -> Tensor:
    return wave.detach().float().cpu()


def read_sound(path: Path | str) -> Float[Tensor, " n"]:
    """Read a sound at 16 kHz, all channels averaged."""
    from rectiflow_audio.frontend import resample
    from rectiflow_audio.io import read_audio

    audio = read_audio(path)
    return resample(torch.from_numpy(audio.mono("mean")).clone(), audio.sample_rate, SAMPLE_RATE)


def _fitted(wave: Float[Tensor, " n"], samples: int) -> Float[Tensor, " m"]:
    """Cut a waveform or fill it up with silence."""
    return torch.nn.functional.pad(wave[:samples], (0, max(0, samples - len(wave))))
