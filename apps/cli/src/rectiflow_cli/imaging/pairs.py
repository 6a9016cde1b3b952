"""``rectiflow imaging pairs``: what reflow trains on."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Candidates, Parser, add_sampler, positive

from rectiflow_cli.imaging.flags import Imaging


class Pairs(Imaging, commands.Pairs):
    """Sample pairs of noise and slice with a trained prior."""

    examples = ("--weights runs/prior -o pairs", "SHARDS --weights runs/prior --real -o pairs")
    takes = "Prepared images, which --real inverts to noise; not used without."
    needs_data = False

    def own_flags(self, parser: Parser) -> None:
        """Add how the pairs are sampled."""
        add = parser.group("sampling")
        add("--steps", type=positive, default=50, help="Of the solver.")
        add_sampler(add, "euler")

    def candidates(self, args: Any, pipe: Any) -> Candidates:
        """Return what makes the pairs."""
        from rectiflow_imaging.reflow import inverted, pair_sampler

        told = {"steps": args.steps, "solver": args.solver, "grid": args.grid}
        described = {"steps": args.steps, "solver": repr(args.solver)}
        described |= {"grid": args.grid and repr(args.grid)}
        if not args.real:
            sample = pair_sampler(pipe, seed=args.seed, **told)
            return Candidates(sample, args.num, told=described)
        if args.shards is None:
            raise ValueError("--real needs prepared images, got none; expected SHARDS.")
        sample, count = inverted(pipe, args.shards, **told)
        return Candidates(sample, min(args.num or count, count), told=described)


main = Pairs()
