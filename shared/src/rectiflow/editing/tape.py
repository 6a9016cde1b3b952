"""Features shared between the inversion of a source and the sampling of its edit (RF-Edit)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectiflow.solvers.base import Move, Solver
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

Key = tuple[float, float, int, str]
"""Lower and upper time of a move, evaluation within it, name of the module."""


class FeatureTape:
    """The outputs of some modules, recorded while a source is inverted and put back later.

    Recording and replaying are solvers around a solver: ``plan(reversed_grid, tape.record(Midpoint
    ()))`` and ``plan(grid, tape.replay(Midpoint(), moves=20))``. The move from ``t_{n+1}`` to
    ``t_n`` is paired with that from ``t_n`` to ``t_{n+1}``, each evaluation in it by itself. Hooks
    are on the network during a move alone.

    Parameters
    ----------
    network : nn.Module
    where : callable
        ``where(name)``: whether to tape a module of ``network.named_modules()``. The values of the
        later half of the attention layers, say the linear layers named ``...to_v``, keep the
        layout of the source.
    device : torch.device or str, optional
        Where features are kept; where they are made if absent.
    dtype : torch.dtype, optional
        In which they are kept.

    Raises
    ------
    ValueError
        When no module is taped.

    References
    ----------
    Wang et al., "Taming Rectified Flow for Inversion and Editing" (ICML 2025).
    """

    def __init__(
        self,
        network: nn.Module,
        where: Callable[[str], bool],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.modules = {name: m for name, m in network.named_modules() if name and where(name)}
        if not self.modules:
            names = [name for name, _ in network.named_modules() if name]
            raise ValueError(
                f"no module is taped; expected some of the {len(names)} names, such as "
                f"{', '.join(names[-3:])}."
            )
        self.device, self.dtype = device, dtype
        self.features: dict[Key, Tensor] = {}

    def record(self, solver: Solver) -> Solver:
        """Return a solver that records what it meets."""
        return _Taped(solver, self, None)

    def replay(self, solver: Solver, moves: int) -> Solver:
        """Return a solver that puts features back during its first moves, and then runs free."""
        if moves < 0:
            raise ValueError(f"moves must be at least 0, got {moves}.")
        return _Taped(solver, self, moves)

    @contextmanager
    def _on(self, hook: Callable[[str, Any], Any]) -> Iterator[None]:
        handles = [
            module.register_forward_hook(lambda _m, _i, out, name=name: hook(name, out))
            for name, module in self.modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _keep(self, key: Key, value: Tensor) -> None:
        self.features[key] = value.detach().to(self.device, self.dtype, copy=True)

    def _kept(self, key: Key, like: Tensor) -> Tensor:
        value = self.features.get(key)
        if value is None:
            lower, upper, stage, name = key
            known = sorted({k[:2] for k in self.features})
            raise ValueError(
                f"nothing is recorded of {name!r} between t={lower:.6g} and {upper:.6g}, "
                f"evaluation {stage + 1}, got {len(known)} moves; expected a recording "
                "on the same grid with the same solver."
            )
        rows, rest = divmod(len(like), len(value))
        if rest or value.shape[1:] != like.shape[1:]:
            raise ValueError(
                f"features of {key[3]!r} have shape {tuple(value.shape)}, got "
                f"{tuple(like.shape)}; expected the shape of the source, or whole copies of its "
                "batch."
            )
        return value.to(like).repeat(rows, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class _Taped(Solver):
    solver: Solver
    tape: FeatureTape
    replayed: int | None

    order = property(lambda self: self.solver.order)
    nfe = property(lambda self: self.solver.nfe)
    flat_only = property(lambda self: self.solver.flat_only)
    traceable = False
    reads = property(lambda self: self.solver.reads)
    leaves = property(lambda self: self.solver.leaves)

    def cost(self, start: float, stop: float, known: Mapping[str, int]) -> int:
        """Return the solver's."""
        return self.solver.cost(start, stop, known)

    def moves(self, times: Sequence[float]) -> list[Move]:
        """Lay out the solver's moves; after the replayed ones they are its own."""
        moves = self.solver.moves(times)
        count = len(moves) if self.replayed is None else self.replayed
        return [
            Move(start, stop, _Taped(solver, self.tape, self.replayed) if i < count else solver)
            for i, (start, stop, solver) in enumerate(moves)
        ]

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move of the solver; see :meth:`Solver.step`."""
        if isinstance(start, Tensor) or isinstance(stop, Tensor):
            raise ValueError("a tape takes one time for all rows, got times per row.")
        stage = -1

        def staged(x: State, t: Time) -> State:
            nonlocal stage
            stage += 1
            return field(x, t)

        def hook(name: str, out: Tensor) -> Tensor | None:
            key = (min(start, stop), max(start, stop), stage, name)
            if self.replayed is None:
                self.tape._keep(key, out)
                return None
            return self.tape._kept(key, out)

        with self.tape._on(hook):
            return self.solver.step(staged, x, start, stop, context)
