"""What a preparation turned down, in a few words."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path


def reasons(rejected: Path) -> list[tuple[str, int]]:
    """Reasons of a ``rejected.csv`` by how often they occur; numbers in them are left out."""
    with rejected.open(newline="", encoding="utf-8") as file:
        texts = [row["reason"] for row in csv.DictReader(file)]
    kinds = (re.sub(r"\d+(\.\d+)?", "…", text.partition(";")[0])[:100] for text in texts)
    return Counter(kinds).most_common()
