"""``rectiflow protein pairs``: what reflow trains on."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Candidates, Parser

from rectiflow_cli.errors import UsageError
from rectiflow_cli.protein import flags

if TYPE_CHECKING:
    from collections.abc import Callable

    from rectiflow.rectify import Pair, Verdict
    from rectiflow_protein.pipeline import BackbonePipeline


class Pairs(flags.Protein, commands.Pairs):
    """Sample pairs of noise and backbone with a trained network, and keep the good ones.

    Good means by geometry, or designable where a designer and a predictor are given. Started again
    with the same flags, it goes on where it was stopped.
    """

    examples = (
        "--lengths 60:128:4 --num 2000 --weights small -o pairs",
        "shards --real --weights small -o real_pairs",
    )
    takes = "Prepared chains, for --real, or for their lengths where --lengths is absent."
    needs_data = False
    mend = "Loosen --max-coil or --min-valid, or sample with a better network or more steps."

    def own_flags(self, parser: Parser) -> None:
        """Add lengths, solver and filters."""
        add = parser.group("samples")
        flags.add_lengths(
            add, "the samples, which go round these; with --real, of the shortest and longest chain"
        )
        flags.add_solver(parser, steps=100)
        add = parser.group("filter")
        add("--keep-all", action="store_true", help="Keep every pair; published work advises not.")
        add("--max-coil", type=float, default=0.5, help="Largest share of coil.")
        add("--min-strand", type=float, default=0.0, help="Least share of strand.")
        add("--min-valid", type=float, default=0.97, help="Least share of valid CA-CA distances.")
        add("--max-contacts", type=float, default=1.0, help="CA pairs below 3 Å per 100 residues.")
        flags.add_tools(parser)

    def candidates(self, args: Any, pipe: BackbonePipeline) -> Candidates:
        """Return the sampler, or the inversion of real chains."""
        from rectiflow_protein.data import LengthFilter, PreparedBackbones
        from rectiflow_protein.reflow import inverted_pair_sampler, pair_sampler

        solver = flags.make_solver(args)
        if not args.shards and (args.real or not args.lengths):
            raise UsageError(
                f"{'--real' if args.real else 'pairs'} needs SHARDS{'' if args.real else ' or '}"
                f"{'' if args.real else '--lengths'}, got neither; expected a folder of prepared "
                "chains. Make one with `rectiflow protein prepare FOLDER -o SHARDS`."
            )
        of_length = []
        if args.real and args.lengths:
            of_length = [LengthFilter(min(args.lengths), max(args.lengths))]
        prepared = PreparedBackbones(args.shards) if args.shards else None
        chains = prepared.dataset("train", of_length) if prepared else None
        told: dict[str, Any] = {"steps": args.steps, "seed": args.seed}
        if args.real:
            assert chains is not None
            from rectiflow.solvers import Euler

            changed = (
                args.solver != Euler()
                or args.grid
                or args.rotation not in (None, "linear")
                or args.rate
            )
            if changed or args.temperature or args.repulsion or args.pairing:
                raise UsageError(
                    "--real inverts by Euler's method with the linear schedule, got another "
                    "--solver, --grid, --rotation, --rate, --temperature, --repulsion or "
                    "--pairing; leave them out."
                )
            if not len(chains):
                span = args.lengths and f" of {min(args.lengths)} to {max(args.lengths)} residues"
                raise UsageError(
                    f"{args.shards} has no chain{span or ''} in its train split; expected some. "
                    "Give a wider --lengths or other SHARDS."
                )
            num = min(args.num or len(chains), len(chains))
            told |= {"chains": len(chains), "shards": args.shards}
            return Candidates(inverted_pair_sampler(pipe, chains, steps=args.steps), num, told=told)
        lengths = args.lengths or [len(chain["res_idx"]) for chain in chains]  # type: ignore[union-attr]
        keep, condition = self._filter(args)
        constraints = flags.make_constraints(args)
        sample = pair_sampler(
            pipe,
            lengths,
            steps=args.steps,
            seed=args.seed,
            solver=solver,
            constraints=constraints,
        )
        told |= {
            "lengths": lengths,
            "solver": repr(solver),
            "constraints": [repr(each) for each in constraints],
            "filter": condition,
        }
        return Candidates(sample, args.num, keep, told)

    def _filter(self, args: Any) -> tuple[Callable[[Pair], Verdict] | None, dict[str, Any]]:
        """Return the condition on pairs, and how the manifest tells it."""
        from rectiflow_protein.reflow import DesignabilityFilter, GeometricFilter

        designer, predictor = flags.make_tools(args)
        if args.keep_all:
            if designer is not None:
                raise UsageError(
                    "--keep-all and designability tools contradict each other; expected one of "
                    "them."
                )
            return None, {"name": "none"}
        if designer is not None and predictor is not None:
            return DesignabilityFilter(designer, predictor, args.num_sequences), {
                "name": "designability",
                "designer": args.proteinmpnn or args.designer_command,
                "predictor": args.predictor,
                "num_sequences": args.num_sequences,
            }
        geometric = GeometricFilter(
            min_valid=args.min_valid,
            max_close_contacts=args.max_contacts,
            max_coil=args.max_coil,
            min_strand=args.min_strand,
        )
        return geometric, {"name": "geometric", **asdict(geometric)}


main = Pairs()
