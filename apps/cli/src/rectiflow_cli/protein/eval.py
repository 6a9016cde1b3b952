"""``rectiflow protein eval``: measure structures."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Measured, Parser, positive, progress, table

from rectiflow_cli.errors import UsageError
from rectiflow_cli.protein import flags

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rectiflow.evaluation import Evaluation
    from rectiflow_protein.io import Backbone

MOVIES = ("_trajectory", "_predictions")
"""Ends of the names of files that ``sample --trajectory`` writes beside a structure."""

_SHOWN = (
    "name",
    "length",
    "ca_ca_bonded",
    "peptide_valid",
    "ramachandran",
    "contacts",
    "helix",
    "strand",
    "radius_of_gyration",
    "sc_mean_displacement",
    "designable",
    "novelty_tm",
    "nearest_tm",
)
_ROWS_SHOWN = 20

AT_ONCE = 32
"""Structures that one worker measures together, where no tools do."""
TOGETHER = 16
"""Structures that one worker samples together."""


class Eval(flags.Protein, commands.Evaluate):
    """Measure structures: geometry, secondary structure, diversity; designability with tools.

    With --weights the structures are sampled first, and nothing is written.
    """

    examples = (
        "backbones -o measured",
        "--weights small --lengths 60,80,100 --num 4",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add files, or samples to make, and measures."""
        add = parser.group("what is measured")
        add("paths", metavar="DIR|FILE", nargs="*", help="Structure files, or folders of them.")
        flags.add_lengths(add, "what --weights samples")
        add("--num", type=positive, default=1, help="Samples of each length, with --weights.")
        add = parser.group("measures")
        add("--no-diversity", action="store_true", help="Do not compare all pairs.")
        add("--foldseek", metavar="TABLE", help="The result of a Foldseek search, for novelty.")
        add(
            "--known",
            metavar="SHARDS",
            help="Prepared chains: the TM-score of the most alike one of their train split, beside "
            "that of the held-out chains of the same lengths. Seconds for each chain.",
        )
        flags.add_bound(add)
        flags.add_tools(parser)
        flags.add_solver(parser, steps=50)

    def measure(self, args: Any, progress: Any) -> Measured:
        """Measure files or samples."""
        from rectiflow_protein.evaluation import Known, summarise

        if bool(args.paths) == bool(args.weights):
            raise UsageError(
                f"eval measures files or a model, got {'both' if args.paths else 'neither'}; "
                "expected structure files, or --weights with --lengths."
            )
        chains, told = (
            _read(args.paths, quiet=args.json, max_bytes=flags.max_bytes_of(args))
            if args.paths
            else (self._sampled(args, progress), {})
        )
        lengths = [len(chain.backbone) for chain in chains]
        named = {chain.backbone.name: chain.backbone for chain in chains}
        has_tools = bool(args.predictor)
        found, failures = self.each(
            args, partial(_measuring, args), named, progress, at_once=1 if has_tools else AT_ONCE
        )
        measured = summarise(
            [named[name] for name in found],
            list(found.values()),
            diversity=not args.no_diversity,
            novelty=_novelty(args.foldseek, chains) if args.foldseek else None,
            known=Known.read(args.known, min(lengths), max(lengths)) if args.known else None,
        )
        measured = replace(measured, failures=measured.failures | failures)
        return Measured(measured, told, partial(_figures, chains))

    def _sampled(self, args: Any, progress: Any) -> list[Chain]:
        if not args.lengths:
            raise UsageError("--weights samples backbones, got no --lengths; expected some.")
        numbers = list(enumerate(n for n in args.lengths for _ in range(args.num)))
        groups = [numbers[i : i + TOGETHER] for i in range(0, len(numbers), TOGETHER)]
        named = {str(group[0][0]): group for group in groups}
        found, _ = self.each(args, partial(self._sampling, args), named, progress)
        return [chain for chains in found.values() for chain in chains]

    def _sampling(self, args: Any) -> Callable[[list[tuple[int, int]]], list[Chain]]:
        """Load the network, and return what samples some lengths."""
        pipe = self.load(args)

        def sample(numbers: list[tuple[int, int]]) -> list[Chain]:
            result = pipe(
                [length for _, length in numbers],
                steps=args.steps,
                solver=flags.make_solver(args),
                seed=args.seed,
                indices=[number for number, _ in numbers],
                constraints=flags.make_constraints(args),
            )
            return [Chain(each.backbone(), each.name) for each in result.samples]

        return sample

    def tell(self, found: Evaluation) -> str:
        """Return a line for each structure, and the means."""
        return _text(found.rows, found.summary)


