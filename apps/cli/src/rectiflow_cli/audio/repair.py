"""``rectiflow audio repair``: clipped, missing and cut-off sound."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Job, Made, Parser, Tick, positive, words

from rectiflow_cli.audio.flags import seconds
from rectiflow_cli.audio.sounds import Change
from rectiflow_cli.errors import UsageError
from rectiflow_cli.methods import MASKED, add_method, make_method

if TYPE_CHECKING:
    from rectiflow_audio.repair import Damage


class Repair(Change):
    """Repair recordings: what was clipped, what is missing, or the band above a limit.

    Samples that are not damaged stay as they are, bit for bit; with --bandwidth a band is added to
    all. The query helps: it says what the sound is.
    """

    name = "repair"
    examples = (
        'clipped.wav --declip --query "a dog barks" -o repaired.wav',
        "tape.wav --inpaint 1.2-1.5 --inpaint 3-3.1 --method cyclic -o repaired.wav",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add recordings, what is wrong with them, and how it is repaired."""
        self.add_sounds(parser)
        add = parser.group("damage")
        add(
            "--declip",
            nargs="?",
            const=0.0,
            type=float,
            metavar="LEVEL",
            help="Clipped at this share of full scale; at the largest magnitude if none is said.",
        )
        add(
            "--inpaint",
            action="append",
            type=seconds,
            metavar="A-B",
            help="Seconds that are missing; may be repeated.",
        )
        add("--bandwidth", type=float, metavar="HZ", help="Nothing is left above this.")
        add = parser.group("repair")
        add("--query", type=words, default="a sound", metavar="WORDS", help="What the sound is.")
        add("--guidance", type=float, default=1.0, help="By the query; 1 is none.")
        add_method(add, MASKED)
        add(
            "--evaluations",
            type=positive,
            default=8,
            help="Of the network for each window of the checkpoint.",
        )

    def _damage(self, args: Any) -> Damage:
        from rectiflow_audio.repair import Band, Clip, Gaps

        given = [args.declip is not None, bool(args.inpaint), args.bandwidth is not None]
        if sum(given) != 1:
            raise UsageError(
                f"one thing is repaired at a time, got {sum(given)} of --declip, --inpaint and "
                "--bandwidth; expected one of them."
            )
        if args.declip is not None:
            return Clip(args.declip or None)
        return Gaps(tuple(args.inpaint)) if args.inpaint else Band(args.bandwidth)

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes a repair."""
        names = ("query", "guidance", "method", "evaluations", "seed", "depth")
        return {"damage": repr(self._damage(args))} | {n: getattr(args, n) for n in names}

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Repair one recording."""
        from rectiflow_audio.repair import Repairer

        [job], began = jobs, time.perf_counter()
        told = {"guidance": args.guidance, "method": make_method(args.method), "seed": args.seed}
        repairer = Repairer(pipe, self._damage(args), args.query, args.evaluations, **told)
        rows = self.write(args, job, folder, repairer)
        return rows, time.perf_counter() - began


main = Repair()
