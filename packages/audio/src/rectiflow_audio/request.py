"""What is asked of a separation, checked and with its queries encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from rectiflow_audio.waveform import Vocoding, Waveform

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEmbedding
    from rectiflow.solvers import Solver

    from rectiflow_audio.candidates import Pick

SHORTEST = 0.1
"""Seconds; shorter sounds are refused."""

Channels = Literal["image", "each", "mid"]
"""Separate every channel and give each sound one place between them, or leave it where each
channel has it; or separate the mean, whose mask is then applied to each channel."""


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
    waveform: Waveform, *, has_vocoder: bool, consistent: bool, channels: Channels
) -> None:
    """Refuse a way to make waves that the weights or the other arguments do not allow."""
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


def check_mixture(wave: Tensor, sample_rate: int) -> None:
    """Refuse a mixture that cannot be separated."""
    if wave.ndim != 2:
        raise ValueError(f"mixture must have shape (channels, n) or (n,), got {tuple(wave.shape)}.")
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


def check_numbers(steps: int, candidates: int, guidance: float, channels: str) -> None:
    """Refuse numbers out of range."""
    if steps < 1 or candidates < 1:
        raise ValueError(
            f"steps and n_candidates must be at least 1, got {steps} and {candidates}."
        )
    if not guidance >= 0:
        raise ValueError(f"guidance must be at least 0, got {guidance}; expected 1 for none.")
    if channels not in get_args(Channels):
        raise ValueError(f"channels must be 'image', 'each' or 'mid', got {channels!r}.")
