"""From a folder of sound files and a list of captions to shards, in parallel and resumable."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.randomness import counter_seed
from rectiflow.shards import ShardReader, ShardWriter

from rectiflow_audio.data.captions import Entry, Wordings, find_captions, read_captions
from rectiflow_audio.data.extract import ROWS, Channel, Chunk, read_chunk
from rectiflow_audio.data.shards import (
    COLUMNS,
    METADATA,
    REJECTED,
    SPLITS,
    PreparedSounds,
    write_rows,
)
from rectiflow_audio.frontend import SAMPLE_RATE

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEncoder

log = logging.getLogger(__name__)

DEFAULT_FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}

_PARTIAL = ".partial"
_REPORT = "report.json"
_FILES_PER_CHUNK = 32
_CLIPS_PER_SHARD = 1024
_FILE_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".aif", ".aiff"}

Progress = Callable[[int, int], None]
"""Called with the number of listed files done and their total."""


@dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes
    ----------
    folder : Path
        Where the clips are.
    files : int
        Rows of the list of captions.
    clips : int
        What was accepted.
    seconds : float
        Their length together.
    labels : int
        Distinct classes; 0 if the list tells none.
    rejected : int
        Lines of ``rejected.csv``, each with its reason.
    unlisted : int
        Sound files in the folder that the list does not name; they were not used.
    splits : dict
        Clips in train, valid and test.
    """

    folder: Path
    files: int
    clips: int
    seconds: float
    labels: int
    rejected: int
    unlisted: int
    splits: dict[str, int]

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        unlisted = f"; {self.unlisted} sound files are not in the list" if self.unlisted else ""
        return (
            f"{self.files} listed file(s): {self.clips} clips, {self.seconds / 60:.1f} minutes in "
            f"{self.labels} classes ({splits}); {self.rejected} refusals in "
            f"{self.folder / REJECTED}{unlisted}"
        )


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    captions: str | Path | None = None,
    channel: Channel = "mean",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    encode: TextEncoder | None = None,
    wordings: Wordings | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Turn sound files and their captions into shards to train on: mono, 16 kHz, 16 bit.

    Every row of the list is either used or has a line in ``rejected.csv``; the input is only
    read. A preparation that was killed continues when it is started again with the same
    arguments, and a finished one returns its report.

    Parameters
    ----------
    folder : str or Path
        Files are named relative to it.
    out : str or Path
        Receives the shards with ``manifest.json``, ``metadata.csv``, ``rejected.csv``,
        ``report.json`` and, with ``encode``, the folder ``texts``. Not inside ``folder``.
    captions : str or Path, optional
        The list, see :func:`read_captions`; by default one that ``folder`` holds under a usual
        name.
    channel : str, default "mean"
        How channels become one: ``"mean"``, or ``"first"`` as the authors do.
    fractions : mapping
        Shares of train, valid and test among rows whose split the list does not tell; decided by
        a hash of the file's name.
    seed : int
        Of that split.
    encode : TextEncoder, optional
        Embeds the captions, so that training needs no text encoder. May be given to a finished
        preparation.
    wordings : Wordings, optional
        Further captions to embed.
    workers : int, default 1
        Processes. The result does not depend on it.
    progress : callable, optional
        ``progress(done, total)`` after every few files.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If the arguments or the list are unusable, or ``out`` holds a preparation with others.
    FileNotFoundError
        If there is no such folder or list.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}; expected a number of cores.")
    if channel not in ("mean", "first"):
        raise ValueError(f"unknown channel rule {channel!r}; known: mean, first.")
    _check_fractions(fractions)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}; expected sound files. Check the path."
        )
    if out == folder or out.is_relative_to(folder):
        raise ValueError(
            f"out must not lie inside the input folder, got {out}; expected a place outside "
            f"{folder}, which is only read."
        )
    entries = read_captions(captions if captions is not None else find_captions(folder))
    settings = {
        "kind": "sounds",
        "sample_rate": SAMPLE_RATE,
        "channel": channel,
        "fractions": dict(fractions),
        "seed": seed,
        "inputs": _digest([asdict(entry) for entry in entries]),
    }
    with ShardWriter(out, settings, shard_size=_CLIPS_PER_SHARD) as writer:
        if (out / _REPORT).is_file():
            report = _read_report(out)
        else:
            writer.flush()  # the settings, so that another preparation does not mix with this one
            chunks = _chunks(entries, folder, out / _PARTIAL, channel)
            _read_all(chunks, workers, progress)
            report = _finish(chunks, writer, fractions, seed)
    if encode is not None:
        PreparedSounds(out).encode(encode, wordings)
    return report


def _chunks(entries: Sequence[Entry], root: Path, partial: Path, channel: Channel) -> list[Chunk]:
    starts = range(0, len(entries), _FILES_PER_CHUNK)
    return [
        Chunk(tuple(entries[i : i + _FILES_PER_CHUNK]), root, partial / f"{k:06d}", channel)
        for k, i in enumerate(starts)
    ]


