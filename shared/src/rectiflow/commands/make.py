"""``sample``, ``separate``, ...: results, shard by shard, restartable."""

from __future__ import annotations

import shutil
import sys
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser
from rectiflow.commands.plan import Planned
from rectiflow.commands.progress import counter
from rectiflow.costs import Load
from rectiflow.execution import Here, Loading
from rectiflow.results import ResultFolder, shard_name
from rectiflow.storage.faults import FileError, StorageError
from rectiflow.storage.folders import claim, claim_file
from rectiflow.storage.reading import read_json

Rows = Sequence[Mapping[str, Any]]

Made = tuple[Rows, float]
"""Rows of what was made, and the seconds it took."""

Tick = Callable[[float, float], None]
"""Called with what is done and all that there is to do."""


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


class Make(Planned):
    """Make results with a trained network.

    Samples that are there already, made with the same settings, are left as they are.
    """

    unit = "sample"
    shipped: ClassVar[str] = "small"
    """The checkpoint that is taken where none is named."""

    def flags(self, parser: Parser) -> None:
        """Add the domain's flags, then those of every domain."""
        self.own_flags(parser)
        parser.add_network(None if self.trained_by else self.shipped)
        parser.add_shard()
        parser.add_executor()
        self.add_plan(parser)
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
        self, args: Namespace, pipe: Any, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Write some samples to a folder; return their rows and the seconds it took.

        ``progress`` is called with what is done and all there is to do for these jobs.
        """

    def chunks(self, args: Namespace, pipe: Any, jobs: list[Job]) -> Iterator[list[Job]]:
        """Cut the jobs into calls: what one worker does, and a killed one has to do again.

        Where samples of a call are made together the cut depends on the jobs alone, not on what is
        done of them or who does them.
        """
        return ([job] for job in jobs)

    def loads(self, args: Namespace, pipe: Any, jobs: list[Job]) -> list[Load]:
        """Return the batches that some jobs come to: a verb that does has ``--plan``."""
        return []

    @property
    def has_plan(self) -> bool:
        """Whether the verb says its loads."""
        return type(self).loads is not Make.loads

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
        if args.plan:
            args.executor = Here()
        pipe = self.load_to_describe(args)
        settings = self.describe(args, pipe) | self.settings(args, pipe)
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
                made = bool(rows) and rows[0].get("input") == str(job.source)
                for name in (*job.files, listing):
                    target = Path(place["folder"]) / name
                    own = made or (name == listing and not rows)  # one that lists nothing is free
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
            loads = self.loads(args, pipe, missing) if missing else []
            return self.tell_plan(args, pipe, loads, f"{len(missing)} {self.unit}s")
        if missing and args.executor.is_here:
            self.require_room(pipe, lambda: self.loads(args, pipe, missing))
        wanted = {job.name for job in missing}
        chunks = [
            [job for job in chunk if job.name in wanted] for chunk in self.chunks(args, pipe, jobs)
        ]
        errors = self._make(args, pipe, list(filter(None, chunks)), folder, jobs) if missing else []
        document = {
            **folder.document([job.name for job in jobs]),
            "folder": folder.folder,
            "made": len(missing) - sum(job.name in folder.failed for job in missing),
            "kept": len(jobs) - len(missing),
        }
        answer(document, self.tell(args, document), as_json=args.json)
        if errors:
            raise errors[0]
        if folder.failed and not document["samples"]:
            raise ValueError(
                f"none of {len(folder.failed)} inputs can be used; the reasons are above."
            )
        return 0

    def _make(
        self,
        args: Namespace,
        pipe: Any,
        chunks: list[list[Job]],
        folder: ResultFolder,
        jobs: list[Job],
    ) -> list[Exception]:
        """Make what is missing; return the errors that the command has to end with."""
        errors: list[Exception] = []
        done, total = 0, sum(map(len, chunks))
        label = f"{self.name.removesuffix('e')}ing"
        with (
            counter(label, unit=self.unit, quiet=args.json) as show,
            folder.writing([job.name for job in jobs]) as staged,
        ):
            load = partial(self.load, args)
            making = (
                _Making(self, args, staged, Loading(load, pipe), lambda p: show(done + p, total))
                if args.executor.is_here
                else _Making(self, args, staged.resolve(), Loading(load))
            )
            tasks = list(enumerate(chunks))
            with closing(args.executor.run(making, tasks)) as outcomes:
                for outcome in outcomes:
                    chunk, error = chunks[outcome.index], outcome.error
                    is_passed_over = isinstance(error, FileError) and not any(
                        job.is_named for job in chunk
                    )
                    # What the machine refuses, the next would meet as well.
                    if error and not is_passed_over:
                        if isinstance(error, StorageError) or len(jobs) == 1:
                            raise error
                        errors.append(error)
                    if error is None:
                        rows, seconds = outcome.value
                        folder.add(rows, making.place(outcome.index), seconds)
                    else:
                        for job in chunk:
                            folder.refuse(job.name, str(error))
                        if errors[:1] != [error]:  # which is told at the end
                            sys.stderr.write(f"passed over: {error}\n")
                    shutil.rmtree(making.place(outcome.index), ignore_errors=True)
                    done += len(chunk)
                    show(done, total)
        return errors


@dataclass(frozen=True)
class _Making:
    """What workers do: make chunks of jobs with the pipeline of a verb, which each loads itself."""

    verb: Make
    args: Namespace
    staged: Path
    pipe: Loading[Any]
    tick: Callable[[float], None] | None = None

    def __call__(self) -> Callable[[tuple[int, list[Job]]], Made]:
        """Load, and return what makes a chunk, whose files stay at :meth:`place`."""
        self.pipe()
        return self._make

    def place(self, index: int) -> Path:
        """Return the folder of a chunk."""
        return self.staged / str(index)

    def _make(self, task: tuple[int, list[Job]]) -> Made:
        index, chunk = task
        place = self.place(index)
        shutil.rmtree(place, ignore_errors=True)  # of a worker that was killed
        place.mkdir()

        def tick(now: float, total: float) -> None:
            if self.tick is not None:
                self.tick(len(chunk) * now / max(total, 1))

        if not self.args.executor.is_here:
            pipe = self.pipe()
            self.verb.require_room(pipe, lambda: self.verb.loads(self.args, pipe, chunk))
        return self.verb.make(self.args, self.pipe(), chunk, place, tick)


def _counted(document: Mapping[str, Any], unit: str, out: str) -> str:
    kept = f", {document['kept']} were there already" if document["kept"] else ""
    return f"{document['made']} {unit}s written to {out}{kept}"
