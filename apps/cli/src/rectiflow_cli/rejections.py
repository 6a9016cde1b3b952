"""What a preparation turned down, in a few words."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path


def reasons(rejected: Path) -> list[tuple[str, int]]:
    """All reasons of a ``rejected.csv`` by how often they occur; numbers in them are left out."""
    from rectiflow.storage.reading import read_rows

    texts = [row["reason"] for _, row in read_rows(rejected, ["reason"])]
    kinds = (re.sub(r"\d+(\.\d+)?", "…", text.partition(";")[0])[:100] for text in texts)
    return Counter(kinds).most_common()
