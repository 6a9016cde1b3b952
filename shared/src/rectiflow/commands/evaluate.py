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
        parser.add_executor()
        add = parser.group("output")
        add("-o", "--out", metavar="DIR", help="Write metrics.csv, summary.json and figures there.")
        parser.add_overwrite()
        parser.add_json()

    @abstractmethod
    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags, what is measured among them."""

    @abstractmethod
    def measure(self, args: Namespace, progress: Callable[[float, float], None]) -> Measured:
        """Measure as the flags ask, what takes long on ``args.executor``."""

    def each(
        self,
        args: Namespace,
        open: Callable[[], Callable[[Any], Any]],
        items: Mapping[str, Any],
        progress: Callable[[float, float], None],
        *,
        at_once: int = 1,
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Do something with each item on ``args.executor``.

        Parameters
        ----------
        open : callable
            Called once by every worker, and sent to it pickled; returns what measures an item.
        items : mapping
            By name.
        progress : callable
            Told how many are done.
        at_once : int
            Items that one worker takes, and loses, together, where each takes little time.

        Returns
        -------
        values, failures : dict
            By name: what came of each item in their order, or why nothing did.

        Raises
        ------
        Exception
            What an item raised, when all have failed.
        """
        names = list(items)
        groups = [names[i : i + at_once] for i in range(0, len(names), at_once)]
        tasks = [[items[name] for name in group] for group in groups]
        outcomes = args.executor.map(
            _Each(open),
            tasks,
            lambda done, total: progress(min(done * at_once, len(names)), len(names)),
        )
        values: dict[str, Any] = {}
        errors: dict[str, Exception] = {}
        for group, outcome in zip(groups, outcomes, strict=True):
            if outcome.error is None:
                values |= zip(group, outcome.value, strict=True)
            else:
                errors |= dict.fromkeys(group, outcome.error)
        if errors and not values:
            raise next(iter(errors.values()))
        return values, {name: str(error) for name, error in errors.items()}

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


@dataclass(frozen=True)
class _Each:
    """What workers do: measure some items."""

    open: Callable[[], Callable[[Any], Any]]

    def __call__(self) -> Callable[[list[Any]], list[Any]]:
        measure = self.open()
        return lambda items: [measure(item) for item in items]
