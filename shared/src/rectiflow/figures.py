"""Figures without pyplot: nothing opens a window and nothing has to be closed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow.storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float = 5.0, height: float = 4.2) -> Figure:
    """Make an empty figure, in inches, drawn by Agg whatever the backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def labelled(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes with labels."""
    figure = new_figure()
    axes = figure.add_subplot()
    axes.set(title=title, xlabel=x, ylabel=y)
    return figure, axes


def save_figure(figure: Figure, path: Path | str) -> None:
    """Write a figure whole or not at all."""
    with whole_file(path) as part:
        figure.savefig(part)
