"""From many input files to shards: judged in parallel, resumable, split by name.

A domain says what becomes of one input (:class:`Judged`) and which records stay; the loop over
the inputs, its processes and what it keeps on disk are the same for all.

Longer than 400 lines because judging in chunks, going on and finishing share one state on disk.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar

from rectiflow.execution import HERE, Executor, LostError
from rectiflow.storage.columns import SUFFIX
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import Claim, claim
from rectiflow.storage.reading import read_json
from rectiflow.storage.shards import MAKER, MANIFEST, ShardError, ShardReader, ShardWriter
from rectiflow.storage.splits import SPLITS, split_all
from rectiflow.storage.table import write_rows

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

METADATA = "metadata.csv"
REJECTED = "rejected.csv"
REPORT = "report.json"
"""Written last into a prepared folder: if it is there, the preparation is complete."""

_PARTIAL = ".partial"  # what is judged so far, until the preparation is complete

_ROWS = "rows.json"  # written last into the folder of a chunk
PER_CHUNK = 32
"""Inputs that one worker judges before it keeps what it found."""

Row = dict[str, Any]
Progress = Callable[[int, int], None]
"""Called with the number of inputs done and their total."""

Input = TypeVar("Input")


@dataclass
class Judged:
    """What became of one input.

    Attributes
    ----------
    accepted : list of (record, row)
        Named tensors, and what the table says of them; a row has a ``name``.
    refused : list of dict
        What ``rejected.csv`` says of the rest.
    """

    accepted: list[tuple[Mapping[str, Tensor], Row]] = field(default_factory=list)
    refused: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class _Chunk(Generic[Input]):
    """Inputs that one worker turns into one folder of records."""

    inputs: tuple[Input, ...]
    folder: Path

    @property
    def done(self) -> bool:
        """Whether an earlier run completed it."""
        return (self.folder / _ROWS).is_file()


class Extracted:
    """Rows of all inputs in their order, the refusals, and the records behind the rows.

    Attributes
    ----------
    rows, rejected : list of dict
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self.rows: list[Row] = []
        self.rejected: list[Row] = []
        self._folders = list(folders)
        self._where: list[tuple[int, int]] = []
        self._readers: dict[int, ShardReader] = {}
        for number, folder in enumerate(self._folders):
            found = json.loads((folder / _ROWS).read_text(encoding="utf-8"))
            self._where += [(number, record) for record in range(len(found["rows"]))]
            self.rows += found["rows"]
            self.rejected += found["rejected"]

    def record(self, index: int) -> dict[str, Tensor]:
        """Return the record of a row."""
        number, record = self._where[index]
        if number not in self._readers:
            self._readers[number] = ShardReader(self._folders[number])
        return self._readers[number][record]

    def copy_to(self, writer: ShardWriter, kept: Sequence[int]) -> None:
        """Add the records of the rows ``kept``, in order, after those that the writer has."""
        for index in kept[writer.written :]:
            writer.add(self.record(index), self.rows[index]["name"])
        writer.flush()


def extract(
    inputs: Sequence[Input],
    judge: Callable[[Input], Judged],
    folder: Path,
    *,
    executor: Executor = HERE,
    progress: Progress | None = None,
    lost: Callable[[Input], Row] | None = None,
    per_chunk: int = PER_CHUNK,
) -> Extracted:
    """Judge every input that an earlier call with the same folder did not.

    Parameters
    ----------
    inputs : sequence
        In an order that repeats.
    judge : callable
        Called in the workers, which must be able to import it; refuses, never raises.
    folder : Path
        Keeps what is done, chunk by chunk; to be removed when the preparation is complete.
    executor : Executor, default Here()
        Where inputs are judged. The result does not depend on it.
    progress : callable, optional
        ``progress(done, total)`` after every few inputs.
    lost : callable, optional
        The refusal of an input that ends its worker each time, such as by a library that ends
        the process. Absent, it ends the extraction; so it does in this process itself.
    per_chunk : int, default 32
        Inputs whose work is lost when the process is killed; 1 where one takes long.
    """
    starts = range(0, len(inputs), per_chunk)
    chunks = [
        _Chunk(tuple(inputs[i : i + per_chunk]), folder / f"{k:06d}") for k, i in enumerate(starts)
    ]
    waiting = [chunk for chunk in chunks if not chunk.done]
    done = len(inputs) - sum(len(chunk.inputs) for chunk in waiting)
    if done:
        log.info("continuing after %d of %d files", done, len(inputs))
    for count in _run(waiting, _Judging(judge), executor, lost):
        done += count
        if progress is not None:
            progress(done, len(inputs))
    return Extracted(chunk.folder for chunk in chunks)


