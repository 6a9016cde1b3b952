"""A metrics file that survives kills and resumes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from rectiflow.storage.files import write_table
from rectiflow.storage.reading import read_text


class MetricsCsv(Logger):
    """Appends one row per logged step to a CSV file whose first column is ``step``.

    Parameters
    ----------
    path : Path
        The file.
    start_step : int, default 0
        Step the run continues from. Later rows, which a killed run wrote after its last
        checkpoint, are removed: they will be written again.
    """

    def __init__(self, path: Path, start_step: int = 0) -> None:
        super().__init__()
        self.path, self.start_step = path, start_step
        self._columns: list[str] = []
        self._opened = False

    @property
    def name(self) -> str:
        """Return the file's name."""
        return self.path.name

    @property
    def version(self) -> str:
        """Return an empty version: a run folder has one metrics file."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run folder holds the configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one row; a metric not seen before adds a column."""
        if not self._opened:
            self._rewrite([row for row in self._rows() if int(row["step"]) <= self.start_step])
            self._opened = True
        row = {"step": step, **{name: repr(float(value)) for name, value in metrics.items()}}
        if any(name not in self._columns for name in row):
            self._rewrite(self._rows(), new=list(row))
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    def _rows(self) -> list[dict[str, str]]:
        return read_metrics(self.path) if self.path.exists() else []

    def _rewrite(self, rows: list[dict[str, str]], new: list[str] | None = None) -> None:
        names = ["step", *(name for row in rows[:1] for name in row), *(new or [])]
        self._columns = list(dict.fromkeys(names))
        write_table(self.path, self._columns, rows)


def read_metrics(path: Path | str) -> list[dict[str, str]]:
    """Return the rows of a metrics file; a metric that a step does not have is empty.

    A last line cut short by a kill is left out.
    """
    lines = read_text(path).splitlines(keepends=True)
    rows = list(csv.DictReader(line for line in lines if "\0" not in line))
    return [row for row in rows if None not in row.values() and _is_step(row.get("step"))]


def _is_step(text: str | None) -> bool:
    return text is not None and text.isdecimal() and len(text) < 16
