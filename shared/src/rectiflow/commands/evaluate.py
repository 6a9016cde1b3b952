"""``eval``: measure files, or with ``--weights`` what a model makes."""

from __future__ import annotations

import sys
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser
from rectiflow.commands.progress import counter
from rectiflow.commands.verb import PipelineVerb
from rectiflow.evaluation import Evaluation
from rectiflow.figures import save_figure
from rectiflow.storage.folders import claim

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Measured:
    """Metrics, what else the document tells, and what draws figures of them, by name."""

    metrics: Evaluation
    told: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[], Mapping[str, Figure]] = dict


class Evaluate(PipelineVerb):
    """Measure files, or with --weights what a model makes."""

    name = "eval"

    def flags(self, parser: Parser) -> None:
        """Add the flags of every domain around the domain's own."""
        self.own_flags(parser)
        parser.add_network(default=None)
        add = parser.group("output")
        add("-o", "--out", metavar="DIR", help="Write metrics.csv, summary.json and figures there.")
        parser.add_overwrite()
        parser.add_json()

    @abstractmethod
    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags, what is measured among them."""

    @abstractmethod
    def measure(self, args: Namespace, progress: Callable[[float, float], None]) -> Measured:
        """Measure as the flags ask."""

    @abstractmethod
    def tell(self, found: Evaluation) -> str:
        """Return the metrics as text."""

    def run(self, args: Namespace) -> int:
        """Measure, tell, and write if asked."""
        inputs = [path for path in getattr(args, "paths", ()) if Path(path).is_file()]
        names = ("metrics.csv", "summary.json")
        with (
            claim(args.out, "evaluation", names, inputs=inputs, overwrite=args.overwrite)
            if args.out
            else nullcontext() as own,
        ):
            with counter("measuring", quiet=args.json) as show:
                measured = self.measure(args, show)
            found, files = measured.metrics, []
            if own is not None:
                figures = {f"{name}.png": figure for name, figure in measured.draw().items()}
                own.add(figures)
                files = found.save(args.out)
                files += [save_figure(each, own.folder / name) for name, each in figures.items()]
        for name, reason in found.failures.items():
            sys.stderr.write(f"{name} could not be measured in full: {reason}\n")
        lines = [self.tell(found)]
        if files:
            lines.append(f"wrote {', '.join(map(str, files))}")
        document = {
            "summary": found.summary,
            "samples": found.rows,
            **measured.told,
            "failures": found.failures,
            "files": files,
        }
        answer(document, "\n".join(lines), as_json=args.json)
        return 0
