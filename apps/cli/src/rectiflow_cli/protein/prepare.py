"""``rectiflow protein prepare``: structure files to shards of chains."""

from __future__ import annotations

import argparse
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, fractions_of, positive
from rectiflow_cli.progress import counter
from rectiflow_cli.protein.options import Parser, max_bytes_of
from rectiflow_cli.rejections import reasons

if TYPE_CHECKING:
    from rectiflow_protein.data import Report


def _parser() -> Parser:
    parser = Parser("prepare", main.__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="structure files (PDB, mmCIF, BinaryCIF), or one file")
    add("-o", "--out", required=True, metavar="SHARDS", help="folder to write")
    add("--published", action="store_true", help="the filters of the published PDB set")
    # Absent flags leave the choice to the library, or to --published.
    absent: dict[str, Any] = {"default": argparse.SUPPRESS}
    add("--min-length", type=positive, help="residues, included; 60 if absent", **absent)
    add("--max-length", type=positive, help="residues, included; 512 if absent", **absent)
    add("--max-coil", type=float, metavar="SHARE", help="largest share of coil", **absent)
    add("--rg-quantile", type=float, metavar="Q", help="compact for its length; 0.96", **absent)
    add("--max-resolution", type=float, metavar="Å", help="not included", **absent)
    add("--max-chains", type=positive, help="protein chains of a file; 1: monomers", **absent)
    add("--clusters", metavar="FILE", help="cluster file; by shared 4-mers if absent", **absent)
    splits = "shares of train, valid and test among the clusters; 0.9,0.05,0.05 if absent"
    add("--splits", dest="fractions", type=fractions_of, metavar="A,B,C", help=splits, **absent)
    add("--seed", type=int, help="of the split; 0 if absent", **absent)
    add("--workers", type=positive, help="processes; 1 if absent", **absent)
    parser.add_bound()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Turn a folder of structure files into shards of chains to train on.

    Raises
    ------
    UsageError
        When no chain is accepted.
    """
    options = vars(_parser().parse_args(argv))
    as_json = options.pop("json")
    folder, out = options.pop("folder"), options.pop("out")
    published = options.pop("published")
    options["max_bytes"] = max_bytes_of(options.pop("max_megabytes"))
    from rectiflow_protein.data import PUBLISHED_FILTERS, prepare

    # That no chain was accepted is said below, in one line.
    logging.getLogger("rectiflow_protein.data.prepare").setLevel(logging.ERROR)
    filters = PUBLISHED_FILTERS if published else {}
    with counter("reading", unit="file", quiet=as_json) as progress:
        report = prepare(folder, out, **{**filters, **options}, progress=progress)
    rejected = report.folder / "rejected.csv"
    told = reasons(rejected)
    document = {**asdict(report), "rejected_csv": rejected, "reasons": dict(told)}
    answer(document, _text(report, rejected, told), as_json=as_json)
    if not report.chains:
        raise UsageError(
            f"no chain of {report.files} file(s) was accepted; {rejected} has the reason for each. "
            "Loosen the filters (--min-length, --max-length, ...), into a new folder."
        )
    return DONE


def _text(report: Report, rejected: Path, told: list[tuple[str, int]]) -> str:
    splits = ", ".join(f"{count} {name}" for name, count in report.splits.items())
    lines = [
        f"accepted {report.chains} chains ({report.residues} residues, {report.clusters} clusters; "
        f"{splits}) of {report.files} file(s)",
        f"rejected or left out {report.rejected}; each with its reason in {rejected}",
        *(f"  {count:>6}  {reason}" for reason, count in told),
    ]
    if report.chains:
        lines.append(f"next: rectiflow protein train data.dir={report.folder} experiment=small")
    return "\n".join(lines)
