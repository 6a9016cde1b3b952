"""What a mosaic of n grids of k values keeps of a mesh, beside a dense grid of as many numbers.

For each n and k: the mean error of the field near the surface before and after the optimisation,
the Chamfer distance (L1), F-score and IoU of the extracted surface, and seconds of one core per
shape. The dense grid has as many values, spread over the box and read trilinearly, as in the
comparison of the paper (Yariv et al., "Mosaic-SDF", CVPR 2024); its error is measured at the same
points. Shapes are 1.9 long. Where so few values have no surface at all, a shape is ``lost``, and
the means are those of the others.

    rectiflow shape prepare MESHES -o SHARDS
    python benchmarks/shape_mosaic.py --data SHARDS --out benchmarks/results/shape_mosaic.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from environment import environment
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_shape.data.mosaics import outline_of
from rectiflow_shape.data.prepared import PreparedShapes, mesh_of
from rectiflow_shape.geometry import BOX, Mesh, extract
from rectiflow_shape.mosaic import FitSettings, MosaicField
from rectiflow_shape.mosaic.fit import refine, start
from rectiflow_shape.reconstruction import compare
from torch import Tensor


class DenseGrid:
    """Signed distances on a lattice of the box, read trilinearly; positive inside.

    Parameters
    ----------
    values : Tensor, shape (n, n, n)
        Negative inside, x slowest.
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values.permute(2, 1, 0)[None, None]  # grid_sample has x fastest

    def __call__(self, points: Tensor) -> Tensor:
        """Return the field at points (q, 3)."""
        at = (points / BOX).view(1, 1, 1, -1, 3)
        found = F.grid_sample(self.values, at, align_corners=True, padding_mode="border")
        return -found.view(-1)


def dense(distance: Any, numbers: int) -> DenseGrid:
    """Fill the largest lattice of at most so many numbers."""
    side = int(numbers ** (1 / 3) + 1e-9)
    axis = torch.linspace(-BOX, BOX, side)
    points = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
    return DenseGrid(distance(points).float().view(side, side, side))


def measured(mesh: Mesh, field: Any, depth: int, name: str) -> dict[str, float]:
    """Extract a field's surface, if it has one, and compare it with the mesh."""
    try:
        found = extract(field, depth=depth).mesh
    except ValueError:  # no value of the other sign
        return {"lost": 1.0}
    return {"lost": 0.0, **compare(found, mesh, counter_generator("compare", name))}


def on_shape(name: str, mesh: Mesh, settings: FitSettings, depth: int) -> dict[str, Any]:
    """Measure a mosaic and the grid of as many numbers on one shape."""
    began = time.process_time()
    generator = counter_generator("fit", name)
    points, normals, distance = outline_of(mesh, generator)
    started = start(points, normals, distance, settings, generator)
    [fitted] = refine([started], settings, generator)
    seconds = time.process_time() - began
    numbers = settings.grids * (4 + settings.resolution**3)
    grid = dense(distance, numbers)
    off = (-grid(started.near) - started.distance).abs().mean()
    row = {
        "mosaic": {
            "error_before": fitted.error_before,
            "error": fitted.error,
            **measured(mesh, MosaicField(fitted.mosaic).inside_positive, depth, name),
        },
        "dense": {"error": float(off), **measured(mesh, grid, depth, name)},
    }
    return {"name": name, "numbers": numbers, "seconds": seconds, **row}


def mean(rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """Return the means of one kind's figures, each over the shapes that have it."""
    found = [row[kind] for row in rows]
    names = dict.fromkeys(key for each in found for key in each)
    having = {key: [each[key] for each in found if key in each] for key in names}
    return {key: sum(values) / len(values) for key, values in having.items()}


def main() -> None:
    """Measure, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="What `rectiflow shape prepare` left.")
    parser.add_argument("--split", default="test")
    parser.add_argument("--num", type=int, default=6, help="Shapes, evenly spaced.")
    parser.add_argument("--grids", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--resolution", type=int, nargs="+", default=[5, 7])
    parser.add_argument("--fit-steps", type=int, default=100)
    parser.add_argument("--depth", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    prepared = PreparedShapes(args.data)
    rows = prepared.some_rows(args.split).tolist()
    chosen = [rows[i * len(rows) // args.num] for i in range(min(args.num, len(rows)))]
    table = []
    for grids in args.grids:
        for resolution in args.resolution:
            settings = FitSettings(grids, resolution, steps=args.fit_steps)
            found = []
            for row in chosen:
                name = str(prepared.table["name"][row])
                found.append(on_shape(name, mesh_of(prepared.records[row]), settings, args.depth))
            table.append(
                {
                    "grids": grids,
                    "resolution": resolution,
                    "numbers": found[0]["numbers"],
                    "seconds": sum(each["seconds"] for each in found) / len(found),
                    "mosaic": mean(found, "mosaic"),
                    "dense": mean(found, "dense"),
                    "shapes": found,
                }
            )
            print(json.dumps({k: v for k, v in table[-1].items() if k != "shapes"}), flush=True)
    told = {"split": args.split, "fit_steps": args.fit_steps, "depth": args.depth}
    if args.out:
        write_json(args.out, {"environment": environment(), **told, "table": table})


if __name__ == "__main__":
    main()