def _run(
    chunks: list[_Chunk[Any]],
    judging: _Judging,
    executor: Executor,
    lost: Callable[[Any], Row] | None,
) -> Iterator[int]:
    """Judge chunks, yielding the number of inputs as each is done."""
    apart: list[_Chunk[Any]] = []
    with closing(executor.run(judging, chunks)) as outcomes:
        for outcome in outcomes:
            if isinstance(outcome.error, LostError) and lost is not None:
                apart.append(chunks[outcome.index])
            else:
                yield outcome.get()
    for chunk in apart:
        assert lost is not None
        log.warning("a worker was killed; its inputs are judged one by one to find at which")
        outcomes_of = executor.map(judging, chunk.inputs)
        yield _keep(
            chunk,
            [
                Judged(refused=[lost(each)]) if isinstance(o.error, LostError) else o.get()
                for each, o in zip(chunk.inputs, outcomes_of, strict=True)
            ],
        )


@dataclass(frozen=True)
class _Judging:
    """What workers do: judge a chunk and keep what was found, or a single input and return it."""

    judge: Callable[[Any], Judged]

    def __call__(self) -> Callable[[Any], Any]:
        return self._do

    def _do(self, task: Any) -> Any:
        if isinstance(task, _Chunk):
            return _keep(task, map(self.judge, task.inputs))
        return self.judge(task)


def _keep(chunk: _Chunk[Any], found: Iterable[Judged]) -> int:
    """Write what is accepted of a chunk and the rows of all; return the number of inputs."""
    rows: list[Row] = []
    rejected: list[Row] = []
    with ShardWriter(chunk.folder, shard_size=1 << 20) as writer:
        for judged in found:
            for record, row in judged.accepted:
                writer.add(record, row["name"])
                rows.append(row)
            rejected += judged.refused
    write_json(
        chunk.folder / _ROWS,
        {"inputs": len(chunk.inputs), "rows": rows, "rejected": rejected},
        indent=None,
    )
    return len(chunk.inputs)


@dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes
    ----------
    folder : Path
        Where the records are.
    unit : str
        What one record is, such as ``"chain"``.
    inputs, accepted, rejected : int
        Inputs seen, records made of them, and lines of ``rejected.csv``: what was refused or left
        out, each with its reason.
    splits : dict
        Records in train, valid and test.
    counts : dict
        What else a domain counts, by its name.
    """

    folder: Path
    unit: str
    inputs: int
    accepted: int
    rejected: int
    splits: dict[str, int]
    counts: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        told = [f"{count:.6g} {name}" for name, count in self.counts.items()]
        told += [f"{count} {split}" for split, count in self.splits.items()]
        return (
            f"accepted {self.accepted} {self.unit}s of {self.inputs} inputs ({', '.join(told)}); "
            f"rejected or left out {self.rejected}, each with its reason in "
            f"{self.folder / REJECTED}"
        )


@dataclass(frozen=True)
class Kept:
    """Which rows of an extraction stay, what is counted of them, and further tables by file name.

    A table is its columns and its rows.
    """

    rows: Sequence[int]
    counts: dict[str, float] = field(default_factory=dict)
    tables: Mapping[str, tuple[Iterable[str], Sequence[Row]]] = field(default_factory=dict)


def split_rows(found: Extracted, fractions: Mapping[str, float], **split: Any) -> Kept:
    """Keep all rows, split as :func:`~rectiflow.storage.splits.split_all` does."""
    split_all(found.rows, fractions, **split)
    return Kept(range(len(found.rows)))


class Running(TypedDict, total=False):
    """How a preparation is run: what ``prepare`` of every domain hands to :meth:`Preparation.run`.

    Attributes
    ----------
    executor : Executor, default Here()
        Where inputs are judged.
    progress : callable, optional
        ``progress(done, total)`` after every few inputs.
    overwrite : bool, default False
        Begin anew, whatever is there.
    """

    executor: Executor
    progress: Progress | None
    overwrite: bool


@dataclass(frozen=True)
class Preparation(Generic[Input]):
    """How a domain turns inputs into records.

    Attributes
    ----------
    unit : str
        What one record is.
    columns, refusal : iterable of str
        Of ``metadata.csv`` and of ``rejected.csv``.
    judge : callable
        What becomes of one input; see :func:`extract`.
    finish : callable
        ``finish(found) -> Kept`` judges the records together and completes their rows, ``split``
        among them.
    settings : mapping
        Plain data that tells this preparation from another, the inputs included.
    lost : callable, optional
        The refusal of an input at which a worker was killed; see :func:`extract`.
    per_chunk : int, default 32
        As for :func:`extract`.
    """

    unit: str
    columns: Iterable[str]
    refusal: Iterable[str]
    judge: Callable[[Input], Judged]
    finish: Callable[[Extracted], Kept]
    settings: Mapping[str, Any]
    lost: Callable[[Input], Row] | None = None
    per_chunk: int = PER_CHUNK

    def run(
        self,
        inputs: Sequence[Input],
        out: Path,
        *,
        executor: Executor = HERE,
        progress: Progress | None = None,
        overwrite: bool = False,
    ) -> Report:
        """Judge all inputs and write the folder; what an earlier call did is not done again.

        Parameters
        ----------
        inputs : sequence
            In an order that repeats.
        out : Path
            Receives the shards with ``manifest.json``, ``metadata.csv``, ``rejected.csv`` and
            ``report.json``.
        executor, progress
            As for :func:`extract`.
        overwrite : bool, default False
            Begin anew, whatever is there of these names.

        Raises
        ------
        FileExistsError
            If something else has these names, or another process writes there.
        ShardError
            If ``out`` holds a preparation with other settings.
        """
        is_begun = (out / MANIFEST).is_file() and not overwrite  # it says whose it is itself
        names = () if is_begun else (MANIFEST, METADATA, REJECTED, REPORT)
        with claim(out, MAKER, names, overwrite=overwrite) as own:
            if overwrite:
                shutil.rmtree(out / _PARTIAL, ignore_errors=True)
            report = self._run(inputs, out, own, executor, progress)
            shutil.rmtree(out / _PARTIAL, ignore_errors=True)
        return report

    def _run(
        self,
        inputs: Sequence[Input],
        out: Path,
        own: Claim,
        executor: Executor,
        progress: Progress | None,
    ) -> Report:
        with ShardWriter(out, self.settings) as writer:
            complete = read_report(out)
            if complete is not None:
                return complete
            writer.flush()  # the settings, so that another preparation does not mix with this one
            found = extract(
                inputs,
                self.judge,
                out / _PARTIAL,
                executor=executor,
                progress=progress,
                lost=self.lost,
                per_chunk=self.per_chunk,
            )
            kept = self.finish(found)
            rows = [found.rows[i] for i in kept.rows]
            found.copy_to(writer, kept.rows)
            columns = list(self.columns)
            table = [{key: row[key] for key in columns} for row in rows]
            own.add([Path(METADATA).with_suffix(SUFFIX).name, *kept.tables])
            write_rows(out / METADATA, self.columns, table)
            write_rows(out / REJECTED, self.refusal, found.rejected)
            for name, (names, further) in kept.tables.items():
                write_rows(out / name, names, further)
            splits = Counter(row["split"] for row in rows)
            report = Report(
                folder=out,
                unit=self.unit,
                inputs=len(inputs),
                accepted=len(rows),
                rejected=len(found.rejected),
                splits={split: splits[split] for split in SPLITS},
                counts=kept.counts,
            )
            if not rows:
                log.warning("no %s was accepted; see %s", self.unit, out / REJECTED)
            # Without its place: the folder may be moved.
            write_json(out / REPORT, {**asdict(report), "folder": "."}, indent=1)
        return report


def read_report(folder: Path) -> Report | None:
    """Return the report of a folder; None if its preparation is not complete."""
    path = folder / REPORT
    if not path.is_file():
        return None
    told = read_json(path)
    if set(told) != {each.name for each in fields(Report)}:
        raise ShardError(path, "is of another version. Prepare the data again.")
    return Report(**{**told, "folder": folder})
