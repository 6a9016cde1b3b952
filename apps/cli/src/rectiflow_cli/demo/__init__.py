"""``rectiflow demo``: every installed domain on its shipped checkpoint, as one page."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.domains import DOMAINS
from rectiflow_cli.errors import DONE, UsageError

if TYPE_CHECKING:
    from rectiflow_cli.demo.card import Card


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rectiflow demo", description=main.__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder")
    parser.add_argument(
        "--input", type=Path, metavar="STRUCTURE", help="a structure of yours to compare with"
    )
    parser.add_argument(
        "--weights", default="small", help="shipped checkpoint, folder or file (default: small)"
    )
    parser.add_argument("--num", type=int, default=6, help="samples (default: 6)")
    parser.add_argument("--steps", type=int, default=50, help="network calls each (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:i] (default: auto)")
    parser.add_argument("--json", action="store_true", help="print result.json, and no progress")
    return parser


def _settings(argv: list[str]) -> dict[str, Any]:
    from importlib.metadata import version

    installed = [f"rectiflow-{domain.name}" for domain in DOMAINS if domain.folder()]
    names = ["rectiflow", *installed, "torch", "numpy"]
    return {
        "command": shlex.join(["rectiflow", "demo", *argv]),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in names},
    }


def main(argv: list[str]) -> int:
    """Run every installed domain on its shipped checkpoint and write a page with the results."""
    args = _parser().parse_args(argv)
    for name in ("num", "steps"):
        if getattr(args, name) < 1:
            raise UsageError(
                f"--{name} must be at least 1, got {getattr(args, name)}; expected a count."
            )
    domains = [domain for domain in DOMAINS if domain.folder()]
    if not domains:
        raise UsageError(f"no domain is installed. Get one with: {DOMAINS[0].install_line}")
    from rectiflow_cli.demo.card import Request
    from rectiflow_cli.demo.page import write_page

    request = Request(
        weights=args.weights,
        num=args.num,
        steps=args.steps,
        seed=args.seed,
        device=args.device,
        input=args.input,
        quiet=args.json,
    )
    cards: dict[str, Card] = {
        domain.name: importlib.import_module(f"rectiflow_cli.demo.{domain.name}").card(request)
        for domain in domains
    }
    result = write_page(args.out, cards, _settings(argv))
    if args.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        sys.stdout.write(f"wrote {args.out / 'index.html'}: open it in a browser\n")
    return DONE
