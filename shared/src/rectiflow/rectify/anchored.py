"""The sampler of rectified models that never lets go of its noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from rectiflow.paths import Linear, Path
from rectiflow.solvers.base import Solver
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.states import State, combine

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField


@dataclass(frozen=True)
class Anchored(Solver):
    r"""RF++'s new update rule: predict the data, go back to the line from the *first* noise to it.

    .. math:: x_{t'} = a_{t'}\, \hat x_1(x_t, t) + b_{t'}\, x_0

    One evaluation a step. On the pairs of a rectified model it is exact, as Euler's method is;
    where the two differ, errors of the data do not add up. It is not consistent with a flow that
    is not straight: fine grids do not approach the flow. A run that starts on the way takes the
    noise that the first prediction means.

    Parameters
    ----------
    path : Path

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.4.
    """

    path: Path = field(default_factory=Linear)
    order = 1
    nfe = 1
    reads = MappingProxyType({"noise": 1})
    leaves = ("state", "velocity", "noise")

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        x, v = context.begin(field, x, start)
        known = context.past(start, stop).get("noise")
        noise = known[0][1] if known else self.path.noise(v, x, start)
        to = self.path.coeffs(stop)
        left = context.remember(start, stop, state=x, velocity=v, noise=noise)
        return combine((to.a, to.b), (self.path.data(v, x, start), noise)), left
