"""How well shapes come back, and how like a set of real ones generated ones are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.evaluation import Evaluation
from rectiflow.randomness import counter_generator

from rectiflow_shape.data.prepared import PreparedShapes, mesh_of
from rectiflow_shape.geometry import Mesh, certificate, surface_points
from rectiflow_shape.metrics import chamfer, cov, mmd, one_nna, pairwise
from rectiflow_shape.reconstruction import compare

if TYPE_CHECKING:
    from torch import Tensor

Tick = Callable[[float, float], None]
Rebuild = Callable[[Mesh, torch.Generator], Mesh]
"""A mesh through a representation and back."""

POINTS = 2048
"""On each shape of a set, as is usual."""

LEAST = 4
"""Real shapes of a class below which the measures of a set say nothing."""


def evaluate_reconstruction(
    prepared: PreparedShapes,
    split: str,
    rebuild: Rebuild,
    *,
    seed: int = 0,
    limit: int | None = None,
    progress: Tick | None = None,
) -> Evaluation:
    """Rebuild the shapes of a split and measure how far each is from itself.

    Parameters
    ----------
    prepared : PreparedShapes
        Of whole meshes.
    split : str
    rebuild : callable
        Of a normalised mesh.
    seed : int
        Of what is drawn.
    limit : int, optional
        Only so many, evenly spaced.
    progress : callable, optional
    """
    rows, failures = [], {}
    chosen = chosen_rows(prepared, split, limit)
    for done, (name, row) in enumerate(chosen.items()):
        try:
            rows.append(measure_reconstruction(prepared, row, rebuild, seed=seed))
        except ValueError as error:
            failures[name] = str(error)
        if progress is not None:
            progress(done + 1, len(chosen))
    return reconstructions(rows, split, failures)


def chosen_rows(prepared: PreparedShapes, split: str, limit: int | None = None) -> dict[str, int]:
    """Return the rows of a split by the names of their shapes, or so many, evenly spaced."""
    rows = prepared.some_rows(split).tolist()
    count = min(limit or len(rows), len(rows))
    some = [rows[i * len(rows) // count] for i in range(count)]
    return {str(prepared.table["name"][row]): row for row in some}


def measure_reconstruction(
    prepared: PreparedShapes, row: int, rebuild: Rebuild, *, seed: int = 0
) -> dict[str, Any]:
    """Rebuild a shape and return how far it is from itself."""
    name = str(prepared.table["name"][row])
    mesh = mesh_of(prepared.records[row])
    found = rebuild(mesh, counter_generator("rebuild", seed, name))
    errors = compare(found, mesh, counter_generator("compare", seed, name))
    told: dict[str, Any] = {"name": name, "class": str(prepared.table["class"][row])}
    return told | errors | {"passed": certificate(found).passed}


def reconstructions(
    rows: list[dict[str, Any]], split: str, failures: Mapping[str, str]
) -> Evaluation:
    """Return the table of what :func:`measure_reconstruction` found, with its means."""
    summary = _means(rows) | {"shapes": len(rows), "split": split}
    return Evaluation(rows, summary, dict(failures))


def evaluate_generation(
    generated: Mapping[str, Sequence[Mesh]],
    real: Mapping[str, Sequence[Mesh]],
    training: Mapping[str, Sequence[Mesh]],
    *,
    seed: int = 0,
    progress: Tick | None = None,
) -> Evaluation:
    """Measure generated shapes against real ones, class by class.

    Distances are Chamfer distances with squares of 2048 points on normalised shapes; of each class
    as many shapes are compared as both sets have. ``nearest_training`` is the mean distance to the
    nearest training shape, ``real_nearest_training`` that of real ones, and ``random_*`` are the
    same measures of training shapes in place of generated ones: what a copy would reach.

    Parameters
    ----------
    generated, real, training : mapping of str to sequence of Mesh
        By class.
    seed : int
        Of the points.
    progress : callable, optional
    """
    rows: list[dict[str, Any]] = []
    names = [n for n in generated if min(len(generated[n]), len(real.get(n, ()))) >= LEAST]
    for done, name in enumerate(names):
        generator = counter_generator("evaluate", seed, name)
        count = min(len(generated[name]), len(real[name]))
        made, held = (_clouds(of[name][:count], generator) for of in (generated, real))
        known = _clouds(training[name], generator)
        parts = [certificate(mesh).components for mesh in generated[name]]
        row: dict[str, Any] = {"name": name, "shapes": count, **_of_sets(made, held)}
        row["nearest_training"] = float(pairwise(made, known, chamfer).amin(1).mean())
        row["real_nearest_training"] = float(pairwise(held, known, chamfer).amin(1).mean())
        row["one_part"] = sum(part == 1 for part in parts) / len(parts)
        if len(known) >= count:
            order = torch.randperm(len(known), generator=generator)[:count].tolist()
            copies = _of_sets([known[i] for i in order], held)
            row |= {f"random_{measure}": value for measure, value in copies.items()}
        rows.append(row)
        if progress is not None:
            progress(done + 1, len(names))
    return Evaluation(rows, _means(rows) | {"classes": len(rows), "points": POINTS})


def meshes_by_class(
    prepared: PreparedShapes, splits: Sequence[str], limit: int | None = None
) -> dict[str, list[Mesh]]:
    """Return the meshes of some splits by class, at most so many of each."""
    found: dict[str, list[Mesh]] = {}
    for split in splits:
        for row in prepared.rows(split).tolist():
            own = found.setdefault(str(prepared.table["class"][row]), [])
            if limit is None or len(own) < limit:
                own.append(mesh_of(prepared.records[row]))
    return found


def _of_sets(made: list[Tensor], held: list[Tensor]) -> dict[str, float]:
    across = pairwise(made, held, chamfer)
    own, theirs = pairwise(made, made, chamfer), pairwise(held, held, chamfer)
    return {
        "mmd": float(mmd(across)),
        "cov": float(cov(across)),
        "one_nna": float(one_nna(own, across, theirs)),
    }


def _clouds(meshes: Sequence[Mesh], generator: torch.Generator) -> list[Tensor]:
    return [surface_points(mesh, POINTS, generator)[0] for mesh in meshes]


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = dict.fromkeys(n for row in rows for n, v in row.items() if isinstance(v, float | bool))
    return {
        name: sum(float(row[name]) for row in rows if name in row)
        / max(1, sum(name in row for row in rows))
        for name in names
    }