def _measuring(args: Any) -> Callable[[Backbone], Any]:
    """Make the tools, and return what measures a backbone."""
    from rectiflow_protein.evaluation import measure

    designer, predictor = flags.make_tools(args)
    return lambda backbone: measure(backbone, designer, predictor, args.num_sequences)


@dataclass(frozen=True)
class Chain:
    """A chain to measure, whose backbone has a name of its own, and its name without a folder."""

    backbone: Backbone
    short: str


def _read(paths: list[str], *, quiet: bool, max_bytes: int) -> tuple[list[Chain], dict[str, Any]]:
    """Read every chain, and tell what was left out of files and which were passed over.

    A bad file in a folder is passed over, a named one stops.
    """
    from rectiflow_protein.io import StructureError, read_structure

    structures: dict[Path, Backbone] = {}
    refused: dict[str, str] = {}
    named = {Path(path) for path in paths}
    for path in progress(_files(paths), "reading", quiet=quiet):
        try:
            structures[path] = read_structure(path, max_bytes=max_bytes)
        except StructureError as error:
            if path in named:
                raise
            refused[str(path)] = str(error)
            sys.stderr.write(f"passed over: {error}\n")
    if not structures:
        raise UsageError(
            f"none of {', '.join(paths)} holds a structure, got {len(refused)} file(s) that cannot "
            "be read; expected PDB or mmCIF files."
        )
    left_out = {str(path): [*s.dropped] for path, s in structures.items() if s.dropped}
    for file, texts in left_out.items():
        for text in texts:
            sys.stderr.write(f"left out of {file}: {text}\n")
    return _chains(structures), {"left_out": left_out, "refused": refused}


def _novelty(table: str, chains: list[Chain]) -> dict[str, float]:
    """Return TM-scores of the nearest known structures by the stems of the query files."""
    from rectiflow_protein.metrics import read_foldseek

    found = {Path(name).stem: score for name, score in read_foldseek(table).items()}
    known = Counter(chain.short for chain in chains if chain.short in found)
    if not known:
        raise UsageError(
            f"{table} has none of the structures, got {sorted(found)[:4]}; expected queries such "
            f"as {chains[0].short}.pdb. Search with the same files that are measured."
        )
    name, count = known.most_common(1)[0]
    if count > 1:
        raise UsageError(
            f"{table} cannot tell {count} structures apart that are all called {name}; expected "
            "one of a name. Search and measure each folder on its own."
        )
    return {chain.backbone.name: found[chain.short] for chain in chains if chain.short in found}


def _chains(structures: dict[Path, Backbone]) -> list[Chain]:
    """Chains by short names, and by their paths where those would be the same."""
    parts = [
        (path, key if several else "", part)
        for path, structure in structures.items()
        for several in [len(structure.chains()) > 1]
        for key, part in structure.chains().items()
    ]

    def named(start: str, key: str) -> str:
        return f"{start}_{key}" if key else start

    short = Counter(named(part.name, key) for _, key, part in parts)
    return [
        Chain(replace(part, name=name if short[name] == 1 else named(path.as_posix(), key)), name)
        for path, key, part in parts
        for name in [named(part.name, key)]
    ]


def _files(paths: list[str]) -> list[Path]:
    """Structure files, each once; movies of a folder are passed over for their structures."""
    from rectiflow_protein.io import format_of

    found: dict[Path, Path] = {}
    movies = 0
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"there is no {path}; expected structure files or folders of them.")
        if path.is_file():
            found.setdefault(path.resolve(), path)
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file() and format_of(p) is not None)
        for p in inside:
            if any(part.startswith(".") for part in p.relative_to(path).parts):
                continue
            if p.name.partition(".")[0].endswith(MOVIES):
                movies += 1
                continue
            found.setdefault(p.resolve(), p)
    if movies:
        sys.stderr.write(f"passed over: {movies} trajectories beside their structures\n")
    return list(found.values())


def _figures(chains: list[Chain]) -> dict[str, Figure]:
    """Draw torsions and distances of all, and the distance maps of the chains of the table."""
    import torch
    from rectiflow_protein import plots

    coords = [torch.from_numpy(chain.backbone.coords) for chain in chains]
    few = coords[:_ROWS_SHOWN]
    top = plots.largest_distance([x[:, 1] for x in few])
    drawn = {"ramachandran": plots.ramachandran(coords), "ca_ca": plots.ca_ca_histogram(coords)}
    for i, (chain, x) in enumerate(zip(chains, few, strict=False), 1):
        title = chain.backbone.name
        drawn[f"distances_{i:03d}"] = plots.distance_matrix(x[:, 1], title=title, top=top)
    return drawn


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
