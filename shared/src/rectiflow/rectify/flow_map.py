r"""Networks that jump: a map ``X(s, t)`` carries a state from any time to any later one.

What such a network says is the mean velocity u of the way, a tangent vector where it starts:

.. math:: X_{s,t}(x) = \mathrm{move}(x,\, u(x, s, t),\, t - s), \qquad u(x, s, s) = v(x, s).
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectiflow.solvers.base import Solver
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow.fields import VelocityField

Network = TypeVar("Network", bound=nn.Module)

_WAVES = 3
"""Few and slow: losses of maps take derivatives along the time, which fast ones would drown."""


class Until(nn.Module):
    """What a network of maps is told besides the time: how far it goes. Zero before training.

    Parameters
    ----------
    width : int
        Of the features that it is added to.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(1 + 2 * _WAVES, width), nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, t: Float[Tensor, " b"], until: Float[Tensor, " b"]) -> Float[Tensor, "b w"]:
        """Embed the way from ``t`` to ``until``."""
        far = (until - t)[:, None].to(self.hidden.weight.dtype)
        angles = far * math.pi / 2 * 2.0 ** torch.arange(_WAVES, device=far.device, dtype=far.dtype)
        return self.out(F.silu(self.hidden(torch.cat([far, angles.sin(), angles.cos()], -1))))


def added(features: Tensor, told: Until | None, t: Tensor, until: Tensor | None) -> Tensor:
    """Return features ``(b, *, width)`` with how far a network goes; without ``until``, no way.

    Raises
    ------
    ValueError
        When ``until`` is given to a network that is no map.
    """
    if told is None:
        if until is not None:
            raise ValueError(
                "the network tells velocities at one time, got the end of a way besides; expected "
                "a network of maps. Make one with rectiflow.rectify.to_map(network) and train it."
            )
        return features
    far = told(t, t if until is None else until)
    return features + far.reshape(len(far), *(1,) * (features.ndim - 2), -1).to(features.dtype)


def to_map(network: Network) -> Network:
    """Turn a network of velocities into one of maps that says the same before it is trained.

    Parameters
    ----------
    network : nn.Module
        :class:`~rectiflow.Pretrained`, with an argument ``is_map``; it is left as it is.

    Returns
    -------
    nn.Module
        Of the same class, with ``is_map`` and the same weights; it takes ``until=`` besides.

    Raises
    ------
    TypeError
        When the network cannot be told two times.
    """
    made: Any = network
    config = getattr(made, "config", {})
    if "is_map" not in config:
        raise TypeError(
            f"{type(network).__name__} cannot be told two times; expected a network with an "
            "argument is_map, such as those of the domains."
        )
    if config["is_map"]:
        return copy.deepcopy(network)
    mapped = type(network)(**{**config, "is_map": True})
    mapped.load_state_dict({**mapped.state_dict(), **network.state_dict()})
    like = next(network.parameters())
    return mapped.to(like.device, like.dtype).train(network.training)


@dataclass(frozen=True)
class Jump(Solver):
    """One evaluation of a network of maps a move, however long: exact where the network is.

    The field takes where a move ends as a third argument; :func:`rectiflow.fields.bind`,
    :meth:`Flow.velocity <rectiflow.flow.Flow.velocity>` and
    :func:`~rectiflow.guidance.batched_cfg` pass it on. Runs on every space. Its order is that of
    the map; one that is worth Euler's method is of order 1.

    References
    ----------
    Boffi et al., "Flow Map Matching" (arXiv 2406.07507).
    """

    order = 1
    nfe = 1
    flat_only = False
    leaves = ("state", "velocity")

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Carry ``x`` from ``start`` to ``stop``."""
        mean: Any = field
        x, u = context.begin(field, x, start, known=mean(x, start, stop))
        return context.space.move(x, u, stop - start), context.remember(
            start, stop, state=x, velocity=u
        )


def solver_for(network: Any, solver: Solver) -> Solver:
    """Return the solver of a network: one of maps jumps where Euler's method is asked for."""
    from rectiflow.solvers.runge_kutta import Euler

    return Jump() if solver == Euler() and getattr(network, "is_map", False) else solver
