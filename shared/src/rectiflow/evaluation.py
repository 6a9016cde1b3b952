"""Tables of metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rectiflow.results import plain
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import claim
from rectiflow.storage.table import write_rows


@dataclass(frozen=True)
class Evaluation:
    """Metrics of each sample and of the set.

    Attributes
    ----------
    rows : list of dict
        One per sample, or per sample and system, with a ``name``.
    summary : dict
        Means, and what only a set has.
    failures : dict
        By name, why a sample could not be measured in full; its row has NaN there.
    """

    rows: list[dict[str, Any]]
    summary: dict[str, Any]
    failures: dict[str, str] = field(default_factory=dict)

    def save(self, folder: Path | str) -> list[Path]:
        """Write ``metrics.csv`` and ``summary.json``."""
        table, summary = Path(folder) / "metrics.csv", Path(folder) / "summary.json"
        with claim(folder, "evaluation", [table.name, summary.name]):
            write_rows(
                table, [*dict.fromkeys(name for row in self.rows for name in row)], self.rows
            )
            write_json(summary, plain(self.summary))
        return [table, summary]
