"""``rectiflow diagnose``: what the field of a trained flow of any domain is like."""

from __future__ import annotations

import importlib
from typing import Any

from rectiflow_cli.domains import DOMAINS, Domain, Verb, pick
from rectiflow_cli.errors import UsageError


def main(argv: list[str]) -> int:
    """Tell of a trained flow whether it is conservative, its gauge freedom and the dimension.

    The first word is the domain, what follows are the flags of its ``tune`` and how closely to
    look.
    """
    from rectiflow.commands import Parser
    from rectiflow.commands.diagnose import Diagnose

    domains = {domain.name: domain for domain in DOMAINS if domain.folder() is not None}
    if not argv or argv[0].startswith("-"):
        parser = Parser("diagnose", "", main.__doc__, ("shape", "pde SHARDS --times 0.5 0.9"))
        parser.add_argument("domain", choices=sorted(domains), help="Whose flow; see its --help.")
        parser.parse_args(argv)
    domain = domains[pick("domain", argv[0], domains)]
    return Diagnose(_tune(domain))(argv[1:])


def _tune(domain: Domain) -> Any:
    """Return the verb that knows how to make a field and its noise."""
    verb = domain.verbs().get("tune")
    if not isinstance(verb, Verb):
        raise UsageError(
            f"domain {domain.name!r} has no verb `tune`, which says how its field is made; "
            "expected one. Write it, see docs/extend.md."
        )
    module, _, name = verb.module.partition(":")
    return getattr(importlib.import_module(module), name or "main")
