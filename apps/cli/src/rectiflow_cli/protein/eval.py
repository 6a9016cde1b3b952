"""``rectiflow protein eval``: measure structures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Parser, positive, progress, table

from rectiflow_cli.errors import UsageError
from rectiflow_cli.protein.flags import add_solver, add_tools, lengths_of, make_solver, make_tools

if TYPE_CHECKING:
    from rectiflow.evaluation import Evaluation
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


class Eval(commands.Evaluate):
    """Measure structures: geometry, secondary structure, diversity; designability with tools.

    With --weights the structures are sampled first, and nothing is written.
    """

    domain = "protein"
    pipeline = "rectiflow_protein.pipeline:BackbonePipeline"
    examples = (
        "backbones -o measured",
        "--weights small --lengths 60,80,100 --num 4",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add files, or samples to make, and measures."""
        add = parser.group("what is measured")
        add("paths", metavar="DIR|FILE", nargs="*", help="Structure files, or folders of them.")
        add(
            "--lengths",
            type=lengths_of,
            metavar="A,B|A:B:STEP",
            help="Residues of what --weights samples.",
        )
        add("--num", type=positive, default=1, help="Samples of each length, with --weights.")
        add = parser.group("measures")
        add("--no-diversity", action="store_true", help="Do not compare all pairs.")
        add("--foldseek", metavar="TABLE", help="The result of a Foldseek search, for novelty.")
        add_tools(parser)
        add_solver(parser, steps=50)

    def measure(self, args: Any, progress: Any) -> tuple[Evaluation, dict[str, Any]]:
        """Measure files or samples."""
        from rectiflow_protein.evaluation import evaluate

        designer, predictor = make_tools(args)
        if bool(args.paths) == bool(args.weights):
            raise UsageError(
                f"eval measures files or a model, got {'both' if args.paths else 'neither'}; "
                "expected structure files, or --weights with --lengths."
            )
        chains, refused = (
            _read(args.paths, quiet=args.json) if args.paths else (self._sampled(args), {})
        )
        found = evaluate(
            chains,
            designer=designer,
            predictor=predictor,
            num_sequences=args.num_sequences,
            diversity=not args.no_diversity,
            novelty=_novelty(args.foldseek, chains) if args.foldseek else None,
            progress=progress,
        )
        return found, {"refused": refused}

    def _sampled(self, args: Any) -> list[Backbone]:
        if not args.lengths:
            raise UsageError("--weights samples backbones, got no --lengths; expected some.")
        lengths = [n for n in args.lengths for _ in range(args.num)]
        pipe = self.load(args)
        result = pipe(lengths, steps=args.steps, solver=make_solver(args), seed=args.seed)
        return [sample.backbone() for sample in result.samples]

    def tell(self, found: Evaluation) -> str:
        """Return a line for each structure, and the means."""
        return _text(found.rows, found.summary)


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


def _text(rows: list[dict[str, Any]], summary: dict[str, float]) -> str:
    shown = [{key: row[key] for key in _SHOWN if key in row} for row in rows[:_ROWS_SHOWN]]
    mean = {key: summary.get(key) for key in shown[0]} | {"name": "mean", "length": ""}
    lines = [table([*shown, mean])]
    if len(rows) > _ROWS_SHOWN:
        lines.append(f"({len(rows)} structures, the first {_ROWS_SHOWN} shown)")
    extra = [key for key in summary if key not in rows[0] and key != "count"]
    lines += [f"{key}: {summary[key]:.3f}" for key in extra]
    return "\n".join(lines)


main = Eval()
