"""The chains of one input file: accepted, or refused with a reason."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.shards import ShardWriter

from rectiflow_protein.data.archive import read_archive
from rectiflow_protein.data.filters import Filter
from rectiflow_protein.data.table import table_of
from rectiflow_protein.io import Backbone, StructureError, read_structure
from rectiflow_protein.metrics import radius_of_gyration
from rectiflow_protein.secondary_structure import COIL, HELIX, STRAND, dssp

log = logging.getLogger(__name__)

ROWS = "rows.json"
"""Written last into the folder of a chunk: if it is there, the chunk is complete."""


@dataclass(frozen=True)
class Candidate:
    """A chain and what the table will say about it."""

    backbone: Backbone
    row: dict[str, Any]


@dataclass(frozen=True)
class Chunk:
    """Input files that one worker turns into one folder of records."""

    files: tuple[Path, ...]
    root: Path
    folder: Path
    filters: tuple[Filter, ...]

    @property
    def done(self) -> bool:
        """Whether an earlier run completed it."""
        return (self.folder / ROWS).is_file()


def extract_chunk(chunk: Chunk) -> int:
    """Write the accepted chains of a chunk and the rows of all; return the number of files."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    rejected: list[dict[str, str]] = []
    with ShardWriter(chunk.folder, shard_size=1 << 20) as writer:
        for path in chunk.files:
            accepted, refused = extract(path, chunk.root, chunk.filters)
            for candidate in accepted:
                writer.add(candidate.backbone.tensors(), candidate.row["name"])
                rows.append(candidate.row)
            rejected += refused
    part = chunk.folder / f".{ROWS}.part"
    part.write_text(json.dumps({"rows": rows, "rejected": rejected}), encoding="utf-8")
    os.replace(part, chunk.folder / ROWS)
    return len(chunk.files)


def extract(
    path: Path, root: Path, filters: Sequence[Filter] = ()
) -> tuple[list[Candidate], list[dict[str, str]]]:
    """Read a file and judge each of its chains; never raises on a bad file.

    Parameters
    ----------
    path : Path
        A structure file or an npz archive.
    root : Path
        Folder that file names are given relative to.
    filters : sequence of Filter
        Conditions on single rows.

    Returns
    -------
    accepted : list of Candidate
    refused : list of dict
        ``file``, ``chain`` (empty for the whole file) and ``reason``.
    """
    source = path.relative_to(root).as_posix()
    try:
        candidates = _candidates(path, source)
    except StructureError as error:
        return [], [_refusal(source, "", f"{error.found}; expected {error.expected}")]
    except Exception as error:
        # One odd file must not end a preparation of thousands.
        log.exception("%s could not be prepared", source)
        return [], [_refusal(source, "", f"unforeseen {type(error).__name__}: {error}")]
    accepted: list[Candidate] = []
    refused: list[dict[str, str]] = []
    for candidate in candidates:
        table = table_of([candidate.row])
        reason = next((f.reason(table, 0) for f in filters if not f.keep(table)[0]), None)
        if reason is None:
            accepted.append(candidate)
        else:
            refused.append(_refusal(candidate.row["source"], candidate.row["chain"], reason))
    return accepted, refused


def _refusal(source: str, chain: str, reason: str) -> dict[str, str]:
    return {"file": source, "chain": chain, "reason": reason}


def _candidates(path: Path, source: str) -> list[Candidate]:
    """Every chain of a file, described."""
    if path.suffix.lower() == ".npz":
        archive = read_archive(path)
        clusters = archive.clusters or [""] * len(archive)
        cells = zip(archive.backbones, archive.sources, clusters, strict=True)
        return [
            _describe(
                chain, chain.name, f"{source}:{origin}", 1, f"{source}:{cluster}" * bool(cluster)
            )
            for chain, origin, cluster in cells
        ]
    backbone = read_structure(path)
    chains = backbone.chains()
    return [
        _describe(chain, f"{backbone.name}_{chain_id or '-'}", source, len(chains), "")
        for chain_id, chain in chains.items()
    ]


def _describe(chain: Backbone, name: str, source: str, num_chains: int, cluster: str) -> Candidate:
    """Row of one chain; ``cluster`` is what the input says, perhaps nothing."""
    coords = torch.from_numpy(chain.coords)
    codes = dssp(coords, aatype=torch.from_numpy(chain.aatype)).numpy()
    chain_id = str(chain.chain_ids[0]) if len(chain) else ""
    row = {
        "name": name,
        "source": source,
        "chain": chain_id,
        "length": len(chain),
        "cluster": cluster,
        "split": "",
        "helix": float(np.mean(codes == HELIX)),
        "strand": float(np.mean(codes == STRAND)),
        "coil": float(np.mean(codes == COIL)),
        "radius_gyration": float(radius_of_gyration(coords[:, 1])),
        "resolution": chain.resolution,
        "num_chains": num_chains,
        "breaks": len(chain.breaks),
        "dropped": sum(text.startswith(f"{chain_id}/") for text in chain.dropped),
    }
    return Candidate(chain, row)
