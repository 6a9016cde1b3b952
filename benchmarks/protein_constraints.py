"""How well samples keep to what is asked of them, with the shipped weights, and at which cost.

    python benchmarks/protein_constraints.py --out FILE.json
    python benchmarks/protein_constraints.py --num 4 --rows C3 D2 --out FILE.json

Each row is one kind of constraint; ``free`` is the same network without any. Seconds are of one
core, per sample, all tries included. Rows that the file has of the same weights, steps and seed
stay in it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json
from rectiflow.storage.reading import read_json
from rectiflow_protein.composition import Composition
from rectiflow_protein.constraints import Constraint
from rectiflow_protein.contacts import Contact
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import read_structure
from rectiflow_protein.metrics import bonded, ca_ca_distances, peptide_geometry, superpose
from rectiflow_protein.motif import Motif, read_motif
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.resample import read_resample
from rectiflow_protein.result import NO_CB, BackboneSample
from rectiflow_protein.symmetry import Symmetry

TOLERANCE = 0.1  # of a share of helix or strand
CLASH = 3.5  # Å between CA of two copies


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", default="small_base")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--num", type=int, default=10, help="samples of each row")
    parser.add_argument("--tries", type=int, default=4, help="for shares of helix and strand")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", nargs="+", help="only rows whose names begin so")
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def bonds(samples: Sequence[BackboneSample]) -> dict[str, float]:
    """Shares of valid CA-CA distances and peptides: all, and where a motif meets the chain."""
    ca, peptide, junction, near = [], [], [], []
    for sample in samples:
        coords = torch.from_numpy(sample.atoms[:, NO_CB])
        valid = bonded(ca_ca_distances(coords[:, 1])).numpy()
        inside = np.zeros(len(coords), dtype=bool)
        inside[list(sample.motif)] = True
        meets = inside[1:] != inside[:-1]
        outside = ~(inside[1:] & inside[:-1])
        good = peptide_geometry(coords).valid.numpy()
        ca += valid[outside].tolist()
        peptide += good[outside].tolist()
        junction += valid[meets].tolist()
        near += good[meets].tolist()
    told = {"ca_ca": ca, "peptides": peptide, "junction_ca_ca": junction, "junction_peptides": near}
    return {name: float(np.mean(values)) for name, values in told.items() if values}


def motif_rmsd(samples: Sequence[BackboneSample], motif: Motif) -> dict[str, float]:
    """Largest RMSD of N, CA, C and O of the motif, Å."""
    target = torch.from_numpy(motif.coords).double().flatten(0, 1)
    found = []
    for sample in samples:
        atoms = torch.from_numpy(sample.atoms[list(sample.motif)][:, NO_CB]).double()
        off = superpose(atoms.flatten(0, 1), target) - target
        found.append(float(off.square().sum(-1).mean().sqrt()))
    return {"motif_rmsd_max": max(found)}


def kept(samples: Sequence[BackboneSample]) -> dict[str, float]:
    """Whether the residues of protein G that were not named are the file's, bit for bit."""
    before = read_structure(PROTEIN_G).coords
    stays = np.r_[0:19, 30:56]
    same = [np.array_equal(s.shown.coords[stays], before[stays]) for s in samples if s.shown]
    return {"rest_equal": float(np.mean(same))}


def shares(samples: Sequence[BackboneSample], wanted: Composition) -> dict[str, float]:
    """Share of samples whose helix and strand are within the tolerance, and the mean tries."""
    found = [sample.metrics() for sample in samples]
    hits = [
        all(
            share is None or abs(metrics[name] - share) <= TOLERANCE + 1e-9
            for name, share in (("helix", wanted.helix), ("strand", wanted.strand))
        )
        for metrics in found
    ]
    first = [hit and "tried" not in s.told for hit, s in zip(hits, samples, strict=True)]
    return {
        "within": float(np.mean(hits)),
        "within_at_first": float(np.mean(first)),
        "tries": float(np.mean([s.told.get("tried", 1) for s in samples])),
        "helix": float(np.mean([metrics["helix"] for metrics in found])),
        "strand": float(np.mean([metrics["strand"] for metrics in found])),
    }


