"""``rectiflow demo``: every installed domain on its shipped checkpoint, as one page."""

from __future__ import annotations

import importlib
import platform
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Parser, answer, positive
from rectiflow.machine import version_of

from rectiflow_cli.domains import DOMAINS, Domain, pick
from rectiflow_cli.errors import DONE, UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from rectiflow_cli.demo.card import Card


def _parser() -> Parser:
    parser = Parser("demo", "", main.__doc__, ("-o demo", "-o demo --domain audio --input mix.wav"))
    add = parser.add_argument
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="The folder to write.")
    add("--domain", action="append", metavar="NAME", help="This one alone; may be repeated.")
    add("--input", type=Path, metavar="FILE", help="A file of yours to start from or compare with.")
    add("--query", action="append", metavar="WORDS", help="What to look for; may be repeated.")
    add("--weights", help="Shipped name, folder or file of one --domain; its own if absent.")
    add("--num", type=positive, default=6, help="How many samples are generated.")
    add("--steps", type=positive, help="Network calls each; the domain's own if absent.")
    add("--seed", type=int, default=0, help="Of the noise.")
    parser.add_device(add)
    parser.add_overwrite()
    parser.add_json()
    return parser


def _chosen(names: list[str] | None) -> list[Domain]:
    """Return the domains that were asked for, or all installed ones that have a card."""
    installed = [domain for domain in DOMAINS if domain.folder() and domain.has_card()]
    if not names:
        if not installed:
            raise UsageError(f"no domain is installed. Get one with: {DOMAINS[0].install_line}")
        return installed
    known = {domain.name: domain for domain in DOMAINS}
    chosen = [known[pick("domain", name, known)] for name in dict.fromkeys(names)]
    for domain in chosen:
        domain.require()
        if not domain.has_card():
            raise UsageError(f"domain {domain.name!r} has no part in the demo; leave it out.")
    return chosen


def _reader(path: Path, modules: dict[str, ModuleType]) -> str:
    """Return the domain whose file this is."""
    found = [name for name, module in modules.items() if module.reads(path)]
    if not found and len(modules) > 1:
        raise UsageError(
            f"--input {path} is of no domain, got suffix {path.suffix!r}; expected a file of one "
            f"of the domains. Choose one of {', '.join(modules)} with --domain."
        )
    return found[0] if found else next(iter(modules))


def _settings(argv: list[str]) -> dict[str, Any]:
    names = [domain.package.replace("_", "-") for domain in DOMAINS if domain.folder()]
    versions = {name: version_of(name) for name in ("rectiflow", *names, "torch", "numpy")}
    return {
        "command": shlex.join(["rectiflow", "demo", *argv]),
        "versions": {"python": platform.python_version()} | versions,
    }


def main(argv: list[str]) -> int:
    """Run every installed domain on its shipped checkpoint and write a page with the results."""
    args = _parser().parse_args(argv)
    domains = _chosen(args.domain)
    if args.weights is not None and len(domains) > 1:
        raise UsageError(
            f"--weights {args.weights} is a checkpoint of one domain, got {len(domains)}: "
            f"{', '.join(domain.name for domain in domains)}; expected one. Choose with --domain."
        )
    from rectiflow_cli.demo.card import Request
    from rectiflow_cli.demo.page import write_page

    modules = {domain.name: importlib.import_module(domain.demo) for domain in domains}
    reader = _reader(args.input, modules) if args.input else None
    request = Request(
        num=args.num,
        steps=args.steps,
        seed=args.seed,
        device=args.device,
        queries=tuple(args.query or ()),
        quiet=args.json,
    )
    cards: dict[str, Card] = {}
    for name, module in modules.items():
        weights = args.weights or getattr(module, "SHIPPED", "small")
        own = args.input if name == reader else None
        cards[name] = module.card(replace(request, weights=weights, input=own))
    result = write_page(args.out, cards, _settings(argv), overwrite=args.overwrite)
    answer(result, f"wrote {args.out / 'index.html'}: open it in a browser", as_json=args.json)
    return DONE
