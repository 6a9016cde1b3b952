"""Flags that commands of several domains share, and how commands answer."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    import torch

SPLITS = ("train", "valid", "test")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, domain: str, verb: str, description: str | None, **options: Any) -> None:
        super().__init__(
            prog=f"rectiflow {domain} {verb}",
            description=(description or "").strip().partition("\n\n")[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the message instead of printing the usage."""
        raise UsageError(f"{message}. See: {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help without swallowing that it could not be written."""
        (file or sys.stderr).write(message)

    def add_overwrite(self) -> None:
        """Add ``--overwrite``, the only way to replace what the command did not make."""
        self.add_argument(
            "--overwrite", action="store_true", help="replace what is in the way at -o"
        )

    def add_json(self) -> None:
        """Add ``--json``."""
        self.add_argument("--json", action="store_true", help="print one JSON document")

    def add_model(self, default: str = "small") -> None:
        """Add the flags that say which network runs, where, and on which noise."""
        add = self.add_argument
        add("--weights", default=default, help="a shipped name, a folder, a file, or owner/name")
        add("--seed", type=int, default=0, help="with a sample's number, fixes its noise")
        add("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX")

    def add_shard(self) -> None:
        """Add ``--shard``."""
        self.add_argument(
            "--shard", type=shard_of, default=(0, 1), metavar="i/n", help="this worker's part"
        )


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def words(text: str) -> str:
    """Parse text; bytes that the terminal's encoding could not read are taken as UTF-8.

    Examples
    --------
    >>> words("a dog barks")
    'a dog barks'
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        pass
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError(
            f"expected text in the terminal's encoding, got {text!r}; set LC_ALL=C.UTF-8"
        )
    return text


def shard_of(text: str) -> tuple[int, int]:
    """Parse ``i/n`` with ``0 <= i < n``.

    Examples
    --------
    >>> shard_of("1/4")
    (1, 4)
    """
    part, slash, parts = text.partition("/")
    if not slash or not part.isdecimal() or not parts.isdecimal() or int(part) >= int(parts):
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, got {text!r}")
    return int(part), int(parts)


def fractions_of(text: str) -> dict[str, float]:
    """Parse the shares of train, valid and test."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS):
        raise argparse.ArgumentTypeError(
            f"expected three shares for {', '.join(SPLITS)}, such as 0.9,0.05,0.05, got {text!r}"
        )
    return dict(zip(SPLITS, shares, strict=True))


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU if there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not index.isdecimal()):
        raise UsageError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:0.")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= count:
        raise UsageError(
            f"device {name!r} is not there, got {count} CUDA device(s) on this machine; expected "
            "one of them. Leave --device out to take what there is."
        )
    return torch.device(name)


def answer(document: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result: for machines one JSON document, for people a text."""
    sys.stdout.write((json.dumps(plain(document), indent=2) if as_json else text) + "\n")


@contextmanager
def claimed_evaluation(
    out: str | None, inputs: Sequence[str], *, overwrite: bool
) -> Iterator[None]:
    """Have the folder of an evaluation, before it takes its time."""
    from rectiflow.storage.folders import claim

    with (
        nullcontext()
        if out is None
        else claim(
            out, "evaluation", ["metrics.csv", "summary.json"], inputs=inputs, overwrite=overwrite
        )
    ):
        yield


@contextmanager
def claimed_preparation(out: str, *, overwrite: bool) -> Iterator[None]:
    """Have the folder of a preparation."""
    from rectiflow.storage.folders import claim
    from rectiflow.storage.shards import MAKER, MANIFEST

    complete = Path(out, MANIFEST).is_file() and not overwrite  # it says whose it is itself
    names = ["metadata.csv", "rejected.csv", "report.json", "texts"]
    with claim(out, MAKER, () if complete else (MANIFEST, *names), overwrite=overwrite):
        yield


def plain(value: Any) -> Any:
    """Turn a result into JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows under the names of their columns, numbers to the right."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
