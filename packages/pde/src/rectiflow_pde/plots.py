"""Pictures of flows: frames side by side over time, and curves of errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rectiflow.figures import labelled, new_figure, save_movie

from rectiflow_pde.trajectory import Trajectory

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def speed(flow: Trajectory) -> np.ndarray:
    """Return the absolute velocity, shape (frames, nodes)."""
    return np.hypot(flow.fields["u"], flow.fields["v"])


def frame_figure(flows: Sequence[tuple[str, Trajectory]], frame: int) -> Figure:
    """Draw the speed of flows in one frame, below each other and in one colour scale."""
    figure = new_figure(6.4, 0.4 + 1.75 * len(flows))
    top = max(float(np.percentile(speed(flow), 99.8)) for _, flow in flows)
    for i, (title, flow) in enumerate(flows):
        axes = figure.add_subplot(len(flows), 1, i + 1)
        mesh, draw = flow.mesh, cast("Any", axes.tripcolor)  # its types know no gouraud
        shown: Any = draw(
            *mesh.points.T, mesh.triangles, speed(flow)[frame], shading="gouraud", vmin=0, vmax=top
        )
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.margins(0)
        axes.set_title(f"{title}, t = {flow.times[frame]:.2f} s", fontsize=9)
        figure.colorbar(shown, ax=axes, label="m/s", shrink=0.9)
    return figure


def save_animation(flows: Sequence[tuple[str, Trajectory]], path: Path | str) -> Path:
    """Write a GIF of flows with the same times, below each other."""
    frames = range(min(len(flow.times) for _, flow in flows))
    return save_movie((frame_figure(flows, frame) for frame in frames), path)


def error_figure(times: np.ndarray, errors: Mapping[str, np.ndarray]) -> Figure:
    """Draw relative errors over time, one curve for each method."""
    figure, axes = labelled("error over time", "time after the first frame (s)", "relative L2")
    for name, values in errors.items():
        axes.plot(times[: len(values)] - times[0], values, label=name)
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
