"""A folder of fitted mosaics: shards, and the table beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch
from rectiflow.commands import pick_device
from rectiflow.randomness import counter_generator
from rectiflow.storage.preparation import Extracted, Judged, Kept, Preparation, Report, Running
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.reading import digest_of
from rectiflow.storage.splits import DEFAULT_FRACTIONS, split_all

from rectiflow_shape.data.lists import Entry, read_entry
from rectiflow_shape.data.prepare import Samples
from rectiflow_shape.geometry import Mesh, SignedDistance, normalise
from rectiflow_shape.io.read import Axis
from rectiflow_shape.mosaic.fit import FitSettings, Started, refine, start

if TYPE_CHECKING:
    from torch import Tensor

COLUMNS: dict[str, type] = {
    **dict.fromkeys(("name", "source", "class", "caption", "split"), str),
    **{"error_before": float, "error": float},
}
"""Of ``metadata.csv``: errors are mean absolute ones near the surface, before and after."""

THICKNESS = Samples().thickness
"""Half of the thickness that open sheets are given."""

SAMPLES = 20_000
"""Of a surface, from which grids are chosen and normals are drawn."""

Outline = tuple["Tensor", "Tensor", Callable[["Tensor"], "Tensor"]]
"""Points of a surface, their normals, and the signed distance."""


def outline_of(mesh: Mesh, generator: torch.Generator, samples: int = SAMPLES) -> Outline:
    """Return samples of the surface that bounds a normalised mesh's inside, and its distance."""
    distance = SignedDistance(mesh, THICKNESS)
    points, normals = distance.surface(samples, generator)
    return points, normals, distance


@dataclass(frozen=True)
class Outlines:
    """Reads the shapes of a folder; ``up`` is that of :func:`~rectiflow_shape.io.read_mesh`."""

    folder: Path
    up: Axis | None = None

    def __call__(self, entry: Entry, generator: torch.Generator) -> Outline:
        """Return the outline of an entry's mesh, normalised."""
        mesh, _ = read_entry(entry, self.folder, self.up)
        return outline_of(normalise(mesh)[0], generator)


class PreparedMosaics(Prepared):
    """What fitting a folder left: ``centres (n, 3)``, ``scales (n,)``, ``values (n, k, k, k)``."""

    columns, unit = COLUMNS, "mosaic"


def fit_all(
    entries: Sequence[Entry],
    outline: Callable[[Entry, torch.Generator], Outline],
    out: Path | str,
    settings: FitSettings,
    *,
    seed: int = 0,
    batch: int = 8,
    device: str = "cpu",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    **run: Unpack[Running],
) -> Report:
    """Fit mosaics to many shapes, some at once, resumable.

    Parameters
    ----------
    entries : sequence of Entry
        As :func:`~rectiflow_shape.data.lists.list_shapes` finds them.
    outline : callable
        Reads the shape of an entry; raises ValueError where it cannot be used.
    out : Path or str
        Receives shards, ``metadata.csv``, ``rejected.csv`` and ``report.json``.
    settings : FitSettings
    seed : int
        With the name of a shape, fixes what is drawn for it.
    batch : int
        Shapes that are optimised together.
    device : str
        Where; workers of a machine take turns at ``"cuda"``.
    fractions : mapping
        Shares of the splits where an entry tells none.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.
    """
    out = Path(out)
    told = {
        "kind": "mosaics",
        "fit": asdict(settings),
        "seed": seed,
        "fractions": dict(fractions),
        "inputs": digest_of([asdict(entry) for entry in entries]),
    }
    preparation = Preparation(
        unit="mosaic",
        columns=COLUMNS,
        refusal=("file", "reason"),
        judge=partial(_fitted, outline=outline, settings=settings, seed=seed, device=device),
        finish=partial(_finish, fractions=fractions, seed=seed),
        settings=told,
        per_chunk=1,
    )
    groups = [tuple(entries[i : i + batch]) for i in range(0, len(entries), batch)]
    return preparation.run(groups, out, **run)


def _fitted(
    entries: Sequence[Entry],
    outline: Callable[..., Outline],
    settings: FitSettings,
    seed: int,
    device: str,
) -> Judged:
    """Fit a group of shapes together."""
    judged, begun, kept = Judged(), list[Started](), []
    for entry in entries:
        generator = counter_generator("fit", seed, entry.name)
        try:
            begun.append(start(*outline(entry, generator), settings, generator))
            kept.append(entry)
        except ValueError as error:
            judged.refused.append({"file": entry.file, "reason": str(error)})
    if not begun:
        return judged
    generator = counter_generator("fit batches", seed, kept[0].name)
    where = pick_device(device)
    for entry, fitted in zip(kept, refine(begun, settings, generator, where), strict=True):
        mosaic = fitted.mosaic
        record = {"centres": mosaic.centres, "scales": mosaic.scales, "values": mosaic.values}
        row: dict[str, Any] = {"name": entry.name, "source": entry.file, "class": entry.category}
        row |= {"caption": entry.caption, "split": entry.split}
        row |= {"error_before": fitted.error_before, "error": fitted.error}
        judged.accepted.append((record, row))
    return judged


def _finish(found: Extracted, fractions: Mapping[str, float], seed: int) -> Kept:
    split_all(found.rows, fractions, seed=seed)
    errors = [row["error"] for row in found.rows]
    before = [row["error_before"] for row in found.rows]
    counts = {}
    if errors:
        counts = {
            "mean error before": sum(before) / len(before),
            "mean error": sum(errors) / len(errors),
        }
    return Kept(range(len(found.rows)), counts)
