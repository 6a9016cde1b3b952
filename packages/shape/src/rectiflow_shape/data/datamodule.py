"""Fitted mosaics and prepared surfaces as the data of a training run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.randomness import counter_generator
from rectiflow.storage.prepared import Prepared
from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import drawn
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_shape.data.conditions import Told
from rectiflow_shape.data.mosaics import PreparedMosaics
from rectiflow_shape.data.prepared import PreparedShapes
from rectiflow_shape.io.image import pixels_of_view

if TYPE_CHECKING:
    from jaxtyping import Float


class _Shapes(Dataset[dict[str, Tensor]], ABC):
    """Rows of a prepared folder; an index is a row, or a row and the number of its draw."""

    def __init__(
        self, prepared: Prepared, split: str, text: str | None, short: float, seed: int
    ) -> None:
        self.prepared, self.short, self.seed = prepared, short, seed
        self.rows: list[int] = prepared.some_rows(split).tolist()
        told = None if text is None else Told(prepared.table, self.rows, text, prepared.folder)
        self.told, self.is_training = told, split == "train"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        row, draw = (index, 0) if isinstance(index, int) else index
        generator = counter_generator("shape", self.seed, row, draw)
        found = self.example(self.prepared.records[self.rows[row]], generator)
        if self.told is not None:
            unit = float(torch.rand((), generator=generator))
            found |= self.told(row, self.is_training and unit < self.short)
        return found

    @abstractmethod
    def example(self, record: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return what a network sees of a record."""


_BESIDE = {"surface": "normals", "near": "near_sdf", "volume": "volume_sdf"}
"""What a record says of the points of each kind."""


class MosaicDataset(_Shapes):
    """Mosaics, half of the training ones mirrored from left to right."""

    def example(self, record: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return centres, scales and values."""
        centres, scales, values = (record[name] for name in ("centres", "scales", "values"))
        if self.is_training and bool(torch.rand((), generator=generator) < 0.5):
            centres, values = centres * torch.tensor([-1.0, 1.0, 1.0]), values.flip(1)
        return {"centres": centres, "scales": scales, "values": values}


class SurfaceDataset(_Shapes):
    """Points of surfaces with normals, and of space with distances: some of each at every draw.

    With ``pictures`` an example has one of its views too, as an image encoder takes it.
    """

    counts: dict[str, int]
    pictures: bool
    turns: bool

    def example(self, record: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return as many points of each kind as asked for, half of the shapes mirrored."""
        found: dict[str, Tensor] = {}
        if self.pictures:
            if "views" not in record:
                raise ValueError(
                    f"{self.prepared.folder} has no pictures; expected some of each shape. Prepare "
                    "it with --views 8."
                )
            at = torch.randint(len(record["views"]), (), generator=generator)
            found["image"] = pixels_of_view(record["views"][at])
        for name, count in self.counts.items():
            places, told = record[name], record[_BESIDE[name]]
            at = torch.randint(len(places), (count,), generator=generator)
            values = told[at].float().reshape(count, -1)
            found[name] = torch.cat([places[at].float(), values], dim=-1)
        if self.is_training and bool(torch.rand((), generator=generator) < 0.5):
            for name, values in found.items():
                if name == "image":  # of the mirrored shape from the mirrored place
                    found[name] = values.flip(-1)
                    continue
                values[:, 0] *= -1
                if name == "surface":
                    values[:, 3] *= -1
        if self.is_training and self.turns:
            quarters = int(torch.randint(4, (), generator=generator))
            found = {name: turned(values, quarters) for name, values in found.items()}
        return found


def turned(rows: Float[Tensor, "p k"], quarters: int) -> Float[Tensor, "p k"]:
    """Turn points about the y axis by so many quarters, and their normals if k is 6."""
    cosine, sine = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters % 4]
    found = rows.clone()
    for at in range(0, 3 * (rows.shape[1] // 3), 3):
        x, z = rows[:, at], rows[:, at + 2]
        found[:, at], found[:, at + 2] = cosine * x + sine * z, cosine * z - sine * x
    return found


class _Told(FlowData):
    """Data that may be told classes and captions."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the labels."""
        dataset: Any = self.dataset
        return () if dataset.told is None else dataset.told.classes


class MosaicData(_Told):
    """Mosaics that ``fit`` left in a folder, with class and caption.

    Parameters
    ----------
    folder : str or Path
        Output of ``rectiflow shape fit FOLDER``.
    batch_size : int
        Shapes per rank and step.
    text : str, optional
        The encoder of captions; None leaves class and caption out.
    short : float
        Share of draws that are told the class alone.
    seed : int
        Of the order and the draws.
    **loader
        As for :class:`~rectiflow.training.data.FlowData`.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 16,
        *,
        text: str | None = "minilm",
        short: float = 0.3,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        self.prepared = PreparedMosaics(folder)
        train = MosaicDataset(self.prepared, "train", text, short, seed)
        held_out: Any = None
        if len(self.prepared.rows("valid")):
            held_out = HeldOut(MosaicDataset(self.prepared, "valid", text, short, seed), batch_size)
        super().__init__(train, drawn(len(train), batch_size, seed), held_out, **loader)


class SurfaceData(_Told):
    """Shapes that ``prepare`` left in a folder.

    Parameters
    ----------
    folder : str or Path
        Output of ``rectiflow shape prepare``.
    batch_size : int
        Shapes per rank and step.
    surface, near, volume : int
        Points of each kind in an example; 0 leaves a kind out.
    pictures : bool
        Give each example one of its views, which ``prepare --views`` rendered.
    turns : bool
        Turn training examples about the y axis by random quarters; not with pictures.
    text, short, seed, **loader
        As for :class:`MosaicData`.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 8,
        *,
        surface: int = 20_480,
        near: int = 8192,
        volume: int = 8192,
        pictures: bool = False,
        turns: bool = False,
        text: str | None = None,
        short: float = 0.3,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        if turns and pictures:
            raise ValueError(
                "a turned shape has other pictures; expected turns or pictures, got both."
            )
        self.prepared = PreparedShapes(folder)
        counts = {"surface": surface, "near": near, "volume": volume}

        def made(split: str) -> SurfaceDataset:
            dataset = SurfaceDataset(self.prepared, split, text, short, seed)
            dataset.counts = {name: count for name, count in counts.items() if count}
            dataset.pictures, dataset.turns = pictures, turns
            return dataset

        train, held_out = made("train"), None
        if len(self.prepared.rows("valid")):
            held_out = HeldOut(made("valid"), batch_size)
        super().__init__(train, drawn(len(train), batch_size, seed), held_out, **loader)


__all__: Sequence[str] = ["MosaicData", "MosaicDataset", "SurfaceData", "SurfaceDataset"]
