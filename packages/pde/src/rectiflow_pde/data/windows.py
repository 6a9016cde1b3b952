"""Stretches of flows as examples to train on, and batches of meshes of different size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rectiflow.randomness import counter_generator
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_pde.networks.transforms import Cloud
from rectiflow_pde.scaling import NUMBERS, Scaling
from rectiflow_pde.trajectory import Trajectory

Example = dict[str, Tensor]


class FlowWindows(Dataset[Example]):
    """Stretches of some frames, at random begins, half of them mirrored.

    Item ``(row, draw)`` is a pure function of both and of the seed; item ``row`` is the first
    frames as they are. An example holds ``fields (n, t, 3)``, ``points (n, 2)``
    and ``numbers (5,)``, all in units of the network.

    Parameters
    ----------
    flows : sequence of Trajectory
    scaling : Scaling
    frames : int
        Of a stretch.
    seed : int
    """

    def __init__(
        self, flows: Sequence[Trajectory], scaling: Scaling, frames: int, *, seed: int = 0
    ) -> None:
        self.scaling, self.frames, self.seed = scaling, frames, seed
        short = [i for i, flow in enumerate(flows) if len(flow.times) < frames]
        if short or not len(flows):
            raise ValueError(
                f"flows must have at least {frames} frames, got {len(short)} shorter ones of "
                f"{len(flows)}; expected trajectories as long as the codec's. Prepare longer ones."
            )
        self.flows = [example_of(flow, scaling) for flow in flows]

    def __len__(self) -> int:
        return len(self.flows)

    def __getitem__(self, index: Any) -> Example:
        row, draw = index if isinstance(index, tuple) else (index, None)
        whole = self.flows[row]
        if draw is None:
            return window(whole, 0, self.frames)
        generator = counter_generator("window", self.seed, row, draw)
        last = whole["fields"].shape[1] - self.frames
        begin = int(torch.randint(last + 1, (), generator=generator))
        cut = window(whole, begin, self.frames)
        if torch.rand((), generator=generator) < 0.5:
            return cut
        return mirrored(cut, self.scaling)


def example_of(flow: Trajectory, scaling: Scaling) -> Example:
    """Return a flow in units of the network."""
    return {
        "fields": scaling.normalise(flow.stacked, flow.parameters),
        "points": scaling.place(flow.mesh),
        "numbers": scaling.numbers(flow.parameters),
    }


def window(example: Example, begin: int, frames: int) -> Example:
    """Cut some frames out of an example."""
    return {**example, "fields": example["fields"][:, begin : begin + frames]}


def mirrored(example: Example, scaling: Scaling) -> Example:
    """Turn a flow upside down, which solves the same equations."""
    points, fields = example["points"].clone(), example["fields"].clone()
    height = scaling.height / scaling.lengths[1]
    points[:, 1] = height - points[:, 1]
    fields[..., 1] = -(fields[..., 1] + 2 * scaling.mean[1] / scaling.std[1])
    numbers = mirrored_numbers(example["numbers"], scaling)
    return {**example, "points": points, "fields": fields, "numbers": numbers}


def collate(examples: Sequence[Example]) -> Example:
    """Put examples into a batch: nodes one mesh after the other, and how many of each."""
    sizes = torch.tensor([len(example["points"]) for example in examples])
    joined = {k: torch.cat([e[k] for e in examples]) for k in ("fields", "points")}
    return {"sizes": sizes, **joined, "numbers": torch.stack([e["numbers"] for e in examples])}


def cloud_of(codec: Any, batch: Mapping[str, Tensor]) -> Cloud:
    """Place the meshes of a batch on a codec's grid."""
    sizes = batch["sizes"].tolist()
    frames = batch["fields"].shape[1]
    clouds = [codec.place(points, frames) for points in batch["points"].split(sizes)]
    return Cloud.join(clouds).to(batch["fields"].device)


def mirrored_numbers(numbers: Tensor, scaling: Scaling) -> Tensor:
    """Return the numbers of a flow turned upside down: another height of the centre."""
    i = NUMBERS.index("centre_y")
    span = scaling.high[i] - scaling.low[i] or 1.0
    shift = 2 * (scaling.height + 2 * scaling.origin[1] - scaling.low[i] - scaling.high[i]) / span
    turned = numbers.clone()
    turned[..., i] = shift - numbers[..., i]
    return turned
