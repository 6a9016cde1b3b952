"""Smoke and Kuramoto-Sivashinsky flows solved into shards of regular grids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

import numpy as np
import torch
from rectiflow.randomness import counter_generator
from rectiflow.storage.preparation import Judged, Preparation, Report, Running, split_rows
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.splits import DEFAULT_FRACTIONS, check_fractions
from rectiflow.storage.table import Columns

from rectiflow_pde.data.captions import smoke_caption
from rectiflow_pde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky
from rectiflow_pde.solvers.smoke import Smoke, draw_density

if TYPE_CHECKING:
    from jaxtyping import Float


class PreparedGrids(Prepared):
    """Records hold ``fields (f, *grid, channels)`` float32 and ``times (f,)`` float64.

    Channels of smoke are velocity along x and y and density; Kuramoto-Sivashinsky has one.
    """

    columns: ClassVar[Columns] = {
        **dict.fromkeys(("name", "split", "caption"), str),
        **dict.fromkeys(("buoyancy", "size", "viscosity", "frame_step"), float),
    }
    unit = "flow"


@dataclass(frozen=True)
class SmokeDraws:
    """Smoke from random densities.

    Attributes
    ----------
    buoyancy : tuple of float
        Drawn evenly.
    cells : int
        Along each side.
    steps : tuple of int
        Numbers of steps at the frames.
    """

    buoyancy: tuple[float, float] = (0.2, 0.5)
    cells: int = 64
    steps: tuple[int, ...] = tuple(range(8, 56))

    def __call__(self, generator: torch.Generator) -> tuple[Float[np.ndarray, "f n n 3"], dict]:
        """Draw and solve one."""
        low, high = self.buoyancy
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        smoke = Smoke(buoyancy=low + share * (high - low))
        states = smoke.solve(draw_density(self.cells, generator), self.steps)
        told = asdict(smoke)
        told["caption"] = smoke_caption(states[0].density, smoke.buoyancy)
        told["times"] = smoke.step * np.array(self.steps)
        return np.stack([state.centred for state in states]), told


@dataclass(frozen=True)
class KsDraws:
    """Kuramoto-Sivashinsky flows from random sines.

    Attributes
    ----------
    equation : KuramotoSivashinsky
    times : tuple of float
    spread : float
        Share by which the length of the circle, and all times, are drawn larger or smaller.
    """

    equation: KuramotoSivashinsky = field(default_factory=KuramotoSivashinsky)
    times: tuple[float, ...] = tuple(round(20 + 0.2 * i, 10) for i in range(140))
    spread: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.spread < 1:
            raise ValueError(f"spread must lie in [0, 1), got {self.spread:g}.")

    def __call__(self, generator: torch.Generator) -> tuple[Float[np.ndarray, "f n 1"], dict]:
        """Draw and solve one."""
        equation, times = self.equation, np.array(self.times)
        if self.spread:
            share = torch.rand(2, generator=generator, dtype=torch.float64).numpy()
            longer, slower = 1 + self.spread * (2 * share - 1)
            drawn = {"length": equation.length * longer, "step": equation.step * slower}
            equation, times = replace(equation, **drawn), times * slower
        found = equation.solve(equation.draw(generator), times.tolist())
        told: dict[str, Any] = {"size": equation.length, "viscosity": equation.viscosity}
        told["buoyancy"] = None
        told["caption"] = f"Kuramoto-Sivashinsky flow on a circle of length {equation.length:g}."
        return found[..., None], told | {"times": times}


def solve_grids(
    out: str | Path,
    draws: SmokeDraws | KsDraws,
    count: int,
    *,
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    **run: Unpack[Running],
) -> Report:
    """Solve ``count`` flows into a folder; see :func:`~rectiflow_pde.data.solve.solve_flows`."""
    check_fractions(fractions)
    kind = "smoke" if isinstance(draws, SmokeDraws) else "ks"
    settings: dict[str, Any] = {
        "kind": f"{kind} flows",
        "draws": asdict(draws),
        "count": count,
        "fractions": dict(fractions),
        "seed": seed,
        "units": "as the equations: no unit",
    }
    preparation = Preparation(
        unit="flow",
        columns=PreparedGrids.columns,
        refusal=("file", "reason"),
        judge=partial(_solve, kind=kind, draws=draws, seed=seed),
        finish=partial(split_rows, fractions=fractions, seed=seed),
        settings=settings,
        per_chunk=1,
    )
    return preparation.run(range(count), Path(out), **run)


def _solve(index: int, kind: str, draws: SmokeDraws | KsDraws, seed: int) -> Judged:
    name = f"{kind}_{seed}_{index:05d}"
    try:
        fields, told = draws(counter_generator(kind, seed, index))
    except ValueError as error:
        return Judged(refused=[{"file": name, "reason": str(error)}])
    times = np.asarray(told.pop("times"), np.float64)
    row = {key: told[key] for key in ("caption", "buoyancy", "size", "viscosity")}
    row |= {"name": name, "frame_step": float(np.diff(times).mean()) if len(times) > 1 else None}
    record = {
        "fields": torch.from_numpy(fields.astype(np.float32)),
        "times": torch.from_numpy(times),
    }
    return Judged(accepted=[(record, row)])
