"""Meshes fused from renders of their normals, and their visual hulls, against the truth.

Held-out meshes, scaled into the unit ball and seen by Direct2.5's four cameras, and by twelve.

    python benchmarks/shape_fusion.py MESHES --out benchmarks/results/shape_fusion.json

MESHES holds ``metadata.csv`` with name, class and split, and ``meshes.npz`` with all meshes.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from environment import environment
from rectiflow.storage.files import write_json
from rectiflow_shape.fusion import fuse_normals
from rectiflow_shape.geometry import Mesh, certificate
from rectiflow_shape.reconstruction import compare
from rectiflow_shape.render import Camera, render
from shape_completion import held_out

CLASSES = ("bottle", "cabinet", "lamp", "rock", "seat", "table", "tree")
AROUND = [Camera(azimuth, 0.0, 60.0) for azimuth in range(0, 360, 90)]
ALL_AROUND = [
    Camera(azimuth, elevation, 60.0)
    for elevation in (-45.0, 0.0, 45.0)
    for azimuth in range(0, 360, 90)
]


def measure(mesh, cameras):
    """Return how far the hull and the fused mesh are from a mesh."""
    seen = [render(mesh, camera) for camera in cameras]
    normals = torch.stack([picture.normals for picture in seen])
    masks = torch.stack([picture.mask.float() for picture in seen])
    started = time.process_time()
    fused = fuse_normals(normals, masks, cameras)
    row = {"seconds": time.process_time() - started, "passed": certificate(fused.mesh).passed}
    for name, found in (("hull", fused.hull), ("fused", fused.mesh)):
        row[name] = compare(found, mesh, torch.Generator().manual_seed(0))
    return row


def main() -> None:
    """Measure, tell, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("meshes", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=1, help="Meshes of a class.")
    parser.add_argument("--all-around", action="store_true", help="Twelve views too.")
    args = parser.parse_args()
    torch.set_num_threads(1)
    views = {"4": AROUND} | ({"12": ALL_AROUND} if args.all_around else {})
    rows = []
    for name, kind, mesh in held_out(args.meshes, CLASSES, args.each):
        whole = Mesh(mesh.vertices / np.linalg.norm(mesh.vertices, axis=1).max(), mesh.faces)
        for number, cameras in views.items():
            rows.append(
                {"name": name, "class": kind, "views": int(number), **measure(whole, cameras)}
            )
            means = {}
            for n in views:
                own = [row for row in rows if row["views"] == int(n)]
                for what in ("hull", "fused"):
                    means[f"{what}, {n} views"] = (
                        {k: float(np.mean([row[what][k] for row in own])) for k in own[0][what]}
                        if own
                        else {}
                    )
            write_json(
                args.out, {"environment": environment(), "mean": means, "meshes": rows}, indent=1
            )


if __name__ == "__main__":
    main()
