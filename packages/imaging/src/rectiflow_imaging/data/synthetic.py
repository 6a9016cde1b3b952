"""Made-up images and pairs, for trials and tests where nothing was prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rectiflow.execution import HERE
from rectiflow.randomness import counter_generator
from rectiflow.rectify import Pair, generate_pairs, sample_generator

from rectiflow_imaging.data.prepare import prepare
from rectiflow_imaging.io import Volume, write_volume
from rectiflow_imaging.phantoms import FAMILIES


def phantom_files(
    folder: Path,
    num: int,
    *,
    family: str = "ellipsoids",
    shape: tuple[int, int, int] = (24, 48, 48),
    suffix: str = ".npz",
    seed: int = 0,
) -> list[Path]:
    """Write phantoms of a family, each by its number alone; with millimetres, half a metre wide.

    Parameters
    ----------
    folder : Path
    num : int
    family : str
        Of :data:`~rectiflow_imaging.phantoms.FAMILIES`.
    shape : tuple of int
        Slices, rows and columns.
    suffix : str
        Format. NPZ has the labels too.
    seed : int
    """
    paths = []
    for index in range(num):
        made = FAMILIES[family](shape, counter_generator("phantom", family, seed, index))
        spacing = 500 / max(shape)
        affine = torch.zeros(4, 4).double()
        for row, column in ((2, 0), (1, 1), (0, 2)):
            affine[row, column] = spacing
        affine[3, 3] = 1
        volume = Volume(made.values.numpy(), affine.numpy(), labels=made.labels.numpy())
        paths.append(write_volume(folder / f"{family}_{index:04d}{suffix}", volume))
    return paths


def synthetic_images(
    folder: Path, *, num: int = 12, side: int = 16, cubes: bool = False, seed: int = 0
) -> Path:
    """Prepare small phantoms under ``folder``, and return where."""
    files = folder / "phantoms"
    phantom_files(files, num, shape=(side if cubes else 4, side, side), seed=seed)
    fractions = {"train": 0.7, "valid": 0.3, "test": 0.0}
    told: Any = {"side": side, "cubes": cubes, "fractions": fractions, "seed": seed}
    return prepare(files, folder / "shards", executor=HERE, **told).folder


def synthetic_pairs(folder: Path, *, num: int = 20, side: int = 16, seed: int = 0) -> Path:
    """Write pairs of noise and its sign, which is no flow's, to ``folder``, and return it."""

    def sample(indices: list[int]) -> list[Pair]:
        noise = [torch.randn(1, side, side, generator=sample_generator(seed, i)) for i in indices]
        return [Pair(i, x0, x0.sign()) for i, x0 in zip(indices, noise, strict=True)]

    generate_pairs(sample, folder, num=num, batch=8, seed=seed, progress=False)
    return folder
