"""FlowTurbo's velocity refiner: a small network that corrects a nearby velocity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from rectiflow.solvers import Heun, Move, PseudoCorrector, Refine
from rectiflow.states import State
from rectiflow.storage.pretrained import Pretrained
from rectiflow.storage.records import state_of

FOLDER = "refiner"
LONGEST = 0.12
"""The longest time over which a velocity is refined, as published."""

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Refiner(Pretrained, nn.Module):
    """What to add to a velocity at a nearby point, from point, time and that velocity.

    Convolutions over states ``(b, channels, *size)`` of any size; the condition is in the velocity
    already. It begins as zero.

    Parameters
    ----------
    channels : int
        Of the state.
    axes : int
        1 to 3, after the channels.
    width : int
        Channels inside.
    layers : int
        Residual convolutions.
    """

    def __init__(self, channels: int, axes: int = 2, width: int = 24, layers: int = 2) -> None:
        super().__init__()
        convolution: Any = _CONVOLUTIONS[axes]
        self.channels = channels
        self.begin = convolution(2 * channels, width, 3, padding=1)
        self.time = nn.Linear(2, 2 * width)
        self.layers = nn.ModuleList(convolution(width, width, 3, padding=1) for _ in range(layers))
        self.end = convolution(width, channels, 3, padding=1)
        nn.init.zeros_(self.end.weight)
        nn.init.zeros_(self.end.bias)

    def forward(self, x: Tensor, t: Tensor, near: Tensor) -> Tensor:
        """Return the correction ``(b, channels, *size)`` at times ``(b,)``.

        Raises
        ------
        ValueError
            When the state has other channels.
        """
        if x.shape[1] != self.channels:
            raise ValueError(
                f"the state has {x.shape[1]} channels, got a refiner of {self.channels}; expected "
                f"the same. Make it with channels={x.shape[1]}."
            )
        told = self.time(torch.stack([t, t * t], dim=-1).to(x.dtype))
        scale, shift = told.reshape(*told.shape, *(1,) * (x.ndim - 2)).chunk(2, dim=1)
        hidden = self.begin(torch.cat([x, near], dim=1)) * (1 + scale) + shift
        for layer in self.layers:
            hidden = hidden + layer(nn.functional.silu(hidden))
        return self.end(nn.functional.silu(hidden))


class RefinerObjective(nn.Module):
    r"""Teach a refiner to carry a teacher's velocity a short way along the flow.

    .. math:: L = \|R(x', t', v) + v - v(x', t')\|^2, \quad
              v = v(x_t, t),\; x' = x_t + h v,\; t' = t + h

    with :math:`t \sim U(0, 1)` and one :math:`h \sim U(0, 0.12)` a batch, at most to t = 1.

    Parameters
    ----------
    network : Refiner
    teacher : nn.Module
        ``teacher(x, t)`` or ``teacher(x, t, cond)``, frozen.
    longest : float
        Of h.

    Notes
    -----
    Batches hold pairs, ``x0`` and ``x1``, between which the points lie, and optionally ``cond``.

    References
    ----------
    Zhao et al., "FlowTurbo" (NeurIPS 2024), Eq. (8). Official code: shiml20/FlowTurbo, where the
    time may exceed 1.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, longest: float = LONGEST) -> None:
        super().__init__()
        if not 0.0 < longest <= 1.0:
            raise ValueError(f"longest must lie in (0, 1], got {longest}.")
        self.network = network
        self.teacher = teacher.eval().requires_grad_(False)
        self.longest = longest

    def train(self, mode: bool = True) -> RefinerObjective:
        """Set the mode of the refiner; the teacher stays as it is."""
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss, and that of no refiner at all."""
        x0, x1 = (cast(Tensor, state_of(batch, name)) for name in ("x0", "x1"))
        cond = state_of(batch, "cond")
        told = () if cond is None else (cond,)
        column = (-1, *(1,) * (x1.ndim - 1))
        draw = torch.rand(len(x1) + 1, generator=generator, device=x1.device, dtype=x1.dtype)
        t = draw[1:]
        h = (self.longest * draw[0]).expand(len(x1)).minimum(1 - t)
        with torch.no_grad():
            x = torch.lerp(x0, x1, t.reshape(column))
            near = self.teacher(x, t, *told).to(x)
            later = x + h.reshape(column) * near
            true = self.teacher(later, t + h, *told).to(x)
        found = self.network(later, t + h, near) + near
        loss = (found - true).square().mean()
        return {"loss": loss, "unrefined": (near - true).square().mean()}


@dataclass(frozen=True)
class Refined:
    """A refiner as :class:`~rectiflow.solvers.Refine` calls it; equal by its weights."""

    network: Refiner

    def __call__(self, x: State, t: float | Tensor, near: State) -> State:
        """Return the correction."""
        x, near = cast(Tensor, x), cast(Tensor, near)
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
        return self.network.to(x.device)(x, times, near)

    def __repr__(self) -> str:
        return f"Refiner({sum(p.numel() for p in self.network.parameters())} parameters)"


@dataclass(frozen=True)
class FlowTurbo(PseudoCorrector):
    """FlowTurbo: Heun's steps first, pseudo-corrector steps, then steps of a small refiner.

    A plan of N steps makes ``2 heun + (N - heun - refined)`` evaluations, and one more without a
    step of Heun's; and ``2 refined`` calls of the refiner. Flat spaces only.

    Parameters
    ----------
    refiner : callable
        As for :class:`~rectiflow.solvers.Refine`.
    heun, refined : int
        Steps at the start and at the end; as published 1 and 3 of 9. Where there are fewer steps,
        there are fewer refined ones.

    References
    ----------
    Zhao et al., "FlowTurbo: Towards Real-time Flow-Based Image Generation with Velocity Refiner"
    (NeurIPS 2024), section 3.4.
    """

    refiner: Refined
    heun: int = 1
    refined: int = 3

    def __post_init__(self) -> None:
        if min(self.heun, self.refined) < 0:
            raise ValueError(
                f"numbers of steps must be at least 0, got {self.heun} and {self.refined}"
            )

    def moves(self, times: Any) -> list[Move]:
        """Lay out the three kinds of steps."""
        ends = list(pairwise(times))
        refined = min(self.refined, max(len(ends) - max(self.heun, 1), 0))
        kinds = [Heun()] * self.heun + [PseudoCorrector()] * (len(ends) - self.heun - refined)
        solvers = [*kinds[: len(ends) - refined], *[Refine(self.refiner)] * refined]
        return [
            Move(start, stop, solver) for (start, stop), solver in zip(ends, solvers, strict=True)
        ]

    @classmethod
    def load(cls, folder: Path | None, heun: int = 1, refined: int = 3) -> FlowTurbo:
        """Return the solver with the refiner beside a checkpoint.

        Raises
        ------
        FileNotFoundError
            When there is none.
        """
        place = Path(folder or ".") / FOLDER
        if folder is None or not place.is_dir():
            raise FileNotFoundError(
                f"no refiner lies beside these weights, expected the folder {FOLDER}; train one "
                "with experiment=small_refiner."
            )
        return cls(Refined(Refiner.from_pretrained(place).eval()), heun, refined)
