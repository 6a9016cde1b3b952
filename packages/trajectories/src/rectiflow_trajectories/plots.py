"""Moving pictures of forecasts beside what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.figures import new_figure, save_movie

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

_MS = 160
"""Milliseconds of a frame."""


@dataclass(frozen=True)
class Panel:
    """One trajectory to draw.

    Attributes
    ----------
    title : str
    given : ndarray, shape (s, n, d)
    futures : mapping of str to ndarray, shape (t, n, d)
        What follows, by who says so; the first is drawn in full colour.
    """

    title: str
    given: Float[np.ndarray, "s n d"]
    futures: Mapping[str, Float[np.ndarray, "t n d"]]

    @property
    def frames(self) -> int:
        """Return how many frames there are in all."""
        return len(self.given) + min(map(len, self.futures.values()))


def forecast_figure(panels: Sequence[Panel], frame: int) -> Figure:
    """Draw panels side by side in one frame, from above: places, and the ways that led there."""
    figure = new_figure(3.2 * len(panels), 3.6)
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        whole = {k: np.concatenate([panel.given, x]) for k, x in panel.futures.items()}
        seen = next(iter(whole.values()))[..., :2]
        middle, half = seen.mean((0, 1)), 0.6 * max(np.ptp(seen, (0, 1)).max(), 1e-6)
        styles = (("o", 1.0, 22), ("x", 0.8, 26), (".", 0.4, 20))
        for (label, x), (marker, alpha, size) in zip(whole.items(), styles, strict=False):
            for node in range(x.shape[1]):
                colour, way = f"C{node % 10}", x[: frame + 1, node, :2].T
                axes.plot(*way, color=colour, alpha=0.35 * alpha, linewidth=1)
                axes.scatter(*way[:, -1:], color=colour, alpha=alpha, s=size, marker=marker,
                             label=label if node == 0 else None)  # fmt: skip
        told = "given" if frame < len(panel.given) else f"+{frame - len(panel.given) + 1}"
        axes.set_title(f"{panel.title}, {told}", fontsize=9)
        low, high = middle - half, middle + half
        axes.set(
            aspect="equal", xticks=[], yticks=[], xlim=(low[0], high[0]), ylim=(low[1], high[1])
        )
        axes.legend(fontsize=7, loc="upper right")
    return figure


def save_animation(panels: Sequence[Panel], path: Path | str) -> Path:
    """Write a GIF of panels with as many frames as the shortest has."""
    frames = range(min(panel.frames for panel in panels))
    return save_movie((forecast_figure(panels, frame) for frame in frames), path, ms=_MS)
