"""Held-out phantoms from few views: filtering, total variation, a prior, and one between slices.

    python benchmarks/imaging_views.py --num 4 --out benchmarks/results/imaging_views.json

Bodies of ellipsoids of another seed than the training's, 16 slices each; ``--sigma`` is the noise
of the readings, as a share of the largest.
``order`` tells whether the mean PSNR grows from each method to the next. The weight of the total
variation lies between the best for 8 and for 16 views of those that ``--tune`` tries elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from environment import environment
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_imaging.io import Volume
from rectiflow_imaging.phantoms import ellipsoids
from rectiflow_imaging.pipeline import ImagePipeline
from rectiflow_imaging.reconstruction import ByPrior, Reconstruction, Smooth, methods

SEED, TUNED = 77, 78


def bodies(num: int, seed: int, side: int, slices: int = 16) -> list[Volume]:
    """Draw bodies at half again the side, as those of the training were finer than the network."""
    shape = (slices, side * 3 // 2, side * 3 // 2)
    return [
        Volume(ellipsoids(shape, counter_generator("imaging views", seed, i)).values.numpy())
        for i in range(num)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="Without, what needs no prior is measured.")
    parser.add_argument("--num", type=int, default=8)
    parser.add_argument("--views", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--sigma", type=float, default=0.0)
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    pipe = ImagePipeline.from_pretrained(args.weights) if args.weights else ImagePipeline(side=32)
    known: dict[str, Reconstruction] = methods(args.steps)
    if args.tune:
        known = {f"tv {lam:g}": Smooth(lam) for lam in (0.003, 0.01, 0.03, 0.1)}
        if args.weights:
            known = {
                f"stack {lam:g} {rho:g} {inner}": ByPrior(args.steps, lam, rho, inner)
                for lam, rho, inner in ((0, 10, 8), (0.04, 10, 8), (0.2, 10, 8), (0.2, 1, 8))
            }
    elif not args.weights:
        known = {name: known[name] for name in ("fbp", "tv")}
    rows = []
    for views in args.views:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in known}
        for i, body in enumerate(bodies(args.num, TUNED if args.tune else SEED, pipe.side)):
            made = pipe.reconstruct(body, known, views=views, sigma=args.sigma, seed=i)
            for name, row in made.measured.items():
                found[name].append(row)
        for name, own in found.items():
            means = {key: float(np.mean([row[key] for row in own])) for key in own[0]}
            rows.append({"views": views, "method": name, "bodies": args.num, **means})
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()})
    order = {
        views: bool((np.diff([r["psnr"] for r in rows if r["views"] == views]) > 0).all())
        for views in args.views
    }
    print("order", order)
    if args.out:
        told = {
            "weights": args.weights,
            "steps": args.steps,
            "sigma": args.sigma,
            "rows": rows,
            "order": order,
        }
        write_json(args.out, told | {"environment": environment()})


if __name__ == "__main__":
    main()