def contact(samples: Sequence[BackboneSample]) -> dict[str, float]:
    """Largest distance of the two residues, Å."""
    return {"distance_max": max(s.told["contact_5_40"] for s in samples)}


def copies(samples: Sequence[BackboneSample], symmetry: Symmetry) -> dict[str, float]:
    """Largest difference of a copy from the first one turned, and clashes between copies."""
    from rectiflow.spaces import quat_to_rotmat

    turns, off, near = quat_to_rotmat(symmetry.rotations).numpy(), 0.0, []
    for sample in samples:
        assert sample.shown is not None
        found = sample.shown.coords.reshape(len(turns), -1, 3).astype(float)
        off = max(off, float(np.abs(found[0] @ turns.transpose(0, 2, 1) - found).max()))
        near.append(sample.told["copies_apart"])
    return {
        "copies_differ": off,
        "nearest_ca": float(min(near)),
        "clashing": float(np.mean([d < CLASH for d in near])),
    }


Row = tuple[str, int, list[Constraint], int, Callable[[Sequence[BackboneSample]], dict[str, float]]]


def rows(tries: int) -> list[Row]:
    """Name, length, constraints, tries and measure of each row."""
    one = read_motif(f"{PROTEIN_G}:A23-36")
    three = read_motif(f"{PROTEIN_G}:A1-8,A23-36,A50-56")
    loop = read_resample(read_structure(PROTEIN_G), "20-30", "protein_g.pdb")
    even, helical, sheet = Composition(0.3, 0.3), Composition(0.5, 0.1), Composition(strand=0.4)
    ring, dimer = Symmetry("C3"), Symmetry("D2")
    return [
        ("free", 60, [], 1, lambda s: {}),
        ("motif, one piece", 60, [one], 1, lambda s: motif_rmsd(s, one)),
        ("motif, three pieces", 70, [three], 1, lambda s: motif_rmsd(s, three)),
        ("resample 20-30", 56, [loop], 1, kept),
        ("helix 0.3, strand 0.3", 60, [even], tries, lambda s: shares(s, even)),
        ("helix 0.5, strand 0.1", 60, [helical], tries, lambda s: shares(s, helical)),
        ("strand 0.4", 60, [sheet], tries, lambda s: shares(s, sheet)),
        ("contact 5-40:6", 60, [Contact(5, 40, 6.0)], 1, contact),
        ("C3", 40, [ring], 1, lambda s: copies(s, ring)),
        ("D2", 40, [dimer], 1, lambda s: copies(s, dimer)),
    ]


def main() -> None:
    args = parse()
    torch.set_num_threads(1)
    pipe = BackbonePipeline.from_pretrained(args.weights)
    table: dict[str, dict[str, Any]] = {}
    for name, length, constraints, tries, measure in rows(args.tries):
        if args.rows and not name.startswith(tuple(args.rows)):
            continue
        started = time.process_time()
        result = pipe(
            [length] * args.num,
            steps=args.steps,
            seed=args.seed,
            constraints=constraints,
            tries=tries,
        )
        seconds = (time.process_time() - started) / args.num
        found = bonds(result.samples) | measure(result.samples)
        contacts = float(np.mean([sample.metrics()["contacts"] for sample in result.samples]))
        found |= {"contacts": contacts, "seconds_per_sample": seconds}
        table[name] = {"num": args.num} | {key: round(value, 5) for key, value in found.items()}
        print(name, *(f"{key} {value:.3g}" for key, value in table[name].items()), flush=True)
        before = read_json(args.out) if args.out.is_file() else {}
        settings = {"weights_hash": pipe.weights_hash, "steps": args.steps, "seed": args.seed}
        if settings.items() <= before.items():  # rows of an earlier run stay
            table = before["table"] | table
        document = {
            "date": date.today().isoformat(),
            "machine": describe_machine(),
            "weights": args.weights,
            **settings,
            "table": table,
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(args.out, document)


if __name__ == "__main__":
    main()
