"""Make the table of favoured torsions from natural chains.

    python tools/ramachandran_regions.py BACKBONES.npz packages/protein/src/rectiflow_protein/metrics/ramachandran.txt

(phi, psi) of every residue but glycine is counted in cells of 5 degrees and smoothed by a Gaussian
of 8 degrees on the torus. The favoured cells are the densest that hold 98 % of the residues, as in
Lovell et al., "Structure validation by C-alpha geometry" (2003).
"""  # noqa: E501

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from rectiflow_protein.data import read_archive
from rectiflow_protein.metrics import torsions
from rectiflow_protein.metrics.ramachandran import CELL, FAVOURED

WIDTH = 8.0  # degrees
SHARE = 0.98


def density(phi: np.ndarray, psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return smoothed counts and counts by psi (rows, upwards from -180) and phi (columns)."""
    edges = np.arange(-180, 181, CELL)
    counts = np.histogram2d(psi, phi, bins=[edges, edges])[0]
    frequency = np.fft.fftfreq(len(edges) - 1, d=CELL)
    kernel = np.exp(-2 * (np.pi * WIDTH * frequency) ** 2)
    return np.fft.ifft2(np.fft.fft2(counts) * kernel[:, None] * kernel).real, counts


def main() -> None:
    """Read an archive of backbones and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("table", type=Path)
    args = parser.parse_args()
    found = []
    for backbone in read_archive(args.archive).backbones:
        angles = torsions(torch.from_numpy(backbone.coords))
        pair = torch.rad2deg(torch.stack([angles.phi, angles.psi])).numpy()
        found.append(pair[:, np.array(list(backbone.sequence)) != "G"])
    phi, psi = np.concatenate(found, 1)
    known = np.isfinite(phi + psi)
    smooth, counts = density(phi[known], psi[known])
    order = np.argsort(-smooth, axis=None)
    held = np.cumsum(counts.ravel()[order]) / counts.sum()
    cells = np.full(smooth.size, ".")
    cells[order[: np.searchsorted(held, SHARE) + 1]] = FAVOURED
    rows = cells.reshape(smooth.shape)[::-1]  # psi downwards, as it is drawn
    partial = args.table.with_name(f".{args.table.name}.partial")
    partial.write_text("".join("".join(row) + "\n" for row in rows), encoding="ascii")
    os.replace(partial, args.table)
    print(f"{known.sum()} residues, {(cells == FAVOURED).sum()} of {cells.size} cells favoured")


if __name__ == "__main__":
    main()
