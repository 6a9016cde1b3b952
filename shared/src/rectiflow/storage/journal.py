"""A JSON document that grows: what comes is appended beside it, and folded into it at the end.

Writing a document anew for each of n entries would write of the order of n² bytes. The lines lie
in a hidden file, ``.NAME.jsonl`` beside ``NAME.json``; a line that a kill cut short is of an entry
that does not count.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rectiflow.storage.faults import FileError, storing
from rectiflow.storage.files import write_json


class Journal:
    """The lines beside a document.

    Parameters
    ----------
    document : Path
        The JSON document.
    """

    def __init__(self, document: Path) -> None:
        self.document = document
        self.path = document.with_name(f".{document.stem}.jsonl")

    def append(self, entry: dict[str, Any]) -> None:
        """Add an entry, which is on the disk when this returns."""
        with storing(self.path), self.path.open("ab+") as file:
            file.truncate(_whole(file.tell(), file))
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def entries(self) -> list[dict[str, Any]]:
        """Return what was added since the document was written.

        Raises
        ------
        FileError
            When a whole line is no entry.
        """
        with storing(self.path):
            content = self.path.read_bytes() if self.path.is_file() else b""
        found: list[dict[str, Any]] = []
        for number, line in enumerate(content.split(b"\n")[:-1], start=1):
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                entry = None
            if not isinstance(entry, dict):
                hint = "Remove the line, or make what the folder holds again."
                raise FileError(self.path, f"line {number} is no entry", "a JSON object", hint)
            found.append(entry)
        return found

    def fold(self, whole: dict[str, Any], *, indent: int | None = 2) -> None:
        """Write the document with all entries in it, and begin anew."""
        write_json(self.document, whole, indent=indent)
        self.path.unlink(missing_ok=True)


def _whole(size: int, file: Any) -> int:
    """Return where the last whole line of a file ends."""
    end = size
    while end > 0:
        start = max(0, end - 4096)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