def _read_all(chunks: list[Chunk], workers: int, progress: Progress | None) -> None:
    """Read every chunk that an earlier run did not."""
    total = sum(len(chunk.entries) for chunk in chunks)
    waiting = [chunk for chunk in chunks if not chunk.done]
    done = total - sum(len(chunk.entries) for chunk in waiting)
    if done:
        log.info("continuing after %d of %d files", done, total)
    for count in _run(waiting, min(workers, len(waiting))):
        done += count
        if progress is not None:
            progress(done, total)


def _run(chunks: list[Chunk], workers: int) -> Iterator[int]:
    """Read chunks, yielding the number of files as each is done."""
    if workers <= 1:
        yield from map(read_chunk, chunks)
        return
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(read_chunk, chunk) for chunk in chunks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(
    chunks: list[Chunk], writer: ShardWriter, fractions: Mapping[str, float], seed: int
) -> Report:
    """Leave duplicates out, split what the list does not, and write the folder."""
    rows, rejected, where = _gather(chunks)
    for row in rows:
        row["split"] = row["split"] or split_of(row["source"], fractions, seed=seed)
    readers = {chunk: ShardReader(chunks[chunk].folder) for chunk in {chunk for chunk, _ in where}}
    for i in range(writer.written, len(rows)):
        chunk, record = where[i]
        writer.add(readers[chunk][record], rows[i]["name"])
    writer.flush()
    readers.clear()
    write_rows(writer.folder / METADATA, COLUMNS, [{k: row[k] for k in COLUMNS} for row in rows])
    rejected.sort(key=lambda refusal: refusal["line"])
    write_rows(writer.folder / REJECTED, ("file", "line", "reason"), rejected)
    counts = Counter(row["split"] for row in rows)
    labels = {part for row in rows for part in row["label"].split(",") if part.strip()}
    report = Report(
        folder=writer.folder,
        files=sum(len(chunk.entries) for chunk in chunks),
        clips=len(rows),
        seconds=round(sum(float(row["seconds"]) for row in rows), 3),
        labels=len(labels),
        rejected=len(rejected),
        unlisted=_unlisted(chunks),
        splits={split: counts[split] for split in SPLITS},
    )
    if not rows:
        log.warning("no clip was accepted; see %s", writer.folder / REJECTED)
    if report.unlisted:
        log.warning("%d sound files are not in the list and were not used", report.unlisted)
    _write_report(report)
    shutil.rmtree(writer.folder / _PARTIAL, ignore_errors=True)
    return report


def _gather(
    chunks: list[Chunk],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[tuple[int, int]]]:
    """Rows of all chunks without duplicates, refusals, and (chunk, record) of each row."""
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    where: list[tuple[int, int]] = []
    first: dict[str, dict[str, Any]] = {}
    names: Counter[str] = Counter()
    for number, chunk in enumerate(chunks):
        found = json.loads((chunk.folder / ROWS).read_text(encoding="utf-8"))
        rejected += found["rejected"]
        for record, row in enumerate(found["rows"]):
            original = first.setdefault(row["samples"], row)
            if original is not row:
                reason = f"the same samples as {original['source']} in line {original['line']}"
                rejected.append({"file": row["source"], "line": row["line"], "reason": reason})
                continue
            names[row["name"]] += 1
            if names[row["name"]] > 1:
                row["name"] += f"-{names[row['name']]}"
            rows.append(row)
            where.append((number, record))
    return rows, rejected, where


def _unlisted(chunks: list[Chunk]) -> int:
    """Sound files below the root that no row names."""
    root = chunks[0].root
    listed = {(root / entry.file).resolve() for chunk in chunks for entry in chunk.entries}
    below = (path for path in root.rglob("*") if path.suffix.lower() in _FILE_SUFFIXES)
    return sum(path.is_file() and path.resolve() not in listed for path in below)


def split_of(name: str, fractions: Mapping[str, float], *, seed: int = 0) -> str:
    """Split of a file by a hash of its name alone, so that other files move it nowhere.

    Examples
    --------
    >>> split_of("dog.wav", {"train": 1.0})
    'train'
    """
    place, edge = counter_seed("split", seed, name) / 2**63, 0.0
    for split in SPLITS:
        edge += fractions.get(split, 0.0)
        if place < edge:
            return split
    return next(split for split in reversed(SPLITS) if fractions.get(split, 0.0) > 0)


def _check_fractions(fractions: Mapping[str, float]) -> None:
    known = set(fractions) <= set(SPLITS) and all(share >= 0 for share in fractions.values())
    if not known or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(
            f"split fractions must share 1 among {', '.join(SPLITS)}, got {dict(fractions)}; "
            "for example {'train': 0.9, 'valid': 0.05, 'test': 0.05}."
        )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _write_report(report: Report) -> None:
    part = report.folder / f".{_REPORT}.part"
    told = {**asdict(report), "folder": "."}
    part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    os.replace(part, report.folder / _REPORT)


def _read_report(out: Path) -> Report:
    told = json.loads((out / _REPORT).read_text(encoding="utf-8"))
    return Report(**{**told, "folder": out})
