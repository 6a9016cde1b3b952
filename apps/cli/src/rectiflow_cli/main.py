"""The umbrella command ``rectiflow`` and the per-domain commands such as ``rectiflow-protein``.

Only the first words are read here; the rest goes to the verb untouched (plain flags for inference,
Hydra overrides for training). Nothing heavy is imported before a verb runs.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable

from rectiflow_cli.domains import DOMAINS, Domain, Verb, pick, summary_of
from rectiflow_cli.errors import DONE, USER_INPUT, guarded

COMMANDS = {
    "info": Verb("rectiflow_cli.info", "Versions, devices, installed domains, checkpoints."),
    "demo": Verb(
        "rectiflow_cli.demo", "Run every installed domain on its shipped checkpoint, as a page."
    ),
    "diagnose": Verb("rectiflow_cli.diagnose", "What the field of a trained flow is like."),
    "rerun": Verb("rectiflow_cli.rerun", "Repeat a result, and say how far off it is."),
    "status": Verb("rectiflow_cli.status", "What of a sharded or stopped job is there."),
}


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in rows.items())


def _help() -> str:
    domains = {
        domain.name: domain.summary
        + ("" if domain.folder() else f"  [not installed: {domain.install_line}]")
        for domain in DOMAINS
    }
    return f"""\
usage: rectiflow [--debug] COMMAND ...

Generate and restore scientific data with rectified flows.

commands:
{_table({name: summary_of(verb) for name, verb in COMMANDS.items()})}

domains (rectiflow DOMAIN VERB ..., rectiflow DOMAIN --help):
{_table(domains)}

options:
  -h, --help  show this page
  --version   show the version
  --debug     show the traceback of an error

exit codes: 0 done, 2 something is wrong with the input, 1 a defect, 130 interrupted
"""


def _domain_help(domain: Domain) -> str:
    verbs = {name: summary_of(verb) for name, verb in domain.verbs().items()}
    return f"""\
usage: rectiflow {domain.name} VERB ...

{domain.summary}

verbs (rectiflow {domain.name} VERB --help):
{_table(verbs)}
"""


def _run_domain(domain: Domain, argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_domain_help(domain))
        return DONE if argv else USER_INPUT
    verbs = domain.verbs()
    return verbs[pick(f"{domain.name} verb", argv[0], verbs)](argv[1:])


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return DONE if argv else USER_INPUT
    first, rest = argv[0], argv[1:]
    if first == "--version":
        sys.stdout.write(f"rectiflow {importlib.metadata.version('rectiflow-cli')}\n")
        return DONE
    domains = {domain.name: domain for domain in DOMAINS}
    pick("command", first, [*COMMANDS, *domains])
    return COMMANDS[first](rest) if first in COMMANDS else _run_domain(domains[first], rest)


def main(argv: list[str] | None = None) -> int:
    """Run ``rectiflow`` with the given words, by default those of the process.

    Returns
    -------
    int
        Exit code: 0 done, 1 a defect, 2 the user's input, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    return guarded(_run, [word for word in words if word != "--debug"], debug=debug)


def __getattr__(name: str) -> Callable[[], int]:
    """Return the entry point of a domain: ``rectiflow-protein`` is ``rectiflow protein``."""
    if name not in {domain.name for domain in DOMAINS}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return lambda argv=None: main([name, *(sys.argv[1:] if argv is None else argv)])
