"""How commands answer: a text for people, one JSON document for machines."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rectiflow.results import plain


def answer(document: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result."""
    sys.stdout.write((json.dumps(plain(document), indent=2) if as_json else text) + "\n")


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
