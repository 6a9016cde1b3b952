"""Objectives that teach a network to jump: few steps from noise to data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rectiflow.premetrics import MeanSquared, Premetric
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, batch_of, map_state
from rectiflow.storage.records import state_of


class OneStepDistillation(nn.Module):
    r"""Distillation of stored pairs into one step, or into the steps of a grid.

    .. math:: \mathbb{E}\, D\bigl(x_0 + v(x_t, t),\, x_1\bigr), \qquad t \in \text{times}

    With the default ``times=(0,)`` this is the one-step student ``x0 + v(x0, 0)``. For K steps
    pass ``uniform(K)[:-1]``; t is drawn from them uniformly. On a curved space D compares the
    velocities ``v`` and ``log(x0, x1)``, tangent vectors in the moving frame.

    Parameters
    ----------
    network : nn.Module
        ``network(x, t)`` or ``network(x, t, cond)``; start it from a rectified flow.
    premetric : Premetric, default mean squared error
        D; a perceptual distance for images.
    times : sequence of float, default (0.0,)
        Times at which the student is asked, in [0, 1).
    space : Space, default Euclidean

    Notes
    -----
    Batches hold stored pairs, ``x0`` and ``x1``, and optionally ``cond`` and ``mask``.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023), section 2.2; its code takes ``x1 - x0`` as
    the target at every grid time.
    """

    def __init__(
        self,
        network: nn.Module,
        premetric: Premetric | None = None,
        *,
        times: Sequence[float] = (0.0,),
        space: Space | None = None,
    ) -> None:
        super().__init__()
        if not times or not all(0.0 <= t < 1.0 for t in times):
            raise ValueError(
                f"times must lie in [0, 1), got {list(times)}; expected the starts of the "
                "student's steps, such as (0.0,)."
            )
        self.network = network
        self.premetric = premetric if premetric is not None else MeanSquared()
        self.times = tuple(float(t) for t in times)
        self.space = space if space is not None else Euclidean()

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch of pairs."""
        x0, x1 = _stored_pair(batch)
        size, device, dtype = batch_of(x1)
        choice = torch.randint(len(self.times), (size,), generator=generator, device=device)
        t = torch.tensor(self.times, device=device, dtype=dtype)[choice]
        x_t = self.space.geodesic(x0, x1, t)
        v = _call(self.network, x_t, t, batch)
        if isinstance(self.space, Euclidean):
            cost = self.premetric(map_state(torch.add, x0, v), x1, batch.get("mask"))
        else:
            cost = self.premetric(v, self.space.log(x0, x1), batch.get("mask"))
        return {"loss": cost.mean()}


class FlowGuidedDistillation(nn.Module):
    r"""One-step distillation on pairs, guided by the teacher on fresh noise.

    With the student's jump :math:`u(x_0) = v(x_0, 0)`, fresh :math:`x_0` and
    :math:`t \sim U[t_{min}, t_{max}]`, the teacher v* corrects where the student's line leads:

    .. math:: \tilde x_t = x_0 + t\,u(x_0), \quad
              \tilde x_1 = \tilde x_t + (1 - t)\, v^*(\tilde x_t, t), \quad
              L = D(x_0' + u(x_0'), x_1') + w\, D(x_0 + u(x_0), \tilde x_1)

    where the primed pair is stored and nothing flows back through :math:`\tilde x_1`.

    Parameters
    ----------
    network, teacher : nn.Module
        Student and rectified flow on flat space, ``network(x, t)`` or ``network(x, t, cond)``.
        The teacher is frozen.
    premetric : Premetric, default mean squared error
    weight : float, default 1.0
        w.
    t_min, t_max : float, default 0.2, 0.8

    References
    ----------
    Zhu et al., "SlimFlow" (ECCV 2024), section 3.2 and official code.
    """

    def __init__(
        self,
        network: nn.Module,
        teacher: nn.Module,
        premetric: Premetric | None = None,
        *,
        weight: float = 1.0,
        t_min: float = 0.2,
        t_max: float = 0.8,
    ) -> None:
        super().__init__()
        if not 0.0 < t_min < t_max < 1.0:
            raise ValueError(
                f"teacher times must satisfy 0 < t_min < t_max < 1, got {t_min} and {t_max}."
            )
        self.network = network
        self.teacher = teacher.eval().requires_grad_(False)
        self.premetric = premetric if premetric is not None else MeanSquared()
        self.weight, self.t_min, self.t_max = weight, t_min, t_max

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of a batch of pairs, and its two terms."""
        x0, x1 = _stored_pair(batch)
        size, device, dtype = batch_of(x1)
        mask = batch.get("mask")
        start = torch.zeros(size, device=device, dtype=dtype)
        jump = map_state(torch.add, x0, _call(self.network, x0, start, batch))
        pairs = self.premetric(jump, x1, mask).mean()

        fresh = map_state(lambda x: _normal_like(x, generator), x0)
        u = _call(self.network, fresh, start, batch)
        t = torch.rand(size, generator=generator, device=device, dtype=dtype)
        t = self.t_min + (self.t_max - self.t_min) * t
        flat = Euclidean()
        with torch.no_grad():
            x_t = flat.move(fresh, u, t)
            target = flat.move(x_t, _call(self.teacher, x_t, t, batch), 1 - t)
        guided = self.premetric(map_state(torch.add, fresh, u), target, mask).mean()
        return {"loss": pairs + self.weight * guided, "pairs": pairs, "guided": guided}


def _stored_pair(batch: Mapping[str, Tensor]) -> tuple[State, State]:
    x0, x1 = state_of(batch, "x0"), state_of(batch, "x1")
    if x0 is None or x1 is None:
        raise KeyError(f"batch has no stored pair, got {sorted(batch)}; expected 'x0' and 'x1'.")
    return x0, x1


def _call(network: nn.Module, x: State, t: Tensor, batch: Mapping[str, Tensor]) -> State:
    condition: Any = state_of(batch, "cond")
    return network(x, t) if condition is None else network(x, t, condition)


def _normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
