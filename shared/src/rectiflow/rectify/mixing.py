"""Mixes pairs of real data into generated ones."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset


class Mixed(Dataset[dict[str, Tensor]]):
    """A fixed fraction of real pairs among generated ones.

    Reflow on generated pairs alone drifts away from the data; real data, inverted to noise by the
    flow, holds it. Every item of both sets occurs; the set that is short of its share repeats.

    Parameters
    ----------
    real, generated : Dataset
        Records with the same names.
    fraction : float
        Share of real records, in (0, 1).

    Raises
    ------
    ValueError
        When the fraction is out of range, a set is empty, or the records differ in names.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.3.

    Examples
    --------
    >>> mixed = Mixed([{"x1": 0}] * 3, [{"x1": 1}] * 2, fraction=0.25)
    >>> len(mixed), sum(mixed.is_real(i) for i in range(len(mixed)))
    (12, 3)
    """

    def __init__(self, real: Any, generated: Any, fraction: float) -> None:
        if not 0.0 < fraction < 1.0:
            raise ValueError(
                f"fraction of real pairs must lie in (0, 1), got {fraction}; use one of the two "
                "sets alone for 0 or 1."
            )
        for name, dataset in (("real", real), ("generated", generated)):
            if not len(dataset):
                raise ValueError(f"the {name} set is empty; expected at least one record.")
        if real[0].keys() != generated[0].keys():
            raise ValueError(
                f"records must have the same names, got {sorted(real[0])} real and "
                f"{sorted(generated[0])} generated."
            )
        self.real, self.generated, self.fraction = real, generated, fraction
        total = max(_size(real) / fraction, _size(generated) / (1.0 - fraction))
        self.n_real = round(total * fraction)
        self.n_generated = round(total * (1.0 - fraction))

    def __len__(self) -> int:
        return self.n_real + self.n_generated

    def is_real(self, index: int) -> bool:
        """Return whether an item is from the real set."""
        return index < self.n_real

    def origin(self, index: int) -> tuple[Any, int]:
        """Return the set that an item is from, and its index there."""
        if not 0 <= index < len(self):
            raise IndexError(f"item {index} does not exist; the mixture has {len(self)}.")
        if index < self.n_real:
            return self.real, index % _size(self.real)
        return self.generated, (index - self.n_real) % _size(self.generated)

    def __getitem__(self, index: int | tuple[int, int]) -> dict[str, Tensor]:
        """Return one record, by its index or by (index, draw)."""
        dataset, position = self.origin(index if isinstance(index, int) else index[0])
        return dataset[position]


def _size(dataset: Sized) -> int:
    return len(dataset)
