"""``rectiflow protein sample``: generate backbones, shard by shard, restartable."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, device_kind, positive, table
from rectiflow.costs import Load

from rectiflow_cli.protein import flags

if TYPE_CHECKING:
    from rectiflow_protein.constraints import Constraint
    from rectiflow_protein.pipeline import BackbonePipeline
    from rectiflow_protein.result import BackboneResult

POLY_ALANINE = (
    "The structures are poly-alanine: backbones without a sequence. Next, design one with a "
    "sequence-design tool such as ProteinMPNN (rectiflow protein eval --help)."
)


class Sample(flags.Protein, commands.Make):
    """Generate backbones of given lengths.

    Samples that are there already, made with the same settings, are left as they are.
    """

    name, unit = "sample", "structure"
    examples: tuple[str, ...] = (
        "--length 100 --num 8 --steps 50 -o backbones",
        "--lengths 60:128:4 --num 10 --shard 0/4 -o backbones --device cuda",
    )

    whole_chains: ClassVar[bool] = True
    """Whether the samples are new chains, that can be asked for a composition or a symmetry."""

    def own_flags(self, parser: Parser) -> None:
        """Add what is sampled, and how."""
        self.what(parser)
        add = parser.group("samples")
        add("--num", type=positive, default=1, help="Samples of each length.")
        flags.add_constraints(parser, whole_chains=self.whole_chains)
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=("pdb", "cif"), default="pdb", help="Of the structures.")
        add("--trajectory", action="store_true", help="Write every step as models of a file.")
        flags.add_solver(parser, steps=50)
        add = parser.group("details")
        add(
            "--last-time",
            type=float,
            metavar="T",
            help="Of the last network call; the time of the call before, as published, if absent.",
        )
        add(
            "--max-pairs",
            type=positive,
            metavar="N",
            help="Largest batch times squared length; by the device if absent.",
        )

    def what(self, parser: Parser) -> None:
        """Add what says which chains are wanted."""
        flags.add_length(parser, required=True)

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each sample; its number fixes the noise."""
        from rectiflow_protein.result import file_names, sample_name

        for length, constraint in product(set(args.lengths), self.constraints(args)):
            constraint.check(length)
        lengths = [n for n in args.lengths for _ in range(args.num)]
        suffix = f".{args.format}"
        return [
            Job(name, (i, n, ""), tuple(file_names(name, suffix, movies=args.trajectory)))
            for i, n in enumerate(lengths)
            for name in (sample_name(n, i),)
        ]

    def constraints(self, args: Any, key: str = "") -> list[Constraint]:
        """Return what the samples have to be like."""
        return flags.make_constraints(args)

    def settings(self, args: Any, pipe: BackbonePipeline) -> dict[str, Any]:
        """Return what decides a sample beside its number and length."""
        return self.settings_of(args, pipe, self.constraints(args))

    def settings_of(
        self, args: Any, pipe: BackbonePipeline, constraints: list[Constraint]
    ) -> dict[str, Any]:
        """Return it for samples under some constraints."""
        told = args.seed, args.last_time, constraints, args.tries
        return pipe.sampling(args.steps, flags.make_solver(args), *told)

    def chunks(self, args: Any, pipe: BackbonePipeline, jobs: list[Job]) -> Iterator[list[Job]]:
        """Cut the samples, longest first, into calls of a batch each."""
        budget = self._budget(args)
        chunk: list[Job] = []
        pairs = 0
        for job in sorted(jobs, key=lambda job: (-job.asked[1], job.asked[0])):
            length = job.asked[1]
            if chunk and pairs + length**2 > budget:
                yield chunk
                chunk, pairs = [], 0
            chunk.append(job)
            pairs += length**2
        if chunk:
            yield chunk

    def _budget(self, args: Any) -> int:
        """Return the residue pairs of a batch on the device that is asked for, maybe elsewhere."""
        from rectiflow_protein.pipeline import PAIRS_PER_BATCH

        return args.max_pairs or PAIRS_PER_BATCH[device_kind(args.device)]

    def loads(self, args: Any, pipe: BackbonePipeline, jobs: list[Job]) -> list[Load]:
        """Return the padded batches that the calls come to."""
        from rectiflow_protein.constraints import tokens_of
        from rectiflow_protein.sampling import batches

        solver = flags.make_solver(args)
        calls = pipe.sampling(args.steps, solver, 0, None)["nfe"] * args.tries
        budget = self._budget(args)
        found = []
        for chunk in self.chunks(args, pipe, jobs):
            wanted = self.constraints(args, chunk[0].asked[2])
            lengths = [tokens_of(job.asked[1], wanted) for job in chunk]
            for rows in batches(lengths, budget):
                found.append(Load(len(rows), max(lengths[r] for r in rows), calls))
        return found

    def lighter(self, rows: int, tokens: int) -> str:
        """Return a bound of the batch, or of the length."""
        if rows:
            return f"--max-pairs {rows * tokens**2}"
        return f"--length {tokens} or less" if tokens > 1 else "a device with more memory"

    def make(
        self, args: Any, pipe: BackbonePipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Sample some lengths in one call."""
        result = self.sampled(args, pipe, jobs, self.constraints(args), progress)
        return result.write(folder, f".{args.format}"), result.seconds

    def sampled(
        self,
        args: Any,
        pipe: BackbonePipeline,
        jobs: list[Job],
        constraints: list[Constraint],
        progress: Any,
    ) -> BackboneResult:
        """Call the pipeline."""
        return pipe(
            [job.asked[1] for job in jobs],
            steps=args.steps,
            solver=flags.make_solver(args),
            seed=args.seed,
            indices=[job.asked[0] for job in jobs],
            last_time=args.last_time,
            constraints=constraints,
            tries=args.tries,
            max_pairs=args.max_pairs,
            trajectory=args.trajectory,
            progress=progress,
        )

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return the mean geometry of each length, and what comes next."""
        lines = [super().tell(args, document)]
        if document["samples"]:
            lines.append(table(_by_length(document["samples"])))
        return "\n".join([*lines, POLY_ALANINE])


def _by_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean geometry of each length, and of all samples."""
    from rectiflow_protein.validation import LOGGED

    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["length"]):
        groups.setdefault(row["length"], []).append(row)
    if len(groups) > 1:
        groups["all"] = rows
    return [
        {"length": length, "samples": len(group), **{name: _mean(group, name) for name in LOGGED}}
        for length, group in groups.items()
    ]


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else float("nan")


main = Sample()
