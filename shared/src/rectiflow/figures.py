"""Figures without pyplot: nothing opens a window and nothing has to be closed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rectiflow.storage.files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(
    width: float = 5.0,
    height: float = 4.2,
    layout: Literal["constrained", "compressed"] = "constrained",
) -> Figure:
    """Make an empty figure, in inches, drawn by Agg whatever the backend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


def labelled(title: str, x: str, y: str) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes with labels."""
    figure = new_figure(layout="compressed")  # for square axes
    axes = figure.add_subplot()
    # A title may be a file's name, which may hold bytes that are no text.
    axes.set(title=title.encode(errors="replace").decode(), xlabel=x, ylabel=y)
    return figure, axes


def save_movie(figures: Iterable[Figure], path: Path | str, *, ms: int = 90) -> Path:
    """Write figures as the frames of a GIF that repeats, so many milliseconds each."""
    import numpy as np
    from PIL import Image

    pictures = []
    for figure in figures:
        canvas: Any = figure.canvas
        canvas.draw()
        drawn = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
        pictures.append(drawn.quantize(64))
    with whole_file(path) as part:
        more: Any = {"save_all": True, "append_images": pictures[1:], "duration": ms, "loop": 0}
        pictures[0].save(part, format="GIF", **more)
    return Path(path)


def save_figure(figure: Figure, path: Path | str) -> Path:
    """Write a figure whole or not at all."""
    with whole_file(path) as part:
        figure.savefig(part)
    return Path(path)
