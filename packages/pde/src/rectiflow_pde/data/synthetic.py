"""Made-up flows, for trials and tests where nothing was solved: a wave in a channel's profile."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from rectiflow.randomness import counter_generator
from rectiflow.rectify import drawn_pairs
from rectiflow.storage.preparation import Judged, Preparation
from torch import Tensor

from rectiflow_pde.data.captions import caption_of
from rectiflow_pde.data.prepared import COLUMNS, pack
from rectiflow_pde.data.records import finish, row_of
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.meshing import Channel, mesh_channel
from rectiflow_pde.trajectory import Trajectory

_STROUHAL = 0.3


def synthetic_flow(index: int, *, frames: int = 31, seed: int = 0) -> Trajectory:
    """Make flow ``index`` of a seed: a parabola with a wave behind a cylinder, on a coarse mesh.

    It obeys no equation, but what it is told of itself is true: its inflow, its cylinder, and the
    frequency of the wave.
    """
    generator = counter_generator("synthetic flow", seed, index)
    radius, x, y, u_mean = (
        float(low + (high - low) * torch.rand((), generator=generator))
        for low, high in ((0.035, 0.06), (0.25, 0.4), (0.16, 0.25), (0.4, 1.2))
    )
    mesh = mesh_channel(Channel(radius, (x, y)), 0.016, 0.07)
    times = 1.5 + 0.05 * np.arange(frames)
    px, py = mesh.points.T
    profile = 6 * u_mean * py * (0.41 - py) / 0.41**2
    rate = _STROUHAL * u_mean / (2 * radius)
    phase = 2 * np.pi * (rate * times[:, None] - rate * (px - x) / (0.8 * u_mean))
    wake = (px > x + radius) * profile / (1.5 * u_mean)
    fields = {
        "u": profile * (1 - 0.3 * wake) + 0 * phase,
        "v": 0.3 * u_mean * wake * np.sin(phase),
        "p": 0.3 * u_mean**2 * (1.6 - px) / 1.6 - 0.1 * u_mean**2 * wake * np.cos(phase),
    }
    solid = mesh.nodes_of(NodeType.WALL, NodeType.OBSTACLE)
    for name in ("u", "v"):
        fields[name] = np.where(solid, 0.0, fields[name])
    told = {
        "reynolds": u_mean * 2 * radius / 1e-3,
        "radius": radius,
        "centre_x": x,
        "centre_y": y,
        "u_mean": u_mean,
        "viscosity": 1e-3,
        "density": 1.0,
        "strouhal": _STROUHAL,
    }
    whole = {name: values.astype(np.float32) for name, values in fields.items()}
    return Trajectory(mesh, times, whole, told, caption_of(told))


def prepare_synthetic(out: Path | str, *, num: int, frames: int = 31, seed: int = 0) -> Path:
    """Make a folder of prepared flows that obey no equation, for trials of the training.

    Parameters
    ----------
    out : Path or str
        The folder.
    num : int
        Flows of the train split; there are half as many in the others.
    frames, seed
        As for :func:`synthetic_flow`.
    """
    preparation = Preparation(
        unit="flow",
        columns=COLUMNS,
        refusal=("file", "reason"),
        judge=partial(_judged, frames=frames, seed=seed),
        finish=partial(finish, fractions={"train": 1.0}, seed=seed),
        settings={"kind": "synthetic flows", "num": num, "frames": frames, "seed": seed},
    )
    counts = {"train": num, "valid": max(num // 2, 1), "test": max(num // 2, 1)}
    splits = [split for split, count in counts.items() for _ in range(count)]
    preparation.run(list(enumerate(splits)), Path(out))
    return Path(out)


def _judged(numbered: tuple[int, str], frames: int, seed: int) -> Judged:
    index, split = numbered
    flow = synthetic_flow(index, frames=frames, seed=seed)
    row = row_of(flow, f"synthetic_{index:04d}", "synthetic", split=split)
    return Judged(accepted=[(pack(flow), row)])


def synthetic_pairs(
    out: Path | str,
    *,
    num: int,
    shape: tuple[int, int, int, int] = (8, 4, 2, 2),
    context: tuple[int, int] | None = None,
    seed: int = 0,
) -> Path:
    """Make pairs that mean nothing; ``out``, ``num``, ``seed`` as for :func:`drawn_pairs`.

    Parameters
    ----------
    shape : tuple of int
        Of a latent.
    context : (int, int), optional
        Tokens and their width: what the authors' diffusion is told instead of numbers and a frame.
    """
    channels, *grid = shape

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x0, x1 = torch.randn(2, *shape, generator=generator)
        if context is not None:
            return x0, x1, {"context": torch.randn(*context, generator=generator)}
        told = torch.randn(channels + 1, *grid, generator=generator)
        return x0, x1, {"numbers": torch.rand(5, generator=generator), "beside": told}

    return drawn_pairs(draw, out, num=num, seed=seed)
