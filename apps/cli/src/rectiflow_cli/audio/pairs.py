"""``rectiflow audio pairs``: what reflow trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Candidates, Parser, add_sampler, positive

from rectiflow_cli.audio.flags import Audio
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline


class Pairs(Audio, commands.Pairs):
    """Make pairs of noise and separated sound with a trained network.

    Started again with the same flags, it goes on where it was stopped.
    """

    examples = (
        "shards --weights small --num 2000 -o pairs",
        "shards --weights small --real --steps 40 -o real_pairs",
    )
    takes = "Prepared sounds, of whose train split mixtures are made."

    def own_flags(self, parser: Parser) -> None:
        """Add mixtures and solver."""
        add = parser.group("mixtures")
        add("--seconds", type=float, help="Their length; the checkpoint's window if absent.")
        add(
            "--snr",
            type=float,
            nargs=2,
            default=(-10.0, 10.0),
            metavar=("LOW", "HIGH"),
            help="Level of the wanted sound, in decibel.",
        )
        add("--wordings", metavar="FILE", help="Other captions to draw, as for prepare.")
        add = parser.group("solver")
        add("--steps", type=positive, default=20, help="Of the solver.")
        add_sampler(add, "euler")
        add("--guidance", type=float, help="Its weight, 1 is none; the checkpoint's own if absent.")

    def candidates(self, args: Any, pipe: SeparationPipeline) -> Candidates:
        """Return the sampler, or the inversion of true targets."""
        from rectiflow.grids import uniform
        from rectiflow.solvers import Euler
        from rectiflow_audio.data import MixtureDataset, MixtureRules, PreparedSounds, Wordings
        from rectiflow_audio.reflow import inverted_pair_sampler, pair_sampler

        if args.real and (args.solver != Euler() or args.grid is not None):
            raise UsageError(
                f"--real inverts by Euler's method on equal steps, got {args.solver}"
                f"{'' if args.grid is None else f' on {args.grid}'}; expected neither flag."
            )
        prepared = PreparedSounds(args.shards)
        seconds = pipe.settings.window_seconds if args.seconds is None else args.seconds
        mixtures = MixtureDataset(
            prepared.clips("train"),
            prepared.texts,
            seconds,
            rules=MixtureRules(tuple(args.snr)),
            wordings=None if args.wordings is None else Wordings.read(args.wordings),
            balanced=True,
            seed=args.seed,
        )
        guidance = pipe.settings.guidance if args.guidance is None else args.guidance
        common = {"steps": args.steps, "seed": args.seed}
        sample = (
            inverted_pair_sampler(pipe, mixtures, **common)
            if args.real
            else pair_sampler(
                pipe,
                mixtures,
                solver=args.solver,
                grid=args.grid or uniform,
                guidance=guidance,
                **common,
            )
        )
        told = {
            "steps": args.steps,
            "solver": repr(args.solver),
            "grid": args.grid and repr(args.grid),
            "guidance": 1.0 if args.real else guidance,
            "seconds": seconds,
            "snr_db": list(args.snr),
            "wordings": args.wordings,
        }
        return Candidates(sample, args.num or (len(mixtures) if args.real else None), told=told)


main = Pairs()
