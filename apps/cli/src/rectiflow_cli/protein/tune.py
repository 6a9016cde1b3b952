"""``rectiflow protein tune``: the times of few steps for a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rectiflow import commands
from rectiflow.commands import Batch, Parser
from rectiflow.solvers import Euler

from rectiflow_cli.protein import flags

FINE = 64


class Tune(flags.Protein, commands.Tune):
    """Search the times of few steps for a checkpoint.

    Times are judged by how far CA atoms end from where many steps of the same solver take them
    from the same noise. One network call more than steps is made, as in `sample`.
    """

    examples = (
        "--lengths 60,80 --steps 4 9 -o tuned",
        "--lengths 80 --rotation clamped --steps 4 --epochs 5 -o tuned",
    )
    has_statistics = False
    diagnosed_by = Euler()  # the field of a predicted chain has no value at t = 1

    def own_flags(self, parser: Parser) -> None:
        """Add the chains, and how rotations turn."""
        add = parser.group("samples")
        flags.add_lengths(add, "the batch, which goes round these", required=True)
        add("--rotation", choices=flags.ROTATIONS, help="Schedule, as in `sample`.")
        add("--rate", type=float, help="Of the exponential schedules, as in `sample`.")

    def batch(self, args: Any, pipe: Any) -> Batch:
        """Nothing: the network sees its last prediction, so only whole runs are judged."""
        return Batch(None, None)

    def diagnosis(self, args: Any, pipe: Any) -> Batch:
        """Return the positions of chains of one length."""
        from rectiflow_protein.diagnosis import positions_field

        if len(set(args.lengths)) > 1:
            raise ValueError(
                f"chains of one length are diagnosed at a time, got {args.lengths}; expected one."
            )
        pipe.network.requires_grad_(False)  # torch cannot push its looked-up rows forward otherwise
        return Batch(*positions_field(pipe.network, args.lengths[0], args.num, seed=args.seed))

    def objective(self, args: Any, pipe: Any) -> Callable[[tuple[float, ...]], float]:
        """Return the distance of CA atoms to those of many steps, superposed, in Å."""
        import torch
        from rectiflow.grids import uniform
        from rectiflow.search import SearchedGrids
        from rectiflow.spacing import OnGrid
        from rectiflow_protein.metrics.superposition import sc_rmsd
        from torch import Tensor

        args.temperature = 0.0
        solver = flags.make_solver(args)
        lengths = [args.lengths[i % len(args.lengths)] for i in range(args.num)]

        def made(times: tuple[float, ...]) -> list[Tensor]:
            steps = len(times)  # one call more than moves
            on_times = OnGrid(solver, SearchedGrids({steps - 1: times}))
            result = pipe(lengths, steps=steps, solver=on_times, seed=args.seed)
            return [torch.from_numpy(sample.atoms[:, 1]) for sample in result.samples]

        fine = made(tuple(uniform(FINE)))

        def distance(times: tuple[float, ...]) -> float:
            off = [sc_rmsd(a, b) for a, b in zip(made(times), fine, strict=True)]
            return float(torch.stack(off).mean())

        return distance


main = Tune()
