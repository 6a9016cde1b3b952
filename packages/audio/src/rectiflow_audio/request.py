"""What is asked of a separation, checked and with its queries encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from rectiflow_audio.io.errors import AudioFileError
from rectiflow_audio.waveform import Vocoding, Waveform

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEmbedding
    from rectiflow.solvers import Solver

    from rectiflow_audio.candidates import Pick

_MOST_CHANNELS = 64  # of a sound with fewer samples than channels, which is one turned round

CANCELLED = 1e-3
"""Share of the channels' power that their mean must hold."""

SHORTEST = 0.1
"""Seconds; shorter sounds are refused."""

Channels = Literal["each", "mid"]
"""Separate every channel, or their mean, whose mask is then applied to each."""


@dataclass(frozen=True)
class Request:
    """What is asked of every window.

    Attributes are the arguments of :meth:`SeparationPipeline.__call__`, resolved.
    """

    queries: list[str]
    context: TextEmbedding
    negative: TextEmbedding
    steps: int
    solver: Solver
    guidance: float
    candidates: int
    pick: Pick
    seed: int
    posterior_sample: bool
    waveform: Waveform
    residual: bool
    consistent: bool
    channels: Channels


def check_waveform(
    waveform: Waveform, *, has_vocoder: bool, consistent: bool, channels: Channels, sources: int
) -> None:
    """Refuse a way to make waves that the weights or the other arguments do not allow.

    ``sources`` counts the residual, if there is one.
    """
    if isinstance(waveform, Vocoding) and not has_vocoder:
        raise ValueError(
            "these weights have no vocoder, got waveform=Vocoding(); expected Masking(), or "
            "weights that have one, such as the authors'."
        )
    if consistent and not waveform.keeps_phase:
        raise ValueError(
            "estimates can only be made to sum to the mixture where they keep its phase, got "
            f"{waveform!r}; expected Masking()."
        )
    if channels == "mid" and not waveform.keeps_phase:
        raise ValueError(
            f"the mean channel's mask is applied to each channel, got {waveform!r}, which "
            "makes no mask; expected Masking(), or channels='each'."
        )
    if consistent and sources < 2:
        raise ValueError(
            "one estimate that sums to the mixture is the mixture, got consistent=True and a "
            "single query; expected another query, or residual=True."
        )


def check_mixture(wave: Tensor, sample_rate: int) -> None:
    """Refuse a mixture that cannot be separated."""
    if wave.ndim != 2 or not len(wave) or len(wave) > max(_MOST_CHANNELS, wave.shape[-1]):
        raise ValueError(
            f"mixture must have shape (channels, n) or (n,), got {tuple(wave.shape)}. Channels "
            "come first: pass mixture.T."
        )
    if not wave.is_floating_point():
        raise ValueError(
            f"mixture must hold floats, got {str(wave.dtype).removeprefix('torch.')}; expected "
            "full scale ±1. Divide whole numbers of 16 bits by 32768."
        )
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}; expected Hz.")
    if wave.shape[-1] < SHORTEST * sample_rate:
        raise ValueError(
            f"mixture is too short, got {wave.shape[-1] / sample_rate:.3f} s; expected at least "
            f"{SHORTEST} s."
        )
    if not bool(torch.isfinite(wave).all()):
        where = int((~torch.isfinite(wave)).any(0).nonzero()[0])
        raise ValueError(
            f"mixture holds NaN or infinity, the first at sample {where}; expected finite numbers. "
            "Repair or cut the recording."
        )


def check_channels(blocks: Iterable[np.ndarray], path: Path | str | None = None) -> None:
    """Refuse to separate the mean of channels that cancel.

    Parameters
    ----------
    blocks : iterable of ndarray, shape (channels, m)
        The sound, in consecutive pieces.
    path : Path, optional
        Where it came from.

    Raises
    ------
    ValueError
        When the mean holds next to none of the channels' power; offsets do not count. Of a file
        it is an AudioFileError.
    """
    count, sums, squares = 0, np.zeros(1), np.zeros(1)
    for block in blocks:
        rows = np.concatenate([block, block.mean(0, keepdims=True)]).astype(np.float64)
        count += rows.shape[1]
        sums, squares = sums + rows.sum(1), squares + np.square(rows).sum(1)
    *each, mean = squares / count - np.square(sums / count)
    own = float(np.mean(each))
    if own <= 0 or mean >= CANCELLED * own:
        return
    found = f"the channels cancel, their mean holds {max(mean, 0) / own:.1g} of their power"
    expected = f"at least {CANCELLED:g} for channels='mid'"
    hint = "Use channels='each', or turn one channel round."
    if path is None:
        raise ValueError(f"{found}; expected {expected}. {hint}")
    raise AudioFileError(path, found, expected, hint)


def check_query(text: str) -> None:
    """Refuse what names no sound."""
    if not text.strip():
        raise ValueError(
            f"a query is empty, got {text!r}; expected words that name a sound, such as "
            "'a dog barks'."
        )
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError(
            f"a query is no text, got {text!r}; expected words in the encoding of the terminal. "
            "Set LC_ALL=C.UTF-8, or write the query in UTF-8."
        )


def check_numbers(steps: int, candidates: int, guidance: float, channels: str) -> None:
    """Refuse numbers out of range."""
    if steps < 1 or candidates < 1:
        raise ValueError(
            f"steps and n_candidates must be at least 1, got {steps} and {candidates}."
        )
    if not guidance >= 0:
        raise ValueError(f"guidance must be at least 0, got {guidance}; expected 1 for none.")
    if channels not in ("each", "mid"):
        raise ValueError(f"channels must be 'each' or 'mid', got {channels!r}.")
