"""``eval``: measure files, or with ``--weights`` what a model makes."""

from __future__ import annotations

from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser
from rectiflow.commands.progress import counter
from rectiflow.commands.verb import PipelineVerb
from rectiflow.evaluation import Evaluation
from rectiflow.storage.folders import claim


class Evaluate(PipelineVerb):
    """Measure files, or with --weights what a model makes."""

    name = "eval"

    def flags(self, parser: Parser) -> None:
        """Add the flags of every domain around the domain's own."""
        self.own_flags(parser)
        parser.add_network(default=None)
        add = parser.group("output")
        add("-o", "--out", metavar="DIR", help="Write metrics.csv and summary.json there.")
        parser.add_overwrite()
        parser.add_json()

    @abstractmethod
    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags, what is measured among them."""

    @abstractmethod
    def measure(
        self, args: Namespace, progress: Callable[[float, float], None]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """Measure as the flags ask; return the metrics and what else the document tells."""

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
            else nullcontext(),
            counter("measuring", quiet=args.json) as show,
        ):
            found, more = self.measure(args, show)
            files = found.save(args.out) if args.out else []
        lines = [self.tell(found)]
        if files:
            lines.append(f"wrote {', '.join(map(str, files))}")
        document = {"summary": found.summary, "samples": found.rows, **more, "files": files}
        answer(document, "\n".join(lines), as_json=args.json)
        return 0
