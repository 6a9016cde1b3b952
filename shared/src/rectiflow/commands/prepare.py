"""``prepare``: many input files to shards of records."""

from __future__ import annotations

import re
from abc import abstractmethod
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser, fractions_of
from rectiflow.commands.progress import counter
from rectiflow.commands.verb import Verb
from rectiflow.quiet import quiet
from rectiflow.storage.preparation import REJECTED, Report
from rectiflow.storage.reading import read_rows


class Prepare(Verb):
    """Turn a folder of files into shards of records to train on."""

    name = "prepare"
    takes: ClassVar[str]
    """What the folder holds, as a sentence."""
    then: ClassVar[str]
    """Words after ``rectiflow DOMAIN`` that train on ``{folder}``."""
    mend: ClassVar[str] = "Correct the files, into a new folder."

    def flags(self, parser: Parser) -> None:
        """Add the flags of every domain around the domain's own."""
        add = parser.group("input and output")
        add("folder", metavar="FOLDER", help=self.takes)
        add("-o", "--out", required=True, metavar="SHARDS", help="The folder to write.")
        self.own_flags(parser)
        shares = "Shares of train, valid and test, where the input does not tell."
        add_split(parser, shares, "Another seed gives another split.")
        parser.add_executor()
        parser.add_overwrite()
        parser.add_json()

    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags."""

    @abstractmethod
    def prepare(self, args: Namespace, **how: Any) -> Report:
        """Prepare as the flags ask.

        ``how`` is what the flags of every domain stand for: ``fractions`` and ``seed`` of the
        split, ``executor``, ``progress`` and ``overwrite``.
        """

    def run(self, args: Namespace) -> int:
        """Prepare, and tell what was taken and why not the rest.

        Raises
        ------
        ValueError
            When nothing is accepted.
        """
        with (
            quiet("rectiflow.storage.preparation"),  # what it warns of is said below, in one line
            counter("reading", unit="file", quiet=args.json) as show,
        ):
            report = self.prepare(args, **running(args, show))
        rejected = report.folder / REJECTED
        told = reasons(rejected)
        document: dict[str, Any] = {
            **asdict(report),
            "rejected_csv": rejected,
            "reasons": dict(told),
        }
        lines = [str(report), *(f"  {count:>6}  {reason}" for reason, count in told)]
        if report.accepted:
            words = self.then.format(folder=report.folder)
            lines.append(f"next: rectiflow {self.domain} {words}")
        answer(document, "\n".join(lines), as_json=args.json)
        if not report.accepted:
            raise ValueError(
                f"no {report.unit} of {report.inputs} inputs was accepted; {rejected} has the "
                f"reason for each. {self.mend}"
            )
        return 0


def running(args: Namespace, progress: Callable[[float, float], None]) -> dict[str, Any]:
    """Return what :func:`add_split` and the executor's flags stand for."""
    names = {"fractions": "splits", "seed": "seed", "executor": "executor"}
    told = {key: getattr(args, name) for key, name in names.items()}
    return told | {"progress": progress, "overwrite": args.overwrite}


def add_split(parser: Parser, splits: str, seed: str) -> None:
    """Add how records are split; with what help says of the shares and of the seed."""
    add = parser.group("split")
    told: dict[str, Any] = {"type": fractions_of, "default": "0.9,0.05,0.05", "metavar": "A,B,C"}
    add("--splits", **told, help=splits)
    add("--seed", type=int, default=0, help=seed)


def reasons(rejected: Path) -> list[tuple[str, int]]:
    """All reasons of a ``rejected.csv`` by how often they occur; numbers in them are left out."""
    texts = [row["reason"] for _, row in read_rows(rejected, ["reason"])]
    kinds = (re.sub(r"\d+(\.\d+)?", "…", text.partition(";")[0])[:100] for text in texts)
    return Counter(kinds).most_common()
