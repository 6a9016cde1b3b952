"""From a folder of structure files to shards of chains, in parallel and resumable."""

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
from typing import Any

import numpy as np
from rectiflow.shards import ShardReader, ShardWriter

from rectiflow_protein.data.clusters import (
    SPLITS,
    check_fractions,
    join_clusters,
    kmer_clusters,
    read_clusters,
    split_of,
)
from rectiflow_protein.data.extract import ROWS, Chunk, extract_chunk
from rectiflow_protein.data.filters import (
    Filter,
    LengthFilter,
    MaximumFilter,
    RadiusOfGyrationFilter,
)
from rectiflow_protein.data.shards import METADATA, REJECTED
from rectiflow_protein.data.table import COLUMNS, table_of, write_rows
from rectiflow_protein.io import decode_sequence

log = logging.getLogger(__name__)

PUBLISHED_FILTERS: dict[str, Any] = {
    "min_length": 60,
    "max_length": 512,
    "max_coil": 0.5,
    "rg_quantile": 0.96,
    "max_resolution": 5.0,
    "max_chains": 1,
}
"""Filters of the published PDB set: ``prepare(folder, out, **PUBLISHED_FILTERS)``."""

DEFAULT_FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}

_PARTIAL = ".partial"
_REPORT = "report.json"
_FILES_PER_CHUNK = 32
_CHAINS_PER_SHARD = 1024

Progress = Callable[[int, int], None]
"""Called with the number of input files done and their total."""


@dataclass(frozen=True)
class Report:
    """What a preparation did.

    Attributes
    ----------
    folder : Path
        Where the chains are.
    files : int
        Input files seen.
    chains, residues, clusters : int
        What was accepted.
    rejected : int
        Lines of ``rejected.csv``: files and chains refused, each with its reason.
    splits : dict
        Chains in train, valid and test.
    """

    folder: Path
    files: int
    chains: int
    residues: int
    clusters: int
    rejected: int
    splits: dict[str, int]

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.splits.items())
        return (
            f"{self.files} input file(s): {self.chains} chains with {self.residues} residues in "
            f"{self.clusters} clusters ({splits}); {self.rejected} refusals in "
            f"{self.folder / REJECTED}"
        )


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    min_length: int = 60,
    max_length: int = 512,
    max_coil: float | None = None,
    rg_quantile: float | None = None,
    max_resolution: float | None = None,
    max_chains: int | None = None,
    clusters: str | Path | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    workers: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Turn structure files into shards of chains to train on.

    Every file is either used or has a line in ``rejected.csv``; the input is only read. A
    preparation that was killed continues when it is started again with the same arguments, and a
    finished one returns its report.

    Parameters
    ----------
    folder : str or Path
        Searched for structure files and npz archives of backbones, with what is below; or one such
        file. Hidden files are passed over.
    out : str or Path
        Receives the shards with ``manifest.json``, ``metadata.csv``, ``rejected.csv`` and
        ``report.json``. Not inside ``folder``.
    min_length, max_length : int
        Residues of a chain, both included.
    max_coil : float, optional
        Largest share of coil.
    rg_quantile : float, optional
        Keep chains that are compact for their length, see :class:`RadiusOfGyrationFilter`.
    max_resolution : float, optional
        Ångström, not included; chains of unknown resolution are refused then.
    max_chains : int, optional
        Refuse files with more protein chains; 1 keeps monomers.
    clusters : str or Path, optional
        Cluster file, see :func:`read_clusters`; chains it does not name are alone in their
        cluster. By default chains are clustered by shared 4-mers, and by the clusters of archives.
    fractions : mapping
        Shares of train, valid and test among clusters.
    seed : int
        Of the split.
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
        If the arguments are unusable, or ``out`` holds a preparation with others.
    FileNotFoundError
        If ``folder`` does not exist or is empty.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}; expected a number of cores.")
    check_fractions(fractions)
    single, population = _filters(
        min_length, max_length, max_coil, rg_quantile, max_resolution, max_chains
    )
    cluster_of = read_clusters(clusters) if clusters is not None else None
    root, files = _inputs(folder, out)
    settings = {
        "kind": "protein backbones",
        "filters": [{"filter": type(f).__name__, **asdict(f)} for f in (*single, *population)],
        "clusters": None if cluster_of is None else _digest(sorted(cluster_of.items())),
        "fractions": dict(fractions),
        "seed": seed,
        "inputs": _digest([path.relative_to(root).as_posix() for path in files]),
    }
    with ShardWriter(out, settings, shard_size=_CHAINS_PER_SHARD) as writer:
        if (out / _REPORT).is_file():
            return _read_report(out)
        writer.flush()  # the settings, so that another preparation does not mix with this one
        chunks = _chunks(files, root, out / _PARTIAL, single)
        _extract_all(chunks, workers, progress)
        return _finish(chunks, writer, population, cluster_of, fractions, seed)


def _filters(
    min_length: int,
    max_length: int,
    max_coil: float | None,
    rg_quantile: float | None,
    max_resolution: float | None,
    max_chains: int | None,
) -> tuple[tuple[Filter, ...], tuple[Filter, ...]]:
    """Build the filters that judge a chain alone, and those that need all chains."""
    single: list[Filter] = [LengthFilter(min_length, max_length)]
    if max_chains is not None:
        single.append(MaximumFilter("num_chains", max_chains))
    if max_resolution is not None:
        single.append(MaximumFilter("resolution", max_resolution, strict=True))
    if max_coil is not None:
        single.append(MaximumFilter("coil", max_coil))
    population = () if rg_quantile is None else (RadiusOfGyrationFilter(rg_quantile),)
    return tuple(single), population


