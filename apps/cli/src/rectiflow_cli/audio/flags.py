"""Flags that several audio commands share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rectiflow.commands import (
    Parser,
    add_rule,
    add_sampler,
    pick_device,
    positive,
    sampling_of,
    words,
)

from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_audio.candidates import Pick
    from rectiflow_audio.waveform import Waveform


class Audio:
    """What every verb of this domain is."""

    domain, pipeline = "audio", "rectiflow_audio.pipeline:SeparationPipeline"


WAVEFORMS = ("mask", "vocoder", "griffin-lim")
PICKS = ("medoid", "mean", "clap")
NEGATIVE_GUIDANCE = 2.0
"""With a negative query, which acts through guidance."""


def seconds(text: str) -> tuple[float, float]:
    """Parse ``1.2-1.5``.

    Examples
    --------
    >>> seconds("1.2-1.5")
    (1.2, 1.5)
    """
    start, dash, stop = text.partition("-")
    try:
        span = float(start), float(stop)
    except ValueError:
        span = math.nan, math.nan
    if not dash or not 0 <= span[0] < span[1] < math.inf:
        raise argparse.ArgumentTypeError(f"expected A-B in seconds with A below B, got {text!r}")
    return span


def add_queries(add: Callable[..., Any]) -> None:
    """Add ``--query``."""
    add(
        "--query",
        action="append",
        required=True,
        dest="queries",
        type=words,
        metavar="WORDS",
        help='What to separate, such as "a dog barks"; may be repeated.',
    )


def add_separation(parser: Parser) -> None:
    """Add the flags that say how sounds are separated."""
    add = parser.group("separation")
    add("--steps", type=positive, help="Of the solver; the checkpoint's own if absent.")
    add_sampler(add, "euler")
    add("--guidance", type=float, help="Its weight, 1 is none; the checkpoint's own if absent.")
    add_rule(add)
    add(
        "--posterior",
        choices=("mean", "sample"),
        help="What is taken of the mixture's posterior; the checkpoint's own if absent.",
    )
    add(
        "--waveform",
        choices=WAVEFORMS,
        help="How sound is made of spectrograms; the checkpoint's vocoder if it has one, else by "
        "masking the mixture.",
    )
    add("--candidates", type=positive, default=1, help="Drawn for each query; one is chosen.")
    add(
        "--pick",
        choices=PICKS,
        default="medoid",
        help="How it is chosen: the most typical, their mean, or the best by a CLAP model in the "
        "local cache.",
    )
    add("--clap", metavar="MODEL", help="The folder or name of that model.")


def separation(args: argparse.Namespace) -> dict[str, Any]:
    """Return the pipeline's arguments that the flags stand for."""
    return {
        **sampling_of(args),
        "n_candidates": args.candidates,
        "pick": make_pick(args),
        "posterior_sample": None if args.posterior is None else args.posterior == "sample",
        "waveform": make_waveform(args.waveform),
    }


def make_waveform(name: str | None) -> Waveform | None:
    """Return the way to make sound of spectrograms; None leaves it to the checkpoint."""
    if name is None:
        return None
    from rectiflow_audio import waveform

    made = {
        "mask": waveform.Masking,
        "vocoder": waveform.Vocoding,
        "griffin-lim": waveform.GriffinLim,
    }
    return made[name]()


def make_pick(args: argparse.Namespace) -> Pick:
    """Return the rule that chooses among candidates."""
    from rectiflow_audio.candidates import Best, Mean, Medoid

    listens = args.pick == "clap" or getattr(args, "clap_score", False)
    if args.clap and not listens:
        raise UsageError(f"--clap goes with --pick clap, got --pick {args.pick}; leave one out.")
    if args.pick != "medoid" and args.candidates == 1:
        raise UsageError(
            f"--pick {args.pick} chooses among candidates, got --candidates 1; expected at least 2."
        )
    if args.pick == "clap":
        return Best(clap_score_of(args.clap, args.device))
    return Mean() if args.pick == "mean" else Medoid()


def clap_score_of(name: str | None, device: str) -> Any:
    """Return ``score(wave, query)`` of a CLAP model."""
    from rectiflow_audio.metrics.clap import CLAP_NAME, Clap, clap_score

    clap = Clap.load(name or CLAP_NAME, device=pick_device(device))

    def score(wave: Any, query: str) -> float:
        return float(clap_score(clap.text([query]), clap.audio([wave]))[0])

    return score
