"""``rectiflow demo``: every installed domain on its shipped checkpoint, as one page."""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.domains import DOMAINS, Domain, pick
from rectiflow_cli.errors import DONE, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from rectiflow_cli.demo.card import Card

WEIGHTS = "small"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rectiflow demo", description=main.__doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="folder")
    parser.add_argument(
        "--domain", action="append", metavar="NAME", help="this one alone; may be repeated"
    )
    parser.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="a structure of yours to compare with, or a sound to separate",
    )
    parser.add_argument(
        "--query", action="append", metavar="WORDS", help="what to separate; may be repeated"
    )
    parser.add_argument(
        "--weights",
        default=WEIGHTS,
        help=f"shipped checkpoint, folder or file of one --domain (default: {WEIGHTS})",
    )
    parser.add_argument("--num", type=int, default=6, help="generated samples (default: 6)")
    parser.add_argument("--steps", type=int, help="network calls each (default: the domain's own)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda[:i] (default: auto)")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in the way")
    parser.add_argument("--json", action="store_true", help="print result.json, and no progress")
    return parser


def _chosen(names: list[str] | None) -> list[Domain]:
    """Return the domains that were asked for, or all that are installed."""
    installed = [domain for domain in DOMAINS if domain.folder()]
    if not names:
        if not installed:
            raise UsageError(f"no domain is installed. Get one with: {DOMAINS[0].install_line}")
        return installed
    known = {domain.name: domain for domain in DOMAINS}
    chosen = [known[pick("domain", name, known)] for name in dict.fromkeys(names)]
    for domain in chosen:
        domain.verbs()  # says how to get it where it is not installed
    return chosen


def _reader(path: Path, modules: dict[str, ModuleType]) -> str:
    """Return the domain whose file this is."""
    found = [name for name, module in modules.items() if module.reads(path)]
    if not found and len(modules) > 1:
        raise UsageError(
            f"--input {path} is of no domain, got suffix {path.suffix!r}; expected a structure or "
            f"a sound. Choose one of {', '.join(modules)} with --domain."
        )
    return found[0] if found else next(iter(modules))


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
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UsageError(
                f"--{name} must be at least 1, got {getattr(args, name)}; expected a count."
            )
    domains = _chosen(args.domain)
    if args.weights != WEIGHTS and len(domains) > 1:
        raise UsageError(
            f"--weights {args.weights} is a checkpoint of one domain, got {len(domains)}: "
            f"{', '.join(domain.name for domain in domains)}; expected one. Choose with --domain."
        )
    from rectiflow_cli.demo.card import Request
    from rectiflow_cli.demo.page import write_page

    modules = {
        domain.name: importlib.import_module(f"rectiflow_cli.demo.{domain.name}")
        for domain in domains
    }
    reader = _reader(args.input, modules) if args.input else None
    request = Request(
        weights=args.weights,
        num=args.num,
        steps=args.steps,
        seed=args.seed,
        device=args.device,
        queries=tuple(args.query or ()),
        quiet=args.json,
    )
    cards: dict[str, Card] = {
        name: module.card(replace(request, input=args.input) if name == reader else request)
        for name, module in modules.items()
    }
    result = write_page(args.out, cards, _settings(argv), overwrite=args.overwrite)
    if args.json:
        sys.stdout.write(json.dumps(result, indent=2) + "\n")
    else:
        sys.stdout.write(f"wrote {args.out / 'index.html'}: open it in a browser\n")
    return DONE
