"""Problem lists of motif benchmarks, and the table that MotifBench's evaluation reads.

Three tables are in use: MotifBench's ``test_cases.csv`` (``pdb_id``, ``motif_residues``,
``length``), its contigs (``problem``, ``length``, ``contig``), and the list of RFdiffusion's and
FrameFlow's problems (``target``, ``length``, ``contig``).

References
----------
Zheng et al., "MotifBench: A standardized protein design benchmark for motif-scaffolding problems"
(arXiv 2502.12479).
"""

from __future__ import annotations

import csv
import io
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rectiflow.storage.files import write_bytes

from rectiflow_protein.io import format_of, read_structure
from rectiflow_protein.motif import Motif, read_motif

INFO = "scaffold_info.csv"
"""The table of a problem's scaffolds."""


@dataclass(frozen=True)
class Problem:
    """A motif to scaffold.

    Attributes
    ----------
    name : str
        As the benchmark calls it, such as ``01_1LDB``.
    motif : Motif
    lengths : (int, int), optional
        Least and most residues of a scaffold; by the contig if absent.
    letters : tuple of str
        What the benchmark calls each segment, in the order of the motif.
    """

    name: str
    motif: Motif
    lengths: tuple[int, int] | None
    letters: tuple[str, ...]

    def draw_length(self, generator: torch.Generator) -> int:
        """Draw the length of a scaffold."""
        if self.lengths is None:
            return self.motif.draw_length(generator)
        least, most = self.lengths
        return int(torch.randint(least, most + 1, (), generator=generator))

    def placement(self, rows: Sequence[int], length: int) -> str:
        """Return ``12/B/15/A/29``: free residues and segments along a chain.

        Parameters
        ----------
        rows : sequence of int
            The motif's residues in the chain, counted from 1.
        length : int
            Residues of the chain.
        """
        parts, at, k = [], 1, 0
        for segment, letter in zip(self.motif.segments, self.letters, strict=True):
            parts += [str(rows[k] - at)] * (rows[k] > at) + [letter]
            at, k = rows[k] + len(segment), k + len(segment)
        return "/".join(parts + [str(length + 1 - at)] * (at <= length))


def read_problems(table: Path | str, structures: Path | str) -> list[Problem]:
    """Read a list of problems.

    Parameters
    ----------
    table : Path or str
        A CSV file.
    structures : Path or str
        A folder with a structure for each problem: the benchmark's motif file, or the whole
        structure, called like the problem or like its entry in the Protein Data Bank.

    Raises
    ------
    ValueError
        When a column, a structure or a residue is missing.
    """
    text = Path(table).read_text(encoding="utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    columns = set(rows[0]) if rows else set()
    if not ({"problem", "contig"} <= columns or {"target", "contig"} <= columns) and not (
        {"pdb_id", "motif_residues"} <= columns
    ):
        raise ValueError(
            f"{table} is no list of motif problems, got the columns {sorted(map(str, columns))}; "
            "expected pdb_id and motif_residues, or problem (or target) and contig."
        )
    known = {
        path.name.partition(".")[0].lower(): path
        for path in sorted(Path(structures).iterdir())
        if format_of(path) is not None
    }
    return [_problem(row, number, known, structures) for number, row in enumerate(rows, start=1)]


def _problem(
    row: Mapping[str, str], number: int, known: Mapping[str, Path], structures: Path | str
) -> Problem:
    if not (row.get("contig") or row.get("motif_residues")):
        raise ValueError(f"row {number} names no residues of a motif, got {dict(row)}.")
    entry = row.get("problem") or row.get("target") or row["pdb_id"]
    name = entry if "pdb_id" not in row else f"{number:02d}_{entry}"
    path = known.get(name.lower()) or known.get(entry.lower())
    if path is None:
        raise ValueError(
            f"{structures} has no structure of problem {name}, got {len(known)} structures; "
            f"expected {name}.pdb or {entry}.cif, say. Get the motif files of the benchmark."
        )
    if row.get("contig"):
        motif = read_motif(str(path), row["contig"])
        letters = tuple(segment.chain_ids[0] for segment in motif.segments)
    elif path.name.lower().startswith(name.lower()):  # the motif alone, a chain for each segment
        motif = Motif(list(read_structure(path).chains().values()), str(path))
        letters = tuple(segment.chain_ids[0] for segment in motif.segments)
    else:
        motif = read_motif(f"{path}:{row['motif_residues'].replace(';', ',')}")
        letters = tuple(string.ascii_uppercase[: len(motif.segments)])
    if len(set(letters)) < len(letters):
        letters = tuple(string.ascii_uppercase[: len(letters)])
    return Problem(name, motif, _lengths(row.get("length", ""), name), letters)


def _lengths(text: str, name: str) -> tuple[int, int] | None:
    if not text.strip():
        return None
    least, _, most = text.strip().partition("-")
    if not least.isdecimal() or not (most or least).isdecimal():
        raise ValueError(f"problem {name} has the length {text!r}; expected 125 or 60-105, say.")
    return int(least), int(most or least)


def write_info(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table of a problem's scaffolds, of rows with these two columns."""
    content = io.StringIO()
    table = csv.writer(content, lineterminator="\n")
    table.writerow(["sample_num", "motif_placements"])
    for row in sorted(rows, key=lambda row: row["sample_num"]):
        table.writerow([row["sample_num"], row["motif_placements"]])
    write_bytes(path, content.getvalue().encode())
