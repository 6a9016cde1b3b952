"""The chains of one input file: accepted, or refused with a reason."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.storage.preparation import Judged
from rectiflow.storage.table import table_of

from rectiflow_protein.data.archive import read_archive
from rectiflow_protein.data.filters import Filter
from rectiflow_protein.data.prepared import COLUMNS
from rectiflow_protein.io import MAX_BYTES, Backbone, StructureError, read_structure
from rectiflow_protein.metrics import radius_of_gyration
from rectiflow_protein.secondary_structure import COIL, HELIX, STRAND, dssp

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A chain and what the table will say about it."""

    backbone: Backbone
    row: dict[str, Any]


def chains_of(
    path: Path, root: Path, filters: Sequence[Filter] = (), *, max_bytes: int = MAX_BYTES
) -> Judged:
    """Read a file and judge each of its chains; never raises on a bad file.

    Parameters
    ----------
    path : Path
        A structure file or an npz archive.
    root : Path
        Folder that file names are given relative to.
    filters : sequence of Filter
        Conditions on single rows.
    max_bytes : int
        Largest structure file, uncompressed.

    Returns
    -------
    Judged
        The chains, and what was refused or left out: ``file``, ``chain`` (empty for the whole
        file) and ``reason``.
    """
    source = path.relative_to(root).as_posix()
    try:
        candidates, judged = _candidates(path, source, max_bytes)
    except StructureError as error:
        reason = f"{error.found}; expected {error.expected}"
        return Judged(refused=[_refusal(source, "", reason)])
    except Exception as error:
        # One odd file must not end a preparation of thousands.
        log.exception("%s could not be prepared", source)
        reason = f"unforeseen {type(error).__name__}: {error}"
        return Judged(refused=[_refusal(source, "", reason)])
    for candidate in candidates:
        table = table_of([candidate.row], COLUMNS)
        failed = next((f.reason(table, 0) for f in filters if not f.keep(table)[0]), None)
        if failed is None:
            judged.accepted.append((candidate.backbone.tensors(), candidate.row))
        else:
            told = _refusal(candidate.row["source"], candidate.row["chain"], failed)
            judged.refused.append(told)
    return judged


def _refusal(source: str, chain: str, reason: str) -> dict[str, str]:
    return {"file": source, "chain": chain, "reason": reason}


def _candidates(path: Path, source: str, max_bytes: int) -> tuple[list[Candidate], Judged]:
    """Every chain of a file, described, and what the reader left out of it."""
    if path.suffix.lower() == ".npz":
        archive = read_archive(path)
        clusters = archive.clusters or [""] * len(archive)
        cells = zip(archive.backbones, archive.sources, clusters, strict=True)
        found = [
            _describe(
                chain, chain.name, f"{source}:{origin}", 1, f"{source}:{cluster}" * bool(cluster)
            )
            for chain, origin, cluster in cells
        ]
        return found, Judged()
    backbone = read_structure(path, max_bytes=max_bytes)
    chains = backbone.chains()
    count = len(chains) * backbone.copies
    found = [
        _describe(chain, f"{backbone.name}_{chain_id or '-'}", source, count, "")
        for chain_id, chain in chains.items()
    ]
    left_out = Judged(refused=[_left_out(source, text) for text in backbone.dropped])
    return found, left_out


def _left_out(source: str, text: str) -> dict[str, str]:
    """Line for what a reader left out; the reason comes first, by which lines are counted."""
    first, second, reason = text.split(" ", 2)
    chain = first.rpartition("/")[0] if "/" in first else ""
    return _refusal(source, chain, f"left out: {reason}; {first} {second}")


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
