"""``rectiflow protein scaffold``: generate chains around residues of a given structure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Job, Made, Parser, Tick
from rectiflow.randomness import counter_generator
from rectiflow.results import listings
from rectiflow.storage.reading import read_json

from rectiflow_cli.errors import UsageError
from rectiflow_cli.protein import flags
from rectiflow_cli.protein.sample import Sample

if TYPE_CHECKING:
    from rectiflow_protein.motif import Motif
    from rectiflow_protein.motifbench import Problem
    from rectiflow_protein.pipeline import BackbonePipeline


class Scaffold(Sample):
    """Generate chains around a motif: residues of a structure that stand in them as they are.

    With --problems, for each motif of a benchmark's list, in the form that MotifBench evaluates.
    """

    name = "scaffold"
    examples = (
        "--motif enzyme.pdb --contig 5-15/A10-30/10 --num 8 -o scaffolds",
        "--problems test_cases.csv --structures motif_pdbs --num 100 -o scaffolds",
    )

    def what(self, parser: Parser) -> None:
        """Add the motif, or the list of them."""
        group = parser.add_argument_group("motif")
        which = group.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--motif",
            metavar="FILE:A10-30,B5",
            help="Residues that the chain meets in this order; the file alone with --contig.",
        )
        which.add_argument(
            "--problems",
            metavar="TABLE.csv",
            help="MotifBench's test cases or contigs, or the list of RFdiffusion and FrameFlow.",
        )
        add = group.add_argument
        add(
            "--contig",
            metavar="5-15/A10-30/10",
            help="The residues, with how many stand before, between and behind them.",
        )
        add("--structures", metavar="DIR", help="The structures of --problems.")
        flags.add_length(parser, required=False)

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each sample, whose motif is known by the name of its problem."""
        from rectiflow_protein.motif import read_motif
        from rectiflow_protein.motifbench import read_problems
        from rectiflow_protein.result import file_names

        self.motifs: dict[str, Motif] = {}
        self.problems: dict[str, Problem] = {}
        if args.motif is not None:
            if args.structures is not None:
                raise UsageError("--structures goes with --problems, got --motif; leave it out.")
            self.motifs = {"": read_motif(args.motif, args.contig)}
            if args.lengths is None:
                args.lengths = [
                    self.motifs[""].draw_length(counter_generator("length", args.seed, i))
                    for i in range(args.num)
                ]
                args.num = 1
            return super().jobs(args)
        if args.structures is None or args.contig is not None or args.lengths is not None:
            raise UsageError(
                "--problems needs --structures, and has the contigs and lengths itself; expected "
                "--problems TABLE.csv --structures DIR."
            )
        if args.format != "pdb":
            raise UsageError(f"MotifBench reads PDB files, got --format {args.format}.")
        jobs = []
        for problem in read_problems(args.problems, args.structures):
            self.problems[problem.name] = problem
            self.motifs[problem.name] = problem.motif
            for i in range(args.num):
                length = problem.draw_length(
                    counter_generator("length", args.seed, problem.name, i)
                )
                problem.motif.check(length)
                name = f"{problem.name}/{problem.name}_{i}"
                files = tuple(file_names(name, movies=args.trajectory))
                jobs.append(Job(name, (i, length, problem.name), files))
        return jobs

    def constraints(self, args: Any, key: str = "") -> list[Any]:
        """Return the motif of a problem, and what the flags ask for beside it."""
        return flags.make_constraints(args, self.motifs[key])

    def settings(self, args: Any, pipe: BackbonePipeline) -> dict[str, Any]:
        """Return what decides a sample beside its number and length."""
        if not self.problems:
            return super().settings(args, pipe)
        problems = {name: repr(motif) for name, motif in self.motifs.items()}
        return {**self.settings_of(args, pipe, super().constraints(args)), "problems": problems}

    def chunks(self, args: Any, pipe: BackbonePipeline, jobs: list[Job]) -> Iterator[list[Job]]:
        """Cut the samples of each motif into calls."""
        for key in self.motifs:
            yield from super().chunks(args, pipe, [job for job in jobs if job.asked[2] == key])

    def make(
        self, args: Any, pipe: BackbonePipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Sample around one motif."""
        key = jobs[0].asked[2]
        result = self.sampled(args, pipe, jobs, self.constraints(args, key), progress)
        if key:
            problem = self.problems[key]
            result = replace(
                result,
                samples=[
                    replace(
                        sample,
                        label=job.name,
                        told=sample.told
                        | {
                            "problem": key,
                            "sample_num": sample.index,
                            "motif_placements": problem.placement(
                                sample.told["motif"], len(sample.atoms)
                            ),
                        },
                    )
                    for sample, job in zip(result.samples, jobs, strict=True)
                ],
            )
        return result.write(folder, f".{args.format}"), result.seconds

    def run(self, args: Any) -> int:
        """Make what is not there, and list the scaffolds of each problem for its evaluation."""
        from rectiflow_protein.motifbench import INFO, write_info

        code = super().run(args)
        if self.problems and not args.plan:
            told = [read_json(path)["samples"] for path in listings(args.out)]
            rows = {row["name"]: row for samples in told for row in samples}.values()
            for name in self.problems:
                own = [row for row in rows if row["problem"] == name]
                if own:
                    write_info(Path(args.out) / name / INFO, own)
        return code


main = Scaffold()
