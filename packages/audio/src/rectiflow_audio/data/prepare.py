"""From a folder of sound files and a list of captions to shards, in parallel and resumable."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.storage.preparation import (
    DEFAULT_FRACTIONS,
    SPLITS,
    Extracted,
    Progress,
    check_fractions,
    digest_of,
    extract,
    number_repeated_names,
    read_report,
    split_of,
    write_report,
    write_rows,
)
from rectiflow.storage.shards import ShardWriter

from rectiflow_audio.data.captions import Entry, Wordings, find_captions, read_captions
from rectiflow_audio.data.extract import Channel, clip_of
from rectiflow_audio.data.shards import CAPTIONS, COLUMNS, METADATA, REJECTED, PreparedSounds
from rectiflow_audio.data.tables import find_file
from rectiflow_audio.frontend import SAMPLE_RATE
from rectiflow_audio.io import SUFFIXES

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEncoder

log = logging.getLogger(__name__)

_PARTIAL = ".partial"
_CLIPS_PER_SHARD = 1024


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
    read. A file that is listed several times has several captions, of which training draws.

    A preparation that was killed continues when it is started again with the same arguments, and
    a finished one returns its report.

    Parameters
    ----------
    folder : str or Path
        Files are named relative to it.
    out : str or Path
        Receives the shards with ``manifest.json``, ``metadata.csv``, ``captions.csv``,
        ``rejected.csv``, ``report.json`` and, with ``encode``, the folder ``texts``. Not inside
        ``folder``.
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
    check_fractions(fractions)
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
        "inputs": digest_of([asdict(entry) for entry in entries]),
    }
    with ShardWriter(out, settings, shard_size=_CLIPS_PER_SHARD) as writer:
        report = read_report(Report, out)
        if report is None:
            writer.flush()  # the settings, so that another preparation does not mix with this one
            judge = partial(clip_of, root=folder, channel=channel)
            found = extract(entries, judge, out / _PARTIAL, workers=workers, progress=progress)
            report = _finish(found, writer, fractions, seed, entries, folder)
            shutil.rmtree(out / _PARTIAL, ignore_errors=True)
    if encode is not None:
        PreparedSounds(out).encode(encode, wordings)
    return report


def _finish(
    found: Extracted,
    writer: ShardWriter,
    fractions: Mapping[str, float],
    seed: int,
    entries: Sequence[Entry],
    root: Path,
) -> Report:
    """Leave duplicates out, split what the list does not, and write the folder."""
    kept, further = _without_duplicates(found)
    rows, rejected = [found.rows[i] for i in kept], found.rejected
    number_repeated_names(rows)
    for row in rows:
        row["split"] = row["split"] or split_of(row["source"], fractions, seed=seed)
    found.copy_to(writer, kept)
    others = [{"source": source, "caption": text} for source in further for text in further[source]]
    write_rows(writer.folder / CAPTIONS, ("source", "caption"), others)
    write_rows(writer.folder / METADATA, COLUMNS, [{k: row[k] for k in COLUMNS} for row in rows])
    rejected.sort(key=lambda refusal: refusal["line"])
    write_rows(writer.folder / REJECTED, ("file", "line", "reason"), rejected)
    counts = Counter(row["split"] for row in rows)
    labels = {part for row in rows for part in row["label"].split(",") if part.strip()}
    report = Report(
        folder=writer.folder,
        files=len(entries),
        clips=len(rows),
        seconds=round(sum(float(row["seconds"]) for row in rows), 3),
        labels=len(labels),
        rejected=len(rejected),
        unlisted=_unlisted(entries, root),
        splits={split: counts[split] for split in SPLITS},
    )
    if not rows:
        log.warning("no clip was accepted; see %s", writer.folder / REJECTED)
    if report.unlisted:
        log.warning("%d sound files are not in the list and were not used", report.unlisted)
    write_report(report)
    return report


def _without_duplicates(found: Extracted) -> tuple[list[int], dict[str, list[str]]]:
    """Return the rows whose samples no earlier row has, and further captions of their files.

    A file that is listed again with other words keeps them; other repetitions are refused.
    """
    kept: list[int] = []
    first: dict[str, dict[str, Any]] = {}
    further: dict[str, list[str]] = {}
    for index, row in enumerate(found.rows):
        original = first.setdefault(row["samples"], row)
        if original is row:
            kept.append(index)
            continue
        same = all(original[key] == row[key] for key in ("source", "label", "split"))
        captions = further.setdefault(row["source"], [])
        if same and row["caption"] not in (original["caption"], *captions):
            captions.append(row["caption"])
            continue
        reason = f"the same samples as {original['source']} in line {original['line']}"
        found.rejected.append({"file": row["source"], "line": row["line"], "reason": reason})
    return kept, {source: captions for source, captions in further.items() if captions}


def _unlisted(entries: Sequence[Entry], root: Path) -> int:
    """Sound files below the root that no row names."""
    listed = {find_file(root, entry.file).resolve() for entry in entries if entry.file}
    below = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sum(path.is_file() and path.resolve() not in listed for path in below)
