"""What is asked of a separation, checked and with its queries encoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from rectiflow.grids import uniform
from rectiflow.integrate import plan
from rectiflow.solvers import Euler
from torch import Tensor

from rectiflow_audio.candidates import Medoid
from rectiflow_audio.io.errors import AudioFileError
from rectiflow_audio.settings import SeparationSettings
from rectiflow_audio.waveform import Masking, Vocoding, Waveform

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEmbedding
    from rectiflow.guidance import RectifiedCFG
    from rectiflow.plans import Plan
    from rectiflow.solvers import Solver
    from rectiflow.spacing import Spacing

    from rectiflow_audio.candidates import Pick

_MOST_CHANNELS = 64  # of a sound with fewer samples than channels, which is one turned round

CANCELLED = 1e-3
"""Share of the channels' power that their mean must hold."""

SHORTEST = 0.1
"""Seconds; shorter sounds are refused."""

Channels = Literal["image", "each", "mid"]
"""Separate every channel and give each sound one place between them, or leave it where each
channel has it; or separate the mean, whose mask is then applied to each channel."""


@dataclass(frozen=True)
class Options:
    """How a mixture is separated, beside its queries.

    Parameters
    ----------
    residual : bool
        Also return everything but the estimates, cut out of the mixture by masks. What several
        estimates claim they then share, so that nothing is taken out twice.
    steps : int, optional
        Steps of the solver; the checkpoint's own if absent.
    solver : Solver, optional
        Euler's method, as published, if absent. Any core solver will do.
    grid : Spacing, optional
        Where the steps lie; equal ones if absent.
    guidance : float, optional
        Weight of classifier-free guidance; 1 is none, as published. The checkpoint's own if
        absent.
    rule : RectifiedCFG, optional
        How it acts, if not as plain classifier-free guidance.
    n_candidates : int
        Estimates drawn for each query, of which ``pick`` makes one.
    pick : Pick, optional
        :class:`~rectiflow_audio.candidates.Medoid` if absent.
    seed : int
        Fixes the noise. Every window, channel and query starts from the same.
    posterior_sample : bool, optional
        Condition on a sample of the mixture's posterior, or its mean; by default as the
        checkpoint was made for.
    waveform : Waveform, optional
        How waves are made; the checkpoint's vocoder if it has one, else
        :class:`~rectiflow_audio.waveform.Masking`.
    consistent : bool
        Correct the estimates so that they sum to the mixture; with a residual they do so together
        with it anyway.
    channels : {"image", "each", "mid"}
        Separate every channel and give each sound one place between them for each window, or leave
        its level to each channel; or separate the mean, whose mask is then applied to each.
    when : tuple of (float, float), optional
        Seconds between which the sounds are. Elsewhere estimates are silent and the residual is the
        mixture, bit for bit, and nothing is computed.
    """

    residual: bool = False
    steps: int | None = None
    solver: Solver | None = None
    grid: Spacing | None = None
    guidance: float | None = None
    rule: RectifiedCFG | None = None
    n_candidates: int = 1
    pick: Pick | None = None
    seed: int = 0
    posterior_sample: bool | None = None
    waveform: Waveform | None = None
    consistent: bool = False
    channels: Channels = "image"
    when: tuple[float, float] | None = None

    def resolved(
        self,
        settings: SeparationSettings,
        queries: Sequence[str],
        context: TextEmbedding,
        negative: TextEmbedding,
        *,
        has_vocoder: bool,
        unwanted: str | None = None,
    ) -> Request:
        """Fill in what the checkpoint decides, and check everything.

        Parameters
        ----------
        settings : SeparationSettings
            Of the checkpoint.
        queries : sequence of str
            Names of the estimates.
        context : TextEmbedding
            A row for each query.
        negative : TextEmbedding
            One row: of the negative query, or of none.
        has_vocoder : bool
            Whether the weights have one.
        unwanted : str, optional
            The negative query.
        """
        masking = Masking(settings.mask_exponent, settings.mask_headroom)
        default = Vocoding() if settings.has_vocoder else masking
        own = settings.posterior_sample
        request = Request(
            list(queries),
            context,
            negative,
            settings.steps if self.steps is None else self.steps,
            Euler() if self.solver is None else self.solver,
            uniform if self.grid is None else self.grid,
            settings.guidance if self.guidance is None else self.guidance,
            self.rule,
            self.n_candidates,
            Medoid() if self.pick is None else self.pick,
            self.seed,
            own if self.posterior_sample is None else self.posterior_sample,
            default if self.waveform is None else self.waveform,
            self.residual,
            self.consistent,
            self.channels,
            unwanted,
            self.when,
        )
        check_numbers(request.steps, request.candidates, request.guidance, request.channels)
        if unwanted is not None and request.guidance <= 1:
            raise ValueError(
                f"a negative query acts through guidance, got guidance={request.guidance}; "
                "expected more than 1, such as 2."
            )
        check_waveform(
            request.waveform,
            has_vocoder=has_vocoder,
            consistent=request.consistent,
            channels=request.channels,
            sources=len(request.queries) + request.residual,
        )
        return request


@dataclass(frozen=True)
class Request:
    """What is asked of every window: :class:`Options`, resolved, and the queries."""

    queries: list[str]
    context: TextEmbedding
    negative: TextEmbedding
    steps: int
    solver: Solver
    grid: Spacing
    guidance: float
    rule: RectifiedCFG | None
    candidates: int
    pick: Pick
    seed: int
    posterior_sample: bool
    waveform: Waveform
    residual: bool
    consistent: bool
    channels: Channels
    unwanted: str | None = None
    when: tuple[float, float] | None = None

    @cached_property
    def moves(self) -> Plan:
        """Return the steps from noise to sound."""
        return plan(self.grid(self.steps), self.solver)

    def describe(self) -> dict[str, Any]:
        """Return all that shapes a separation, as plain data."""
        calls = 1 if self.guidance == 1 else 2 if self.rule is None else 3
        told = {} if self.when is None else {"when": list(self.when)}
        return told | {
            "queries": self.queries,
            "negative": self.unwanted,
            "seed": self.seed,
            "steps": self.steps,
            "nfe": self.moves.nfe * calls,
            "solver": repr(self.solver),
            "grid": "uniform" if self.grid is uniform else repr(self.grid),
            "guidance": self.guidance,
            "rule": self.rule and repr(self.rule),
            "candidates": self.candidates,
            "pick": type(self.pick).__name__.lower(),
            "posterior_sample": self.posterior_sample,
            "waveform": repr(self.waveform),
            "residual": self.residual,
            "consistent": self.consistent,
            "channels": self.channels,
        }


def check_when(when: tuple[float, float] | None, seconds: float) -> None:
    """Refuse a span of time that is not inside of a recording."""
    if when is not None and not 0 <= when[0] < when[1] <= seconds + 1e-6:
        raise ValueError(
            f"a span must lie inside of the recording, got {when[0]:g} to {when[1]:g} s of "
            f"{seconds:.6g} s; expected A-B with 0 <= A < B."
        )


def check_queries(queries: str | Sequence[str], negative: str | None) -> list[str]:
    """Return the queries as a list, each of which names something."""
    asked = [queries] if isinstance(queries, str) else list(queries)
    for text in [*asked, *([] if negative is None else [negative])]:
        check_query(text)
    if not asked:
        raise ValueError("no query was given; expected at least one, such as 'a dog barks'.")
    return asked


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
    if channels not in get_args(Channels):
        raise ValueError(f"channels must be 'image', 'each' or 'mid', got {channels!r}.")
