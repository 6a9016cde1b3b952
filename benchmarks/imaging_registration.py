"""How well one head is brought onto another, by the overlap of structures that it was not told.

    python benchmarks/imaging_registration.py --out benchmarks/results/imaging_registration.json

Noisy slices of Shepp and Logan's heads that differ in shape, place and contrast of their parts.
Mean Dice over the inside of the skull, both ventricles and the grey body above them, before and
after, and the share of pixels where the map folds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from environment import environment
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import write_json
from rectiflow_imaging.io import Volume
from rectiflow_imaging.phantoms import shepp_logan
from rectiflow_imaging.registration import LIKENESS, Registration, register

SIDE, VARY, NOISE, KINDS = 48, 0.12, 0.05, (2, 3, 4, 5)


def head(number: int) -> Volume:
    """Draw a slice with noise, and the labels of four structures."""
    drawn = shepp_logan((1, SIDE, SIDE), counter_generator("registration", number), vary=VARY)
    noise = NOISE * np.random.default_rng(number).standard_normal(drawn.values.shape)
    labels = np.where(np.isin(drawn.labels, KINDS), drawn.labels, 0).astype(np.uint8)
    return Volume((drawn.values.numpy() + noise).astype(np.float32), labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--weight", type=float, nargs="+", default=[Registration.weight])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for name, likeness in LIKENESS.items():
        for weight in args.weight:
            found = [
                register(head(2 * i), head(2 * i + 1), Registration(likeness, weight=weight))
                for i in range(args.pairs)
            ]
            own = [each.measured["registered"] for each in found]
            means = {key: float(np.mean([row[key] for row in own])) for key in own[0]}
            means["seconds"] = float(np.median([each.seconds for each in found]))
            rows.append({"by": name, "weight": weight, **means})
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()})
    if args.out:
        told = {"pairs": args.pairs, "rows": rows, "environment": environment()}
        write_json(args.out, told)


if __name__ == "__main__":
    main()
