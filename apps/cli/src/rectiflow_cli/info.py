"""``rectiflow info``: what is installed here and what it can run on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, answer, table
from rectiflow.commands.methods import listing
from rectiflow.machine import describe_machine, version_of

from rectiflow_cli.domains import DOMAINS, Domain


def _checkpoints(domain: Domain) -> list[dict[str, Any]]:
    folder = domain.folder()
    configs = sorted(folder.glob("pretrained/*/config.json")) if folder else []
    return [
        {"name": config.parent.name, "mib": round(_bytes(config) / 2**20, 2)} for config in configs
    ]


def _bytes(config: Path) -> int:
    """Return the size of a checkpoint's weights, parts that it shares with another included."""
    folder = config.parent
    shared = json.loads(config.read_text(encoding="utf-8")).get("shared", {})
    places = [folder, *(folder / where for where in shared.values())]
    return sum(p.stat().st_size for place in places for p in place.rglob("*.safetensors"))


def collect() -> dict[str, Any]:
    """Return versions, devices and domains as plain data."""
    return {
        **describe_machine(),
        "domains": {
            domain.name: {
                "version": version_of(domain.package.replace("_", "-")),
                "checkpoints": _checkpoints(domain),
                "install": None if domain.folder() else domain.install_line,
            }
            for domain in DOMAINS
        },
    }


def _text(info: dict[str, Any]) -> str:
    libraries = info["libraries"]
    lines = [
        f"rectiflow {libraries['rectiflow']}, Python {info['python']}, {info['platform']}",
        "libraries: " + ", ".join(f"{n} {v or 'absent'}" for n, v in libraries.items()),
    ]
    for device in info["devices"]:
        facts = ", ".join(f"{k} {v}" for k, v in device.items() if k != "name")
        lines.append(f"device {device['name']}: {facts}")
    for name, domain in info["domains"].items():
        shipped = ", ".join(f"{c['name']} ({c['mib']} MiB)" for c in domain["checkpoints"])
        state = domain["install"] and f"not installed: {domain['install']}"
        lines.append(
            f"domain {name}: "
            + (state or f"{domain['version']}, shipped checkpoints: {shipped or 'none'}")
        )
    return "\n".join(lines)


def _listed(rows: list[dict[str, Any]]) -> str:
    """Lay out rows whose last column is a sentence."""
    cells = [{name: value for name, value in row.items() if name != "what"} for row in rows]
    head, *lines = table(cells).split("\n")
    told = (f"{line}  {row['what']}" for line, row in zip(lines, rows, strict=True))
    return "\n".join([head, *told])


def main(argv: list[str]) -> int:
    """Print versions, devices, installed domains and shipped checkpoints, or the solvers."""
    parser = Parser("info", "", main.__doc__)
    parser.add_argument(
        "--solvers", action="store_true", help="List what --solver and --grid take instead."
    )
    parser.add_json()
    args = parser.parse_args(argv)
    if args.solvers:
        known = listing()
        answer(known, "\n\n".join(map(_listed, known.values())), as_json=args.json)
        return 0
    info = collect()
    answer(info, _text(info), as_json=args.json)
    return 0
