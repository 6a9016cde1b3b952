"""Steps of Kuramoto-Sivashinsky flows as the data of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.randomness import counter_generator
from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import drawn
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_pde.data.grids import KsDraws, PreparedGrids, solve_grids
from rectiflow_pde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

KIND = "ks flows"


class Waves(Dataset[dict[str, Tensor]]):
    """States and those some frames later: ``u``, ``later`` ``(1, n)``, ``space``, ``time`` ``()``.

    Parameters
    ----------
    flows : PreparedGrids
        Of Kuramoto-Sivashinsky.
    rows : sequence of int
        Which of them.
    stride : int
        Frames of a step.
    seed : int
        Of where a step begins.
    """

    def __init__(
        self, flows: PreparedGrids, rows: Sequence[int], stride: int, *, seed: int = 0
    ) -> None:
        if flows.records.metadata.get("kind") != KIND:
            raise ValueError(
                f"{flows.folder} holds {flows.records.metadata.get('kind')!r}; expected {KIND!r}. "
                "Make some with `rectiflow pde solve ks -o SHARDS`."
            )
        self.flows, self.rows, self.stride, self.seed = flows, list(rows), stride, seed
        self.sizes, self.steps = flows.table["size"], flows.table["frame_step"]
        if self.rows and len(flows.records[self.rows[0]]["times"]) <= stride:
            raise ValueError(
                f"{flows.folder} has flows of {len(flows.records[self.rows[0]]['times'])} frames; "
                f"expected more than the stride, {stride}. Solve with more --frames."
            )

    def __len__(self) -> int:
        return len(self.rows)

    def states(self, row: int) -> Float[Tensor, "f n"]:
        """Return a whole flow."""
        return self.flows.records[self.rows[row]]["fields"][..., 0]

    def numbers(self, row: int) -> tuple[float, float]:
        """Return the distance of points and the time between frames."""
        at, points = self.rows[row], self.states(row).shape[1]
        return float(self.sizes[at]) / points, float(self.steps[at])

    def __getitem__(self, index: Any) -> dict[str, Tensor]:
        row, draw = index if isinstance(index, tuple) else (index, 0)
        states = self.states(row)
        generator = counter_generator("step", self.seed, row, draw)
        begin = int(torch.randint(len(states) - self.stride, (), generator=generator))
        space, time = self.numbers(row)
        return {
            "u": states[None, begin],
            "later": states[None, begin + self.stride],
            "space": torch.tensor(space),
            "time": torch.tensor(time),
        }


class WaveData(FlowData):
    """Steps of the train split, each from a place drawn anew, and some of the valid split.

    Parameters
    ----------
    folder : str or Path
        Output of ``solve ks``.
    batch_size : int
        Steps per rank and optimiser step.
    stride : int
        Frames of a step.
    seed : int
    **loader
        As for :class:`~rectiflow.training.data.FlowData`.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 128,
        *,
        stride: int = 4,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        flows = PreparedGrids(folder)
        dataset = Waves(flows, flows.some_rows("train").tolist(), stride, seed=seed)
        held = Waves(flows, flows.rows("valid").tolist(), stride, seed=seed)
        self.stride = stride
        self.points = dataset.states(0).shape[1]
        self.spaces, self.times = zip(*map(dataset.numbers, range(len(dataset))), strict=True)
        validation = HeldOut(held, batch_size) if len(held) else None
        super().__init__(dataset, drawn(len(dataset), batch_size, seed), validation, **loader)


def solve_few(out: str | Path, *, num: int = 4, seed: int = 0) -> Path:
    """Solve a few short, coarse flows, for trials of the training."""
    equation = KuramotoSivashinsky(length=16.0, points=32, step=0.1)
    draws = KsDraws(equation, tuple(round(2 + 0.2 * i, 9) for i in range(12)))
    solve_grids(out, draws, num, fractions={"train": 0.5, "valid": 0.25, "test": 0.25}, seed=seed)
    return Path(out)
