"""The picture of a training: its losses over the steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow.figures import labelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_curve(
    metrics: Mapping[str, tuple[Sequence[float], Sequence[float]]] | str | Path,
    *,
    title: str = "Training",
) -> Figure:
    """Curves of metrics over steps; the vertical axis is logarithmic if all values are positive.

    Drawn without pyplot: nothing opens a window and nothing has to be closed.

    Parameters
    ----------
    metrics : mapping or path
        (steps, values) by name, or the ``metrics.csv`` of a run, of which the losses are shown.
    title : str
        Above the axes.

    Raises
    ------
    ValueError
        If the file has no column with a loss.
    """
    curves = metrics if isinstance(metrics, Mapping) else _losses(Path(metrics))
    figure, axes = labelled(title, "step", "value")
    for name, (steps, values) in sorted(curves.items()):
        axes.plot(steps, values, label=name, linewidth=1)
    shown = [value for _, values in curves.values() for value in values]
    if shown and min(shown) > 0:
        axes.set_yscale("log")
    if curves:
        axes.legend(frameon=False, fontsize="small")
    return figure


def _losses(path: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Read (steps, values) of the columns whose name contains ``loss``."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        names = [name for name in reader.fieldnames or () if "loss" in name]
        if not names or "step" not in (reader.fieldnames or ()):
            raise ValueError(
                f"{path} has no loss to plot, got columns {reader.fieldnames}; expected 'step' and "
                "a column with 'loss' in its name."
            )
        for row in reader:
            for name in names:
                if row[name] and math.isfinite(float(row[name])):
                    steps, values = curves.setdefault(name, ([], []))
                    steps.append(float(row["step"]))
                    values.append(float(row[name]))
    return curves
