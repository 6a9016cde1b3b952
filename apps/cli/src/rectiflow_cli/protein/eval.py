"""``rectiflow protein eval``: measure structures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, claimed_evaluation, pick_device, table
from rectiflow_cli.progress import counter, progress
from rectiflow_cli.protein.options import Parser, make_tools

if TYPE_CHECKING:
    from rectiflow_protein.io import Backbone

MOVIES = ("_trajectory", "_predictions")
"""Ends of the names of files that ``sample --trajectory`` writes beside a structure."""

_SHOWN = (
    "name",
    "length",
    "ca_ca_valid",
    "peptide_valid",
    "ramachandran",
    "clashes",
    "helix",
    "strand",
    "radius_of_gyration",
    "sc_mean_displacement",
    "designable",
    "novelty_tm",
)
_ROWS_SHOWN = 20


def _parser() -> Parser:
    parser = Parser("eval", main.__doc__)
    add = parser.add_argument
    add("paths", metavar="DIR|FILE", nargs="+", help="structure files, or folders of them")
    add("-o", "--out", metavar="DIR", help="write metrics.csv and summary.json there")
    add("--no-diversity", action="store_true", help="do not compare all pairs")
    add("--device", default="auto", help="of the predictor")
    add("--foldseek", metavar="TABLE", help="result of a Foldseek search, for novelty")
    parser.add_tools()
    parser.add_overwrite()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Measure structures: geometry, secondary structure, diversity; designability with tools.

    Raises
    ------
    UsageError
        When there is no structure to measure, or a tool is missing.
    """
    args = _parser().parse_args(argv)
    designer, predictor = make_tools(args, pick_device(args.device))
    chains, refused = _read(args.paths, quiet=args.json)
    from rectiflow_protein.evaluation import evaluate

    with (
        claimed_evaluation(args.out, args.paths, overwrite=args.overwrite),
        counter("measuring", unit="chain", quiet=args.json) as show,
    ):
        found = evaluate(
            chains,
            designer=designer,
            predictor=predictor,
            num_sequences=args.num_sequences,
            diversity=not args.no_diversity,
            novelty=_novelty(args.foldseek, chains) if args.foldseek else None,
            progress=show,
        )
        written = found.save(args.out) if args.out else []
    document = {
        "summary": found.summary,
        "structures": found.rows,
        "refused": refused,
        "files": written,
    }
    answer(document, _text(found.rows, found.summary, written), as_json=args.json)
    return DONE


def _read(paths: list[str], *, quiet: bool) -> tuple[list[Backbone], dict[str, str]]:
    """Read every chain; a bad file in a folder is passed over with a word, a named one stops."""
    from rectiflow_protein.io import StructureError, read_structure

    chains: list[Backbone] = []
    refused: dict[str, str] = {}
    named = {Path(path) for path in paths}
    for path in progress(_files(paths), "reading", quiet=quiet):
        try:
            structure = read_structure(path)
        except StructureError as error:
            if path in named:
                raise
            refused[str(path)] = str(error)
            sys.stderr.write(f"passed over: {error}\n")
            continue
        chains += _chains(structure)
    if not chains:
        raise UsageError(
            f"none of {', '.join(paths)} holds a structure, got {len(refused)} file(s) that cannot "
            "be read; expected PDB or mmCIF files."
        )
    return chains, refused


def _novelty(table: str, chains: list[Backbone]) -> dict[str, float]:
    """Return TM-scores of the nearest known structures by the stems of the query files."""
    from rectiflow_protein.metrics import read_foldseek

    found = {Path(name).stem: score for name, score in read_foldseek(table).items()}
    if not any(chain.name in found for chain in chains):
        raise UsageError(
            f"{table} has none of the structures, got {sorted(found)[:4]}; expected queries such "
            f"as {chains[0].name}.pdb. Search with the same files that are measured."
        )
    return found


def _chains(structure: Backbone) -> list[Backbone]:
    from dataclasses import replace

    parts = structure.chains()
    if len(parts) == 1:
        return [structure]
    return [replace(part, name=f"{structure.name}_{key}") for key, part in parts.items()]


def _files(paths: list[str]) -> list[Path]:
    from rectiflow_protein.io import format_of

    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"there is no {path}; expected structure files or folders of them.")
        if path.is_file():
            found.append(path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file() and format_of(p) is not None)
        found += [
            p
            for p in inside
            if not any(part.startswith(".") for part in p.relative_to(path).parts)
            and not p.name.partition(".")[0].endswith(MOVIES)
        ]
    return found


def _text(rows: list[dict[str, Any]], summary: dict[str, float], written: list[Path]) -> str:
    shown = [{key: row[key] for key in _SHOWN if key in row} for row in rows[:_ROWS_SHOWN]]
    mean = {key: summary.get(key) for key in shown[0]} | {"name": "mean", "length": ""}
    lines = [table([*shown, mean])]
    if len(rows) > _ROWS_SHOWN:
        lines.append(f"({len(rows)} structures, the first {_ROWS_SHOWN} shown)")
    extra = [key for key in summary if key not in rows[0] and key != "count"]
    lines += [f"{key}: {summary[key]:.3f}" for key in extra]
    if written:
        lines.append(f"wrote {', '.join(str(path) for path in written)}")
    return "\n".join(lines)
