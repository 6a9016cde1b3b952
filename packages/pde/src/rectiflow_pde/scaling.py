"""Between flows in SI units and the numbers that networks see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from rectiflow_pde.mesh import Mesh
from rectiflow_pde.trajectory import FIELDS, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float

NUMBERS = ("reynolds", "radius", "centre_x", "centre_y", "u_mean")
"""What a prompt tells: the Reynolds number, lengths in metres, mean inflow in m/s."""


@dataclass(frozen=True)
class Scaling:
    """How positions, fields and numbers are normalised; stored with the weights.

    Parameters
    ----------
    origin : tuple of float
        Lower left corner of the domain in metres.
    lengths : tuple of float
        What x and y are divided by, in metres. The released networks divide each by its own side.
    height : float
        Of the domain in metres; where it is mirrored, and a prompt's mesh ends.
    by_inflow : bool
        Divide the velocity by the mean inflow, and the pressure by its square, first: then flows
        of any speed look alike. Released networks do not.
    mean, std : tuple of float
        Of u, v, p after that.
    low, high : tuple of float
        Range of each of :data:`NUMBERS` in training.
    """

    origin: tuple[float, ...] = (0.0, 0.0)
    lengths: tuple[float, ...] = (1.6, 1.6)
    height: float = 0.41
    by_inflow: bool = True
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    low: tuple[float, ...] = (25.0, 0.03, 0.22, 0.145, 0.25)
    high: tuple[float, ...] = (190.0, 0.065, 0.45, 0.265, 1.7)

    def __post_init__(self) -> None:
        for name in ("origin", "lengths", "mean", "std", "low", "high"):  # JSON has lists
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        sizes = [len(getattr(self, name)) for name in ("origin", "lengths", "mean", "std")]
        if sizes != [2, 2, 3, 3] or len(self.low) != len(NUMBERS) or len(self.high) != len(NUMBERS):
            raise ValueError(
                f"scaling needs 2 origins and lengths, 3 means and deviations and {len(NUMBERS)} "
                f"ranges, got {sizes} and {len(self.low)}."
            )
        if min(*self.lengths, *self.std, self.height) <= 0:
            raise ValueError("lengths, height and deviations must be positive.")

    @classmethod
    def of(cls, flows: Iterable[Trajectory], **options: object) -> Self:
        """Measure fields and ranges of training flows."""
        plain = cls(**options)  # type: ignore[arg-type]
        total, square, count, told = np.zeros(3), np.zeros(3), 0, []
        for flow in flows:
            scaled = flow.stacked.astype(np.float64) / plain.units(flow.parameters)
            total, square = total + scaled.sum((0, 1)), square + (scaled**2).sum((0, 1))
            count += scaled.shape[0] * scaled.shape[1]
            told.append([flow.parameters[name] for name in NUMBERS])
        mean = total / count
        std = np.sqrt(np.maximum(square / count - mean**2, 1e-12))
        low, high = np.min(told, 0), np.max(told, 0)
        measured = {"mean": mean, "std": std, "low": low, "high": high}
        return cls(**(options | {k: tuple(v) for k, v in measured.items()}))  # type: ignore[arg-type]

    def units(self, parameters: Mapping[str, float]) -> Float[np.ndarray, " 3"]:
        """Return what u, v and p are measured in."""
        if not self.by_inflow:
            return np.ones(len(FIELDS))
        speed = parameters["u_mean"]
        return np.array([speed, speed, speed**2])

    def place(self, mesh: Mesh) -> Float[Tensor, "n 2"]:
        """Return the nodes in units of the network."""
        scaled = (mesh.points - np.array(self.origin)) / np.array(self.lengths)
        return torch.from_numpy(scaled).float()

    def normalise(
        self, fields: Float[np.ndarray, "t n 3"], parameters: Mapping[str, float]
    ) -> Float[Tensor, "n t 3"]:
        """Return fields in units of the network."""
        scaled = (fields / self.units(parameters) - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(np.swapaxes(scaled, 0, 1).astype(np.float32).copy())

    def restore(
        self, values: Float[Tensor, "n t 3"], parameters: Mapping[str, float]
    ) -> Float[np.ndarray, "t n 3"]:
        """Return fields in SI units; the inverse of :meth:`normalise`."""
        plain = values.detach().cpu().double().numpy() * np.array(self.std) + np.array(self.mean)
        return np.swapaxes(plain * self.units(parameters), 0, 1).astype(np.float32)

    def numbers(self, parameters: Mapping[str, float]) -> Float[Tensor, " 5"]:
        """Return :data:`NUMBERS` as -1 to 1 over the trained range, NaN where not told."""
        told = np.array([parameters.get(name, np.nan) for name in NUMBERS])
        low, high = np.array(self.low), np.array(self.high)
        # Ratios of Reynolds numbers and speeds matter, not their differences.
        for i in (NUMBERS.index("reynolds"), NUMBERS.index("u_mean")):
            told[i], low[i], high[i] = np.log(told[i]), np.log(low[i]), np.log(high[i])
        span = np.where(high > low, high - low, 1.0)
        return torch.from_numpy(2 * (told - low) / span - 1).float()
