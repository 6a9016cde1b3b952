"""From a folder of structure files to shards of chains, in parallel and resumable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from rectiflow.storage.folders import places
from rectiflow.storage.preparation import Extracted, Kept, Preparation, Report, Running
from rectiflow.storage.reading import digest_of
from rectiflow.storage.splits import (
    DEFAULT_FRACTIONS,
    check_fractions,
    number_repeated_names,
    split_of,
)
from rectiflow.storage.table import table_of

from rectiflow_protein.data.clusters import join_clusters, kmer_clusters, read_clusters
from rectiflow_protein.data.extract import chains_of
from rectiflow_protein.data.filters import (
    Filter,
    LengthFilter,
    MaximumFilter,
    RadiusOfGyrationFilter,
)
from rectiflow_protein.data.prepared import COLUMNS
from rectiflow_protein.io import MAX_BYTES, decode_sequence

PUBLISHED_FILTERS: dict[str, Any] = {
    "min_length": 60,
    "max_length": 512,
    "max_coil": 0.5,
    "rg_quantile": 0.96,
    "max_resolution": 5.0,
    "max_chains": 1,
}
"""Filters of the published PDB set: ``prepare(folder, out, **PUBLISHED_FILTERS)``."""


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
    max_bytes: int = MAX_BYTES,
    **run: Unpack[Running],
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
    max_bytes : int, default 128 MiB
        Largest structure file, uncompressed; larger ones are refused.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.

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
    check_fractions(fractions)
    single, population = _filters(
        min_length, max_length, max_coil, rg_quantile, max_resolution, max_chains
    )
    cluster_of = read_clusters(clusters) if clusters is not None else None
    folder, out = places(folder, out, "a folder of structure files", or_file=True)
    root, files = _inputs(folder)
    settings = {
        "kind": "protein backbones",
        "filters": [{"filter": type(f).__name__, **asdict(f)} for f in (*single, *population)],
        "clusters": None if cluster_of is None else digest_of(sorted(cluster_of.items())),
        "fractions": dict(fractions),
        "seed": seed,
        "max_bytes": max_bytes,
        "inputs": digest_of([path.relative_to(root).as_posix() for path in files]),
    }
    preparation = Preparation(
        unit="chain",
        columns=COLUMNS,
        refusal=("file", "chain", "reason"),
        judge=partial(chains_of, root=root, filters=single, max_bytes=max_bytes),
        finish=partial(
            _finish, population=population, cluster_of=cluster_of, fractions=fractions, seed=seed
        ),
        settings=settings,
    )
    return preparation.run(files, out, **run)


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


def _inputs(folder: Path) -> tuple[Path, list[Path]]:
    """Root that names are relative to, and all files to judge, sorted."""
    if folder.is_file():
        return folder.parent, [folder]
    below = (path for path in folder.rglob("*") if path.is_file())
    files = sorted(p for p in below if not _is_hidden(p.relative_to(folder)))
    if not files:
        raise FileNotFoundError(f"{folder} holds no files; expected structure files.")
    return folder, files


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _finish(
    found: Extracted,
    population: tuple[Filter, ...],
    cluster_of: Mapping[str, str] | None,
    fractions: Mapping[str, float],
    seed: int,
) -> Kept:
    """Judge the chains together, cluster and split what remains."""
    rows = found.rows
    number_repeated_names(rows)
    kept = np.arange(len(rows))
    for condition in population:
        table = table_of([rows[i] for i in kept], COLUMNS)
        passed = condition.keep(table) if len(kept) else np.zeros(0, dtype=bool)
        for k in np.flatnonzero(~passed):
            row = rows[kept[k]]
            reason = condition.reason(table, int(k))
            found.rejected.append({"file": row["source"], "chain": row["chain"], "reason": reason})
        kept = kept[passed]
    left = kept.tolist()
    types = [found.record(i)["aatype"] for i in left]
    names = _cluster_names(
        [rows[i] for i in left], [decode_sequence(t.numpy()) for t in types], cluster_of
    )
    for i, name in zip(left, names, strict=True):
        rows[i] |= {"cluster": name, "split": split_of(name, fractions, seed=seed)}
    residues = sum(rows[i]["length"] for i in left)
    return Kept(left, {"residues": residues, "clusters": len(set(names))})


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
