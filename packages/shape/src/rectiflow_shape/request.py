"""What is asked of the pipeline, and how it is to be made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rectiflow.grids import shifted
from rectiflow.guidance import RectifiedCFG
from rectiflow.integrate import plan
from rectiflow.plans import Plan
from rectiflow.rectify import Jump
from rectiflow.solvers import Euler, Midpoint, Solver
from rectiflow.spacing import Spaced, Spacing

if TYPE_CHECKING:
    from torch import Tensor

    from rectiflow_shape.settings import ShapeSettings


@dataclass(frozen=True)
class Asked:
    """One shape to make: of a category, by words, of an image, or any.

    Attributes
    ----------
    index : int
        Fixes the noise, with the seed.
    category, prompt : str, optional
    image : Tensor, shape (3, 224, 224), optional
        What :func:`rectiflow_shape.io.pixels` makes of a picture.
    """

    index: int = 0
    category: str | None = None
    prompt: str | None = None
    image: Tensor | None = field(default=None, compare=False)

    def told(self) -> dict[str, Any]:
        """Return what was asked for, as plain data."""
        told = {"index": self.index, "category": self.category, "prompt": self.prompt}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(frozen=True)
class Options:
    """How shapes are made; what is None is the checkpoint's own.

    Parameters
    ----------
    steps : int, optional
        Of the solver.
    solver : Solver, optional
        Midpoint for mosaics, Euler for latents if absent: as published.
    grid : Spacing, optional
        Where its steps lie; with the checkpoint's shift if absent.
    guidance : float, optional
        Its weight; 1 is none.
    rule : RectifiedCFG, optional
        How it acts, if not as plain classifier-free guidance.
    interval : (float, float), optional
        Times within which guidance acts.
    tokens : int, optional
        Of each sample.
    depth : int, optional
        Surfaces are found on a lattice of ``2 ** depth`` cells a side.
    faces : int, optional
        Reduce meshes to at most so many.
    largest : bool
        Keep the largest component only.
    seed : int
        Of the noise.
    rows : int
        Samples that go through the flow network together.
    low_memory : bool
        Keep one network on the device at a time.
    """

    steps: int | None = None
    solver: Solver | None = None
    grid: Spacing | None = None
    guidance: float | None = None
    rule: RectifiedCFG | None = None
    interval: tuple[float, float] | None = None
    tokens: int | None = None
    depth: int | None = None
    faces: int | None = None
    largest: bool = False
    seed: int = 0
    rows: int = 16
    low_memory: bool = False

    def resolved(self, settings: ShapeSettings, is_mosaic: bool, is_map: bool = False) -> Options:
        """Fill in what the checkpoint decides; a network of maps jumps.

        Raises
        ------
        ValueError
            When a number is out of range.
        """
        made = {
            name: getattr(settings, name) if getattr(self, name) is None else getattr(self, name)
            for name in ("steps", "guidance", "tokens", "depth")
        }
        for name, low, high in (("steps", 1, 10_000), ("tokens", 1, 65_536), ("depth", 4, 10)):
            if not low <= made[name] <= high:
                raise ValueError(f"{name} must lie in {low} to {high}, got {made[name]}.")
        if not 0 <= made["guidance"] <= 100:
            raise ValueError(f"guidance must lie in 0 to 100, got {made['guidance']:g}; 1 is none.")
        if self.faces is not None and self.faces < 4:
            raise ValueError(f"a closed mesh has at least 4 faces, got faces={self.faces}.")
        solver = self.solver or (Midpoint() if is_mosaic and not is_map else Euler())
        solver = Jump() if is_map and solver == Euler() else solver
        if self.rule is not None and self.interval is not None:
            raise ValueError(
                f"{self.rule} guides at all times, got interval={self.interval}; expected one of "
                "the two."
            )
        grid = self.grid or Spaced(shifted, (settings.shift,))
        return Options(**{**self.__dict__, **made, "solver": solver, "grid": grid})

    @property
    def moves(self) -> Plan:
        """Return the steps from noise to a shape, of options as resolved."""
        grid, solver = self.grid or Spaced(), self.solver or Euler()
        return plan(grid(self.steps or 1), solver)

    def described(self) -> dict[str, Any]:
        """Return what shapes the results, as plain data."""
        told = {k: v for k, v in self.__dict__.items() if k not in ("rows", "low_memory")}
        each = 1 if self.guidance == 1 else 2 if self.rule is None else 3
        named = {name: told[name] and repr(told[name]) for name in ("solver", "grid", "rule")}
        return told | named | {"nfe": self.moves.nfe * each}
