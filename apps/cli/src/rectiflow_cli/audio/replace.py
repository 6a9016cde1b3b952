"""``rectiflow audio replace``: one sound turned into another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rectiflow.commands import Job, Made, Parser, Tick, positive, words

from rectiflow_cli.audio.flags import seconds
from rectiflow_cli.audio.sounds import Change


class Replace(Change):
    """Replace one sound of a recording by another, and leave the rest.

    The sound is separated, inverted under its own words, and sampled under the new ones with
    features of the inversion put back, so that what happens when stays.
    """

    name = "replace"
    examples = (
        'street.wav --from "rain" --to "sea waves" -o beach.wav',
        'scene.wav --from "a dog barks" --to "a rooster crows" --when 6.3-7.0 -o farm.wav',
    )

    def own_flags(self, parser: Parser) -> None:
        """Add recordings, both sounds, and how the edit is made."""
        self.add_sounds(parser)
        add = parser.group("edit")
        add("--from", dest="source", type=words, required=True, metavar="WORDS",
            help="The sound that is there.")  # fmt: skip
        add("--to", dest="target", type=words, required=True, metavar="WORDS",
            help="The sound that is wanted.")  # fmt: skip
        add("--when", type=seconds, metavar="A-B", help="Seconds outside of which nothing changes.")
        add("--steps", type=positive, default=6, help="Of inversion and edit.")
        add("--keep", type=float, default=0.3, metavar="SHARE",
            help="Of the steps with features of the source, 0 to 1.")  # fmt: skip
        add("--guidance", type=float, default=2.0, help="By the new words; 1 is none.")

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes an edit."""
        names = ("source", "target", "when", "steps", "keep", "guidance", "seed", "depth")
        return {name: getattr(args, name) for name in names}

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Edit one recording."""
        from rectiflow_audio.replacement import Replacer

        [job], began = jobs, time.perf_counter()
        told = args.source, args.target, args.steps, args.keep, args.guidance
        replacer = Replacer(pipe, *told)
        rows = self.write(
            args, job, folder, lambda wave, rate: replacer(wave, rate, args.when, args.seed)
        )
        return rows, time.perf_counter() - began


main = Replace()
