"""``rectiflow status``: what of a sharded or stopped job is done, failed, missing."""

from __future__ import annotations

from dataclasses import asdict

from rectiflow.commands import Parser, answer, table
from rectiflow.status import NAMED, Part, Status, status_of

from rectiflow_cli.errors import DONE


def main(argv: list[str]) -> int:
    """Tell what of a sharded or stopped job is done, failed and missing."""
    parser = Parser("status", "", main.__doc__, ("backbones", "runs/protein-train/DATE --json"))
    parser.add_argument(
        "folder", metavar="DIR", help="Results, pairs, prepared data or a run folder."
    )
    parser.add_json()
    args = parser.parse_args(argv)
    found = status_of(args.folder)
    document = {**asdict(found), "complete": found.is_complete}
    answer(document, _text(found), as_json=args.json)
    return DONE


def _text(found: Status) -> str:
    lines = [f"{found.kind}: {'complete' if found.is_complete else 'not complete'}"]
    lines.append(table([_row(part) for part in found.parts]))
    lines += [f"{name}: not begun" for name in found.absent]
    if found.under_way:
        lines.append(f"calls under way, or cut short: {found.under_way}")
    for part in found.parts:
        lines += [f"{name}: {reason}" for name, reason in list(part.failed.items())[:NAMED]]
        if part.missing:
            more = f" and {len(part.missing) - NAMED} more" if len(part.missing) > NAMED else ""
            lines.append(f"missing: {', '.join(part.missing[:NAMED])}{more}")
    if found.next and not found.is_complete:
        lines.append(f"go on with {found.next}")
    return "\n".join(lines)


def _row(part: Part) -> dict[str, object]:
    left = None if part.wanted is None else part.wanted - part.done - len(part.failed)
    return {
        "part": part.name,
        "wanted": part.wanted,
        "done": part.done,
        "failed": len(part.failed),
        "missing": left,
    }
