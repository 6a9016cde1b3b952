"""From a folder of meshes to shards of samples of their signed distance, parallel and resumable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from rectiflow.storage.folders import places
from rectiflow.storage.preparation import Extracted, Judged, Kept, Preparation, Report, Running
from rectiflow.storage.reading import digest_of
from rectiflow.storage.splits import DEFAULT_FRACTIONS, SPLITS, check_fractions, split_all
from torch import Tensor

from rectiflow_shape.data.lists import Entry, list_shapes, read_entry
from rectiflow_shape.data.prepared import COLUMNS
from rectiflow_shape.geometry import (
    BOX,
    SURE,
    Mesh,
    RepairReport,
    SignedDistance,
    around,
    normalise,
)
from rectiflow_shape.io.read import Axis
from rectiflow_shape.render import random_cameras, render

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """What is drawn of each shape.

    Parameters
    ----------
    surface, near, volume : int
        Points on the surface, around it, and in the box. TripoSG takes 20,480 in, and is trained
        on 8,192 of each a step.
    thickness : float
        Half of the thickness that sheets are given, a normalised shape having a half extent of
        0.95: without one they would have no inside. Solids are as thick as they are.
    views, pixels : int
        Pictures of each, from drawn directions, and their side.
    """

    surface: int = 20_480
    near: int = 16_384
    volume: int = 8_192
    thickness: float = 0.01
    views: int = 0
    pixels: int = 224

    def __post_init__(self) -> None:
        for name in ("surface", "near", "volume", "pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.thickness < 0.5:
            raise ValueError(
                f"thickness must lie between 0 and 0.5, got {self.thickness:g}; expected a small "
                "share of a shape whose half extent is 0.95, such as 0.01."
            )


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    samples: Samples | None = None,
    up: Axis | None = None,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    **run: Unpack[Running],
) -> Report:
    """Turn meshes into shards to train on; see :class:`PreparedShapes`.

    Every shape is either used or has a line in ``rejected.csv``; the input is only read. A
    preparation that was killed continues when it is started again with the same arguments, and a
    finished one returns its report.

    Parameters
    ----------
    folder : str or Path
        See :func:`~rectiflow_shape.data.lists.list_shapes`.
    out : str or Path
        Not inside ``folder``.
    samples : Samples, optional
        What is drawn of each.
    up : {"x", "y", "z"}, optional
        Which axis of the files is up, if not y.
    fractions : mapping
        Shares of train, valid and test among shapes whose split the table does not tell.
    seed : int
        Of that split and of what is drawn.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.

    Returns
    -------
    Report
        Its ``counts`` are ``classes``, ``repaired`` and ``unsure`` shapes.

    Raises
    ------
    ValueError
        If the arguments or the table are unusable, or ``out`` holds a preparation with others.
    FileNotFoundError
        If there is no such folder, or nothing in it.
    """
    samples = samples or Samples()
    check_fractions(fractions)
    folder, out = places(folder, out, "meshes")
    entries = list_shapes(folder)
    settings = {
        "kind": "shapes",
        **asdict(samples),
        "up": up,
        "fractions": dict(fractions),
        "seed": seed,
        "inputs": digest_of([asdict(entry) for entry in entries]),
    }
    preparation = Preparation(
        unit="shape",
        columns=COLUMNS,
        refusal=("file", "line", "reason"),
        judge=partial(shape_of, folder=folder, samples=samples, up=up, seed=seed),
        finish=partial(_finish, fractions=fractions, seed=seed),
        settings=settings,
        lost=partial(_refused, reason="the process that read it was killed"),
        per_chunk=8,  # some take seconds
    )
    return preparation.run(entries, out, **run)


def shape_of(entry: Entry, folder: Path, samples: Samples, up: Axis | None, seed: int) -> Judged:
    """Sample one shape, or say why not; never raises on a bad file."""
    try:
        if entry.split and entry.split not in SPLITS:
            raise ValueError(f"unknown split {entry.split!r}, expected train, valid or test")
        mesh, report = read_entry(entry, folder, up)
        return Judged(accepted=[_sampled(entry, mesh, report, samples, seed)])
    except (ValueError, OSError) as error:
        reason = str(getattr(error, "reason", error))
    except Exception as error:
        # One odd file must not end a preparation of thousands.
        log.exception("%s could not be prepared", entry.name)
        reason = f"unforeseen {type(error).__name__}: {error}"
    return Judged(refused=[_refused(entry, reason)])


def _refused(entry: Entry, reason: str) -> dict[str, Any]:
    return {"file": _source(entry), "line": entry.line, "reason": reason}


def _sampled(
    entry: Entry, mesh: Mesh, report: RepairReport, samples: Samples, seed: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    digest = hashlib.sha256(f"{seed}:{_source(entry)}".encode("utf-8", "surrogateescape")).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    whole, placement = normalise(mesh)
    distance = SignedDistance(whole, samples.thickness)
    points, normals = distance.surface(samples.surface, generator)
    near = around(distance.surface(samples.near, generator)[0], generator)
    near = near.float().clamp(-BOX, BOX)
    volume = (2 * torch.rand(samples.volume, 3, generator=generator) - 1) * BOX
    record = {
        "surface": points.float(),
        "normals": normals.half(),
        "near": near,
        "near_sdf": distance(near),
        "volume": volume,
        "volume_sdf": distance(volume),
        "vertices": torch.from_numpy(whole.vertices).float(),
        "faces": torch.from_numpy(whole.faces).int(),
    }
    if samples.views:
        cameras = random_cameras(samples.views, generator)
        views = [render(whole, camera, samples.pixels).colour for camera in cameras]
        record["views"] = torch.stack(views).permute(0, 3, 1, 2).contiguous()
        record["cameras"] = torch.tensor([camera.numbers for camera in cameras])
    row = {
        "name": entry.name,
        "source": _source(entry),
        "class": entry.category,
        "caption": entry.caption or entry.category,
        "split": entry.split,
        "repairs": "; ".join(report.sentences()),
        "faces": len(mesh.faces),
        "parts": report.parts,
        "confidence": distance.confidence(),
        "sheets": distance.sheet_share,
        "scale": placement.scale,
        "digest": hashlib.sha256(record["vertices"].numpy().tobytes()).hexdigest(),
        "line": entry.line,
        "mended": report.mended,
    }
    return record, row


def _source(entry: Entry) -> str:
    return entry.file if entry.index < 0 else f"{entry.file}:{entry.name}"


def _finish(found: Extracted, fractions: Mapping[str, float], seed: int) -> Kept:
    """Leave repeated shapes out, and split what the table does not."""
    first: dict[str, str] = {}
    kept = []
    for index, row in enumerate(found.rows):
        if first.setdefault(row["digest"], row["source"]) == row["source"]:
            kept.append(index)
            continue
        reason = f"the same vertices as {first[row['digest']]}"
        found.rejected.append({"file": row["source"], "line": row["line"], "reason": reason})
    rows = [found.rows[index] for index in kept]
    split_all(rows, fractions, seed=seed, by="source")
    found.rejected.sort(key=lambda refusal: (refusal["line"], refusal["file"]))
    counts = {
        "classes": len({row["class"] for row in rows}),
        "repaired": sum(row["mended"] for row in rows),
        "unsure": sum(row["confidence"] < SURE for row in rows),
    }
    return Kept(kept, counts)
