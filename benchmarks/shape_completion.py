"""Half-scanned objects completed: chamfer distance to the hidden half, against mirror and Poisson.

Held-out meshes of the classes of the checkpoint, cut through the middle of their box by a plane
that looks anywhere around and from 20 degrees below to 40 above. The mirror baseline is told the
plane; Poisson closes the scan. Ours is told class and box, then neither box.

    python benchmarks/shape_completion.py MESHES --out benchmarks/results/shape_completion.json

MESHES holds ``metadata.csv`` with name, class and split, and ``meshes.npz`` with all meshes.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_shape import Asked, ShapePipeline
from rectiflow_shape.completion import complete
from rectiflow_shape.geometry import Mesh, SignedDistance, extract, normalise, surface_points
from rectiflow_shape.metrics import chamfer_l1
from rectiflow_shape.scan import Scan

POINTS, GRID, SIZE = 5000, 64, 1.5


def held_out(folder, classes, each):
    """Yield name, class and mesh of some shapes of each class that were not trained on."""
    arrays = np.load(folder / "meshes.npz")
    counts = Counter()
    with open(folder / "metadata.csv", newline="") as file:
        for i, row in enumerate(csv.DictReader(file)):
            counts[row["class"]] += row["split"] == "test" and row["class"] in classes
            if row["split"] == "test" and row["class"] in classes and counts[row["class"]] <= each:
                parts = [
                    arrays[name][arrays[f"{kind}_offsets"][i] : arrays[f"{kind}_offsets"][i + 1]]
                    for name, kind in (("vertices", "vertex"), ("faces", "face"))
                ]
                yield row["name"], row["class"], normalise(Mesh(*parts))[0]


def poisson(scan):
    """Return the surface of which the scan's normals are the gradient (Kazhdan et al., 2006).

    Solved by Fourier's transform on a lattice of 64³, smoothed over a cell and a half.
    """
    place = (torch.from_numpy(scan.points) / SIZE + 1) * GRID / 2
    low = place.floor().long()
    normals = torch.zeros(GRID**3, 3, dtype=torch.float64)
    for corner in np.ndindex(2, 2, 2):
        at = low + torch.tensor(corner)
        share = (1 - (place - at).abs()).prod(1, keepdim=True)
        index = (at[:, 0] * GRID + at[:, 1]) * GRID + at[:, 2]
        normals.index_add_(0, index, share * torch.from_numpy(scan.normals))
    f = torch.fft.fftfreq(GRID, dtype=torch.float64) * GRID
    waves = torch.stack(torch.meshgrid(f, f, f, indexing="ij"), -1)
    square = waves.square().sum(-1)
    smooth = torch.exp(-2 * (1.5 * math.pi / GRID) ** 2 * square)
    spectrum = torch.fft.fftn(normals.view(GRID, GRID, GRID, 3), dim=(0, 1, 2))
    # Normals look outward: the inside is where the solution is low.
    solved = -1j * (waves * spectrum).sum(-1) * smooth / square.clamp_min(1)
    chi = -torch.fft.ifftn(solved).real.float()[None, None]

    def field(xyz):
        at = ((xyz / SIZE + 1) * GRID / (GRID - 1) - 1).flip(-1).view(1, -1, 1, 1, 3)
        return torch.nn.functional.grid_sample(chi, at, align_corners=True).flatten()

    level = float(field(torch.from_numpy(scan.points).float()).mean())
    return extract(field, depth=6, level=level).mesh


def measure(pipe, name, kind, mesh, rng, generator):
    """Return the distances of one object."""
    points, normals = (x.numpy() for x in SignedDistance(mesh, 0.01).surface(30_000, generator))
    a, e = rng.uniform(0, 2 * math.pi), math.radians(rng.uniform(-20, 40))
    side = np.array([math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)])
    seen = points @ side > 0
    scan, hidden = Scan(points[seen], normals[seen]), torch.from_numpy(points[~seen])

    def off(found):
        found = found[torch.randperm(len(found), generator=generator)[:POINTS]]
        return round(float(chamfer_l1(found, hidden[:POINTS])), 4)

    def off_mesh(found):
        drawn = surface_points(found, 4 * POINTS, generator)[0]
        beyond = drawn[drawn @ torch.from_numpy(side) < 0]
        return off(beyond if len(beyond) else drawn)

    asked, told = Asked(0, kind), {"steps": 10, "guidance": 1.0, "depth": 6}
    began = time.process_time()
    ours = complete(pipe, scan, box=mesh.bounds, asked=asked, **told).samples[0]
    seconds = time.process_time() - began
    ways = {"no flow": {"box": mesh.bounds, "doubt": 0.0}, "ours, box not told": {}}
    return {
        "name": name,
        "class": kind,
        "guess": ours.told["guess"],
        "grids drawn": ours.told["grids_drawn"],
        "cpu_seconds": round(seconds, 2),
        "floor": off(hidden[POINTS:]),
        "mirror": off(torch.from_numpy(points[seen] - 2 * (points[seen] @ side)[:, None] * side)),
        "poisson": off_mesh(poisson(scan)),
        "ours": off_mesh(ours.mesh),
        **{
            way: off_mesh(complete(pipe, scan, asked=asked, **told, **more).samples[0].mesh)
            for way, more in ways.items()
        },
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--each", type=int, default=2, help="Objects of a class.")
    parser.add_argument("--out")
    args = parser.parse_args()
    pipe = ShapePipeline.from_pretrained("small")
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    rows = []
    for found in held_out(args.meshes, pipe.settings.classes, args.each):
        rows.append(measure(pipe, *found, rng, generator))
        print(json.dumps(rows[-1]), flush=True)
    ways = ("floor", "mirror", "poisson", "ours", "no flow", "ours, box not told")
    unsure = [row for row in rows if row["grids drawn"]]
    document = {
        "environment": environment(),
        "settings": {"weights": "small", "points": POINTS, "metric": "chamfer_l1, hidden half"},
        "mean": {way: round(float(np.mean([row[way] for row in rows])), 4) for way in ways},
        "median": {way: round(float(np.median([row[way] for row in rows])), 4) for way in ways},
        "mean where the flow draws": {
            way: round(float(np.mean([row[way] for row in unsure])), 4) for way in ways if unsure
        },
        "objects": rows,
    }
    print(json.dumps(document["mean"]))
    if args.out:
        write_json(args.out, document)


if __name__ == "__main__":
    main()