def _inputs(folder: Path, out: Path) -> tuple[Path, list[Path]]:
    """Root that names are relative to, and all files to judge, sorted."""
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no {folder}; expected a folder of structure files. Check the path."
        )
    if folder.is_file():
        return folder.parent, [folder]
    if out.is_relative_to(folder):
        raise ValueError(
            f"out must not lie inside the input folder, got {out}; expected a place outside "
            f"{folder}, which is only read."
        )
    below = (path for path in folder.rglob("*") if path.is_file())
    files = sorted(p for p in below if not _is_hidden(p.relative_to(folder)))
    if not files:
        raise FileNotFoundError(f"{folder} holds no files; expected structure files.")
    return folder, files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _chunks(
    files: Sequence[Path], root: Path, partial: Path, filters: tuple[Filter, ...]
) -> list[Chunk]:
    starts = range(0, len(files), _FILES_PER_CHUNK)
    return [
        Chunk(tuple(files[i : i + _FILES_PER_CHUNK]), root, partial / f"{k:06d}", filters)
        for k, i in enumerate(starts)
    ]


def _extract_all(chunks: list[Chunk], workers: int, progress: Progress | None) -> None:
    """Extract every chunk that an earlier run did not."""
    total = sum(len(chunk.files) for chunk in chunks)
    waiting = [chunk for chunk in chunks if not chunk.done]
    done = total - sum(len(chunk.files) for chunk in waiting)
    if done:
        log.info("continuing after %d of %d files", done, total)
    for count in _run(waiting, min(workers, len(waiting))):
        done += count
        if progress is not None:
            progress(done, total)


def _run(chunks: list[Chunk], workers: int) -> Iterator[int]:
    """Extract chunks, yielding the number of files as each is done."""
    if workers <= 1:
        yield from map(extract_chunk, chunks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        for future in as_completed([pool.submit(extract_chunk, chunk) for chunk in chunks]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _finish(
    chunks: list[Chunk],
    writer: ShardWriter,
    population: tuple[Filter, ...],
    cluster_of: Mapping[str, str] | None,
    fractions: Mapping[str, float],
    seed: int,
) -> Report:
    """Judge the chains together, cluster and split them, and write what remains."""
    rows, rejected, where = _gather(chunks)
    kept = np.arange(len(rows))
    for condition in population:
        table = table_of([rows[i] for i in kept])
        passed = condition.keep(table) if len(kept) else np.zeros(0, dtype=bool)
        for k in np.flatnonzero(~passed):
            row = rows[kept[k]]
            reason = condition.reason(table, int(k))
            rejected.append({"file": row["source"], "chain": row["chain"], "reason": reason})
        kept = kept[passed]
    rows, where = [rows[i] for i in kept], [where[i] for i in kept]
    readers = [ShardReader(chunk.folder) for chunk in chunks]
    types = [readers[chunk][record]["aatype"] for chunk, record in where]
    names = _cluster_names(rows, [decode_sequence(t.numpy()) for t in types], cluster_of)
    for row, name in zip(rows, names, strict=True):
        row["cluster"], row["split"] = name, split_of(name, fractions, seed=seed)
    for i in range(writer.written, len(rows)):
        chunk, record = where[i]
        writer.add(readers[chunk][record], rows[i]["name"])
    writer.flush()
    del readers
    write_rows(writer.folder / METADATA, COLUMNS, rows)
    write_rows(writer.folder / REJECTED, ("file", "chain", "reason"), rejected)
    counts = Counter(row["split"] for row in rows)
    report = Report(
        folder=writer.folder,
        files=sum(len(chunk.files) for chunk in chunks),
        chains=len(rows),
        residues=sum(row["length"] for row in rows),
        clusters=len(set(names)),
        rejected=len(rejected),
        splits={split: counts[split] for split in SPLITS},
    )
    if not rows:
        log.warning("no chain was accepted; see %s", writer.folder / REJECTED)
    _write_report(report)
    shutil.rmtree(writer.folder / _PARTIAL, ignore_errors=True)
    return report


def _gather(
    chunks: list[Chunk],
) -> tuple[list[dict[str, Any]], list[dict[str, str]], list[tuple[int, int]]]:
    """Rows of all chunks with unique names, refusals, and (chunk, record) of each row."""
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    where: list[tuple[int, int]] = []
    seen: Counter[str] = Counter()
    for number, chunk in enumerate(chunks):
        found = json.loads((chunk.folder / ROWS).read_text(encoding="utf-8"))
        where += [(number, record) for record in range(len(found["rows"]))]
        rejected += found["rejected"]
        for row in found["rows"]:
            seen[row["name"]] += 1
            if seen[row["name"]] > 1:
                row["name"] += f"-{seen[row['name']]}"
            rows.append(row)
    return rows, rejected, where


def _cluster_names(
    rows: list[dict[str, Any]], sequences: list[str], cluster_of: Mapping[str, str] | None
) -> list[str]:
    """Cluster of each row, named after a member."""
    if cluster_of is not None:
        names = [row["name"] for row in rows]
        entries = [name.rsplit("_", 1)[0] for name in names]
        return [
            cluster_of.get(name.lower(), cluster_of.get(entry.lower(), name))
            for name, entry in zip(names, entries, strict=True)
        ]
    told = [row["cluster"] or row["name"] for row in rows]
    labels = join_clusters(kmer_clusters(sequences).tolist(), told)
    first = {label: rows[i]["name"] for i, label in reversed(list(enumerate(labels)))}
    return [first[label] for label in labels]


def _write_report(report: Report) -> None:
    told = {**asdict(report), "folder": "."}
    part = report.folder / f".{_REPORT}.part"
    part.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    os.replace(part, report.folder / _REPORT)


def _read_report(out: Path) -> Report:
    told = json.loads((out / _REPORT).read_text(encoding="utf-8"))
    return Report(**{**told, "folder": out})
