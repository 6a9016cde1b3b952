"""``sample``, ``separate``, ...: results, shard by shard, restartable."""

from __future__ import annotations

import sys
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser
from rectiflow.commands.progress import counter
from rectiflow.commands.verb import PipelineVerb
from rectiflow.costs import MARGIN, Load, costs_of
from rectiflow.memory import free_memory
from rectiflow.results import ResultFolder, shard_name
from rectiflow.storage.faults import FileError
from rectiflow.storage.folders import claim, claim_file
from rectiflow.storage.reading import read_json, size_text

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Job:
    """One sample to make.

    Attributes
    ----------
    name : str
        Tells it from all others of the folder.
    asked : Any
        What the domain makes of it.
    files : tuple of str
        Names that it must have to be done.
    expected : dict
        What its row must say to be done.
    is_named : bool
        Whether its input was named itself: then a bad one ends the command.
    source : Path, optional
        The file that it is made of; results of different ones do not replace each other.
    """

    name: str
    asked: Any = None
    files: tuple[str, ...] = ()
    expected: dict[str, Any] = field(default_factory=dict)
    is_named: bool = True
    source: Path | None = None


class Make(PipelineVerb):
    """Make results with a trained network.

    Samples that are there already, made with the same settings, are left as they are.
    """

    unit = "sample"

    def flags(self, parser: Parser) -> None:
        """Add the domain's flags, then those of every domain."""
        self.own_flags(parser)
        parser.add_network()
        parser.add_shard()
        parser.add_argument(
            "--plan",
            action="store_true",
            help="Tell the time and the memory that it would take here, and make nothing.",
        )
        parser.add_overwrite()
        parser.add_json()

    @abstractmethod
    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags, ``--out`` among them."""

    @abstractmethod
    def jobs(self, args: Namespace) -> list[Job]:
        """Return all that is asked for, in an order that repeats."""

    @abstractmethod
    def settings(self, args: Namespace, pipe: Any) -> dict[str, Any]:
        """Return what shapes the results beside the pipeline and the rows."""

    @abstractmethod
    def make(
        self,
        args: Namespace,
        pipe: Any,
        jobs: list[Job],
        folder: Path,
        progress: Callable[[int, int], None],
    ) -> tuple[Rows, float]:
        """Write some samples to a folder; return their rows and the seconds it took.

        ``progress`` is called with what is done and all there is to do for these jobs.
        """

    def chunks(self, args: Namespace, pipe: Any, jobs: list[Job]) -> Iterator[list[Job]]:
        """Cut the jobs into calls: what a killed command has to do again."""
        return ([job] for job in jobs)

    def loads(self, args: Namespace, pipe: Any, jobs: list[Job]) -> list[Load]:
        """Return the batches that some jobs come to."""
        raise ValueError(f"rectiflow {self.domain} {self.name} has no plan; leave --plan out.")

    def lighter(self, rows: int, tokens: int) -> str:
        """Return the flag under which batches of so many rows and tokens are the largest.

        With ``rows`` 0 not even one sample fits, and ``tokens`` is the most that would.
        """
        return "a smaller input"

    def place(self, args: Namespace) -> dict[str, Any]:
        """Return ``folder`` and further arguments of the :class:`ResultFolder`."""
        return {"folder": args.out}

    def tell(self, args: Namespace, document: dict[str, Any]) -> str:
        """Return the document as text."""
        return _counted(document, self.unit, args.out)

    def run(self, args: Namespace) -> int:
        """Make what is not there, and tell what is."""
        part, parts = args.shard
        jobs = [job for i, job in enumerate(self.jobs(args)) if i % parts == part]
        pipe = self.load(args)
        settings = pipe.describe() | self.settings(args, pipe)
        with self._claimed(args, jobs) if not args.plan else nullcontext():
            return self._run(args, pipe, settings, jobs)

    @contextmanager
    def _claimed(self, args: Namespace, jobs: list[Job]) -> Iterator[None]:
        """Have the place of the results, and write over nothing that others made."""
        place = self.place(args)
        stem = place.get("stem", "result")
        inputs = [job.source for job in jobs if job.source is not None]
        listing = shard_name(stem, args.shard)
        with ExitStack() as stack:
            if stem != "result":  # one file in a folder of the user's, and its listing beside it
                [job] = jobs
                path = Path(place["folder"]) / listing
                rows = read_json(path).get("samples", [{}]) if path.is_file() else [{}]
                own = rows[0].get("input") == str(job.source)
                for name in (*job.files, listing):
                    target = Path(place["folder"]) / name
                    stack.enter_context(
                        claim_file(target, inputs=inputs, overwrite=args.overwrite or own)
                    )
            else:
                own = stack.enter_context(
                    claim(
                        place["folder"],
                        f"{self.domain} {self.unit}s",
                        [listing],
                        inputs=inputs,
                        overwrite=args.overwrite,
                        shard=args.shard,
                    )
                )
                for job in jobs:
                    source = f" of {job.source.resolve()}" if job.source else ""
                    own.add(job.files, f"{self.domain} {self.unit}s{source}")
            yield

    def _run(self, args: Namespace, pipe: Any, settings: dict[str, Any], jobs: list[Job]) -> int:
        folder = ResultFolder(
            settings=settings, shard=args.shard, command=args.words, **self.place(args)
        )
        missing = [job for job in jobs if not folder.holds(job.name, job.files, **job.expected)]
        if args.plan:
            return self._plan(args, pipe, missing)
        if missing:
            self._require_room(args, pipe, missing)
        names = [job.name for job in jobs]
        made = self._make(args, pipe, missing, folder, names) if missing else 0
        document = {
            **folder.document(names),
            "folder": folder.folder,
            "made": made,
            "kept": len(jobs) - len(missing),
        }
        answer(document, self.tell(args, document), as_json=args.json)
        if folder.failed and not document["samples"]:
            raise ValueError(
                f"none of {len(folder.failed)} inputs can be used; the reasons are above."
            )
        return 0

    def _plan(self, args: Namespace, pipe: Any, jobs: list[Job]) -> int:
        """Tell what the jobs would take.

        Raises
        ------
        ValueError
            When they would not fit.
        """
        model = costs_of(pipe)
        assert model is not None
        document: dict[str, Any] = {"samples": len(jobs), "seconds": 0.0, "memory": 0.0}
        if jobs:
            found = model.estimate(self.loads(args, pipe, jobs))
            document |= {"seconds": found.seconds, "memory": found.memory}
        free = free_memory(pipe.device)
        document |= {"free": free, "device": str(pipe.device)}
        text = (
            f"{len(jobs)} {self.unit}s to make on {pipe.device}: about "
            f"{_duration(document['seconds'])} and {size_text(document['memory'])} of the "
            f"{size_text(free)} that are free"
        )
        if jobs:
            self._require_room(args, pipe, jobs)
        answer(document, text, as_json=args.json)
        return 0

    def _require_room(self, args: Namespace, pipe: Any, jobs: list[Job]) -> None:
        """Refuse what cannot fit, with the setting that would, where the costs are known."""
        model = costs_of(pipe, fit=False)
        if model is None:
            return
        found, free = model.estimate(self.loads(args, pipe, jobs)), free_memory(pipe.device)
        if found.memory * MARGIN <= free:
            return
        tokens = found.largest.tokens
        rows = model.most_rows(tokens, free)
        setting = self.lighter(rows, tokens if rows else model.most_tokens(free))
        raise ValueError(
            f"the memory of {pipe.device} is too small, got {size_text(free)} free for about "
            f"{size_text(found.memory)}; expected {setting}."
        )

    def _make(
        self, args: Namespace, pipe: Any, jobs: list[Job], folder: ResultFolder, names: list[str]
    ) -> int:
        done = made = 0
        label = f"{self.name.removesuffix('e')}ing"
        with (
            counter(label, unit=self.unit, quiet=args.json) as show,
            folder.writing(names) as staged,
        ):
            for chunk in self.chunks(args, pipe, jobs):

                def tick(now: int, total: int, done: int = done, size: int = len(chunk)) -> None:
                    show(done + size * now / max(total, 1), len(jobs))

                try:
                    rows, seconds = self.make(args, pipe, chunk, staged, tick)
                except FileError as error:
                    if any(job.is_named for job in chunk):
                        raise
                    for job in chunk:
                        folder.refuse(job.name, str(error))
                    sys.stderr.write(f"passed over: {error}\n")
                else:
                    folder.add(rows, staged, seconds)
                    made += len(chunk)
                done += len(chunk)
        return made


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"


def _counted(document: Mapping[str, Any], unit: str, out: str) -> str:
    kept = f", {document['kept']} were there already" if document["kept"] else ""
    return f"{document['made']} {unit}s written to {out}{kept}"
