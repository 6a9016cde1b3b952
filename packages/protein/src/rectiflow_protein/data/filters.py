"""Which chains are worth training on: conditions on the columns of the metadata table."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.table import Table

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

_DEGREE = 4  # of the polynomial through the quantiles of the radius of gyration
_RANK_TOLERANCE = (
    1e-6  # smaller singular values of its powers are dropped, as the official fit does
)


@dataclass(frozen=True)
class Filter(ABC):
    """A condition on the rows of a table."""

    @abstractmethod
    def keep(self, table: Table) -> Bool[np.ndarray, " rows"]:
        """Say which rows pass."""

    @abstractmethod
    def reason(self, table: Table, row: int) -> str:
        """Say why a row did not pass, as a clause."""


@dataclass(frozen=True)
class LengthFilter(Filter):
    """Keep chains of ``minimum`` to ``maximum`` residues, both included."""

    minimum: int = 60
    maximum: int = 512

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ValueError(
                f"lengths must satisfy 1 <= min_length <= max_length, got {self.minimum} and "
                f"{self.maximum}. The published range is 60 to 512."
            )

    def keep(self, table: Table) -> Bool[np.ndarray, " rows"]:
        """Say which rows pass."""
        length = np.asarray(table["length"])
        return (length >= self.minimum) & (length <= self.maximum)

    def reason(self, table: Table, row: int) -> str:
        """Say what the length is and what it should be."""
        return f"{table['length'][row]} residues, outside {self.minimum} to {self.maximum}"


@dataclass(frozen=True)
class MaximumFilter(Filter):
    """Keep rows whose ``column`` is at most ``maximum``, or below it if ``strict``.

    Rows without a value (NaN) do not pass.

    Examples
    --------
    >>> MaximumFilter("coil", 0.5).keep({"coil": np.array([0.2, 0.5, 0.7])}).tolist()
    [True, True, False]
    """

    column: str
    maximum: float
    strict: bool = False

    def keep(self, table: Table) -> Bool[np.ndarray, " rows"]:
        """Say which rows pass."""
        values = np.asarray(table[self.column])
        return values < self.maximum if self.strict else values <= self.maximum

    def reason(self, table: Table, row: int) -> str:
        """Say what the value is and what it should be."""
        value = float(table[self.column][row])
        if math.isnan(value):
            return f"{self.column} is unknown, and at most {self.maximum:g} is wanted"
        sign = "not below" if self.strict else "above"
        return f"{self.column} is {value:.3g}, {sign} {self.maximum:g}"


@dataclass(frozen=True)
class RadiusOfGyrationFilter(Filter):
    """Keep chains that are compact for their length.

    The ``quantile`` of the radius of gyration of each length that occurs is fitted by a polynomial
    of degree four in length; chains below its value at ``length - 1``, plus ``slack``, pass.

    Parameters
    ----------
    quantile : float, default 0.96
        In (0, 1]; the published value.
    slack : float, default 1.0
        Ångström; the published 0.1 nm.

    Notes
    -----
    As in the published code the polynomial is evaluated at ``length - 1``, and fitted by minimum
    norm to centred powers of the length whose singular values below 1e-6 of the largest are
    dropped. For lengths of hundreds that leaves two of the four degrees of freedom, so the curve is
    smooth; kept rows agree with the published code.
    """

    quantile: float = 0.96
    slack: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.quantile <= 1:
            raise ValueError(
                f"rg_quantile must lie in (0, 1], got {self.quantile}; the published value is 0.96."
            )

    def cutoffs(self, table: Table) -> Float[np.ndarray, " rows"]:
        """Largest radius of gyration of each row in ångström, not included."""
        length, radius = (np.asarray(table[name]) for name in ("length", "radius_gyration"))
        known = np.unique(length)
        if not len(known):
            return np.zeros(0)
        levels = [np.quantile(radius[length == n], self.quantile) for n in known]
        powers, at = (x[:, None] ** np.arange(1.0, _DEGREE + 1) for x in (known, length - 1.0))
        centre, level = powers.mean(0), np.mean(levels)
        slopes = np.linalg.lstsq(powers - centre, levels - level, rcond=_RANK_TOLERANCE)[0]
        return level + (at - centre) @ slopes + self.slack

    def keep(self, table: Table) -> Bool[np.ndarray, " rows"]:
        """Say which rows pass."""
        return table["radius_gyration"] < self.cutoffs(table)

    def reason(self, table: Table, row: int) -> str:
        """Say what the radius is and what it should be."""
        radius, cutoff = table["radius_gyration"][row], self.cutoffs(table)[row]
        return f"radius of gyration {radius:.1f} Å, not below {cutoff:.1f} Å for its length"
