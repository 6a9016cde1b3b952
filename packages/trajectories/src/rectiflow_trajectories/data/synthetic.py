"""Stand-ins for data and for pairs, for trials of the training."""

from __future__ import annotations

from pathlib import Path

import torch
from rectiflow.rectify import drawn_pairs
from torch import Tensor

from rectiflow_trajectories.data.prepare import Windows, prepare
from rectiflow_trajectories.io.arrays import write_runs
from rectiflow_trajectories.simulators import SYSTEMS


def synthetic_trajectories(
    out: Path | str, *, num: int, given: int = 10, frames: int = 20, seed: int = 0
) -> Path:
    """Make a folder as ``prepare`` does, of short runs of charged particles.

    Parameters
    ----------
    out : Path or str
        The folder; the runs are left beside it in ``<name>_runs``.
    num : int
        Runs of the train split; half as many, at least 2, are held out for validation.
    given, frames : int
        Of a window.
    seed : int
        Of the runs.
    """
    out = Path(out)
    source, every = out.with_name(f"{out.name}_runs"), 20
    windows = Windows(given=given, frames=frames)
    for split, first, count in (("train", 0, num), ("valid", num, max(2, num // 2))):
        steps = (windows.length + 1) * every
        told = {"seed": seed, "steps": steps, "every": every}
        runs = SYSTEMS["charged"]().simulate(range(first, first + count), **told)
        (source / split).mkdir(parents=True, exist_ok=True)
        write_runs(source / split, "charged", runs)
    prepare(source, out, windows=windows)
    return out


def synthetic_pairs(
    out: Path | str, *, num: int, given: int = 10, frames: int = 20, seed: int = 0
) -> Path:
    """Make pairs that mean nothing; ``out``, ``num``, ``seed`` as for :func:`drawn_pairs`.

    Parameters
    ----------
    given, frames : int
        Of the network that is to be trained; 3 nodes each, of one feature.
    """

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        x0, x1, reference = torch.randn(3, 3, frames, 3, generator=generator)
        cond = {"nodes": torch.ones(3, 1), "edges": torch.ones(3, 3, 1)}
        cond |= {"linked": ~torch.eye(3, dtype=torch.bool), "real": torch.ones(3).bool()}
        cond |= {"given": torch.randn(3, given, 3, generator=generator)}
        return x0, x1, cond | {"reference": reference}

    return drawn_pairs(draw, out, num=num, seed=seed)
