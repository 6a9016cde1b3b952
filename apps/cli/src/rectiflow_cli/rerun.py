"""``rectiflow rerun``: repeat a result, and say whether it is the same."""

from __future__ import annotations

import contextlib
import filecmp
import io
import os
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, answer
from rectiflow.results import listings, plain
from rectiflow.storage.reading import read_json

from rectiflow_cli.domains import Domain, domain_of
from rectiflow_cli.errors import DONE, UsageError

EQUAL = "equal"


def main(argv: list[str]) -> int:
    """Repeat what a result.json tells, and say whether it is equal, or how far off and why.

    Raises
    ------
    UsageError
        When the file was not written by a command, or what it needs is not there.
    """
    parser = Parser(
        "rerun", "", main.__doc__, ("backbones/result.json", "separated/result.json -o again")
    )
    add = parser.add_argument
    add("result", metavar="RESULT.json", type=Path, help="What a command wrote.")
    add("-o", "--out", type=Path, metavar="DIR", help="Keep the new files there.")
    parser.add_json()
    args = parser.parse_args(argv)
    told = read_json(args.result)
    words = told.get("command")
    if not isinstance(words, list) or not told.get("samples"):
        raise UsageError(
            f"{args.result} names no command and samples, got {sorted(told)}; expected the "
            "result.json of a command such as `rectiflow protein sample`. What Python made, "
            "Python has to repeat."
        )
    domain = domain_of(words[0])
    with contextlib.ExitStack() as stack:
        out = args.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = _run(domain, words, Path(told.get("directory", ".")), args.result, out.absolute())
        rows = [
            _compared(domain, args.result.parent, made.parent, file)
            for row in told["samples"]
            for file in row["files"]
        ]
        again = read_json(made)
    why = [] if all(row["difference"] == EQUAL for row in rows) else _differing(told, again)
    document = {"command": words, "files": rows, "equal": not why, "differs_in": why}
    answer(document, _text(rows, why), as_json=args.json)
    return DONE


def _run(domain: Domain, words: Sequence[str], folder: Path, result: Path, out: Path) -> Path:
    """Run the command in its folder, with another output, and return the new listing."""
    again, name = _redirected(words[2:], out)
    with _inside(folder), contextlib.redirect_stdout(io.StringIO()):
        code = domain.verbs()[words[1]](again)
    found = listings(name.parent if name.suffix else name, result.stem.partition("-")[0])
    if code != DONE or not found:
        raise UsageError(f"`rectiflow {shlex.join(words)}` made nothing to compare with.")
    return next((path for path in found if path.name == result.name), found[0])


def _redirected(words: Sequence[str], out: Path) -> tuple[list[str], Path]:
    """Give the words another ``-o``: a folder, or a file of the same name in it."""
    changed = list(words)
    for i, word in enumerate(changed):
        flag, equals, value = word.partition("=")
        if flag not in ("-o", "--out"):
            continue
        before = Path(value if equals else changed[i + 1])
        target = out / before.name if before.suffix else out
        changed[i] = f"{flag}={target}" if equals else flag
        if not equals:
            changed[i + 1] = str(target)
        return changed, target
    raise UsageError(f"the command has no -o, got {shlex.join(words)}; expected one.")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    """Work in the folder where the command was given: its inputs are named from there."""
    if not folder.is_dir():
        raise UsageError(
            f"the command was given in {folder}, which is not here; expected that folder, with the "
            "inputs in it."
        )
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _compared(domain: Domain, before: Path, after: Path, file: str) -> dict[str, Any]:
    """Compare a file with the one that was made again, by its numbers if bytes differ."""
    old, new = before / file, after / file
    if not old.is_file() or not new.is_file():
        return {"file": file, "difference": "absent", "where": str(new if old.is_file() else old)}
    if filecmp.cmp(old, new, shallow=False):
        return {"file": file, "difference": EQUAL}
    import numpy as np

    numbers = domain.recipe().numbers
    a, b = numbers(old), numbers(new)
    if a.shape != b.shape:
        return {"file": file, "difference": "shape", "was": a.shape, "is": b.shape}
    off = np.abs(a.astype(np.float64) - b)
    if not off.size or not off.max():
        return {"file": file, "difference": EQUAL}
    return {"file": file, "difference": "values", "max": off.max(), "mean": off.mean()}


def _differing(told: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """Say in what the two runs differ that could be why."""
    found = []
    for part in ("settings", "machine"):
        was, now = dict(_flat(told.get(part, {}))), dict(_flat(plain(again.get(part, {}))))
        found += [
            f"{part} {key}: {was.get(key)} then, {now.get(key)} now"
            for key in sorted(was.keys() | now.keys())
            if was.get(key) != now.get(key)
        ]
    return found or ["nothing that is recorded: the device itself does not repeat its sums"]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _flat(each, f"{prefix}{key}.")
    elif isinstance(value, list):
        for i, each in enumerate(value):
            yield from _flat(each, f"{prefix}{i}.")
    else:
        yield prefix.rstrip("."), value


def _text(rows: Sequence[Mapping[str, Any]], why: Sequence[str]) -> str:
    equal = sum(row["difference"] == EQUAL for row in rows)
    lines = [f"{equal} of {len(rows)} files are equal"]
    for row in rows:
        if row["difference"] == "values":
            lines.append(
                f"  {row['file']}: off by at most {row['max']:.3g}, {row['mean']:.3g} in the mean"
            )
        elif row["difference"] != EQUAL:
            lines.append(f"  {row['file']}: {row['difference']}")
    lines += [f"  differs in {reason}" for reason in why]
    return "\n".join(lines)
