"""``rectiflow audio tune``: the times of few steps, and statistics, for a checkpoint."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Batch, Parser

from rectiflow_cli.audio.flags import Audio


class Tune(Audio, commands.Tune):
    """Search the times of few steps for a checkpoint, and measure what DPM-Solver-v3 needs.

    Times are judged on mixtures of prepared sounds, by the distance to a fine solution.
    """

    examples = (
        "shards --steps 2 4 -o tuned",
        "shards --weights small --statistics --num 16 -o tuned",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add the mixtures."""
        add = parser.group("mixtures")
        add("shards", metavar="SHARDS", help="Prepared sounds, of whose train split they are made.")
        add("--guidance", type=float, help="Its weight, 1 is none; the checkpoint's own if absent.")

    def batch(self, args: Any, pipe: Any) -> Batch:
        """Return mixtures of the train split."""
        from rectiflow_audio.data import MixtureDataset, MixtureRules, PreparedSounds
        from rectiflow_audio.reflow import started

        prepared = PreparedSounds(args.shards)
        mixtures = MixtureDataset(
            prepared.clips("train"),
            prepared.texts,
            pipe.settings.window_seconds,
            rules=MixtureRules((-5.0, 5.0)),
            balanced=True,
            seed=args.seed,
        )
        guidance = pipe.settings.guidance if args.guidance is None else args.guidance
        field, x0, _ = started(pipe, mixtures, range(args.num), seed=args.seed, guidance=guidance)
        return Batch(field, x0)


main = Tune()
