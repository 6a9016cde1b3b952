"""Deep conjugate directions: Poisson's equation solved along directions that a network proposes.

Whatever is proposed is made A-orthogonal to the directions before and followed to its lowest point,
so that the error never grows; with the residual itself as the proposal it is conjugate gradients.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectiflow_pde.networks.directions import DirectionNetwork
from rectiflow_pde.solvers.poisson import Poisson

if TYPE_CHECKING:
    from jaxtyping import Float

Direction = Callable[[Tensor], Tensor]
"""``f(r)``, of the shape of the residual."""

SHIPPED = Path(__file__).parent / "solvers" / "directions"


@dataclass(frozen=True)
class Solution:
    """What was found and what it took.

    Attributes
    ----------
    x : Tensor, shape (h, w)
    residuals : list of float
        Norms over the first, one before each step and one at the end.
    applications, calls : int
        Of A, and of the proposals.
    refused : int
        Proposals in whose place the residual was taken.
    fell_back : bool
        Whether proposals were given up for conjugate gradients.
    converged : bool
    """

    x: Tensor
    residuals: list[float]
    applications: int
    calls: int
    refused: int
    fell_back: bool
    converged: bool

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self.residuals) - 1


def gradients(r: Tensor) -> Tensor:
    """Propose the residual: conjugate gradients."""
    return r


def network_directions(network: nn.Module, poisson: Poisson) -> Direction:
    """Return what proposes a trained network's directions; it sees residuals of norm one."""
    fluid = poisson.fluid[None]

    @torch.no_grad()
    def direction(r: Tensor) -> Tensor:
        given = (r / r.norm()).float()[None]
        return network(given, fluid.to(given))[0].to(r)

    return direction


def load_directions() -> DirectionNetwork:
    """Load the trained network that ships with the package."""
    return DirectionNetwork.from_pretrained(SHIPPED).eval()


def solve(
    poisson: Poisson,
    b: Float[Tensor, "h w"],
    direction: Direction = gradients,
    *,
    tolerance: float = 1e-6,
    limit: int = 5000,
    memory: int = 2,
    patience: int | None = 50,
    hook: Callable[[Tensor, Tensor], None] | None = None,
) -> Solution:
    """Solve ``A x = b``.

    Parameters
    ----------
    poisson : Poisson
    b : Tensor, shape (h, w)
        float64; what is not in the fluid does not count.
    direction : callable
        Proposes; where it is no descent, or not finite, the residual is taken.
    tolerance : float
        Of the residual's norm, as a share of b's.
    limit : int
        Steps at most.
    memory : int
        Directions before, to which each is made A-orthogonal.
    patience : int, optional
        Steps in which proposals must halve the least residual, or conjugate gradients go on alone.
    hook : callable, optional
        ``hook(x, d)`` after each step, with its direction.

    Raises
    ------
    ValueError
        If b does not fit, or is not finite.
    """
    if b.shape != poisson.fluid.shape or not b.isfinite().all():
        raise ValueError(
            f"b must be finite and of shape {tuple(poisson.fluid.shape)}, got {tuple(b.shape)}."
        )
    x, r = torch.zeros_like(b), b * poisson.fluid.to(b)
    first = float(r.norm())
    sizes, kept = [1.0], deque[tuple[Tensor, Tensor, Tensor]](maxlen=memory)
    calls = refused = applications = 0
    given_up, goal, checked = direction is gradients, 0.5, 0
    while first and sizes[-1] > tolerance and len(sizes) <= limit:
        proposals = [] if given_up else [direction]
        for propose in (*proposals, gradients):
            d = propose(r)
            calls += propose is not gradients
            ad = poisson(d)
            applications += 1
            for before, a_before, length in kept:
                share = torch.vdot(d.ravel(), a_before.ravel()) / length
                d, ad = d - share * before, ad - share * a_before
            along, length = (torch.vdot(d.ravel(), each.ravel()) for each in (r, ad))
            # A comparison with NaN is false: what is not finite is refused as well.
            descends = bool(length > 0) and bool(along > 1e-12 * d.norm() * r.norm())
            if propose is gradients or descends:
                break
            refused += 1
        step = along / length
        if not bool(step.isfinite()):
            break  # nothing is left to gain in this precision
        x, r = x + step * d, r - step * ad
        kept.append((d, ad, length))
        sizes.append(float(r.norm()) / first)
        if not given_up and patience is not None and len(sizes) - 1 - checked >= patience:
            least, checked = min(sizes), len(sizes) - 1
            given_up, goal = least > goal, least / 2
        if hook is not None:
            hook(x, d)
    fell_back = given_up and direction is not gradients
    converged = not first or sizes[-1] <= tolerance
    return Solution(x, sizes, applications, calls, refused, fell_back, converged)


class DirectionObjective(nn.Module):
    r"""How far a proposal alone brings a right-hand side down: :math:`|b - \alpha A f(b)|`.

    With :math:`\alpha = f \cdot b / f \cdot A f`, the solver's own step, the scale of f is free.

    Parameters
    ----------
    network : DirectionNetwork
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of ``b (b, h, w)``, right-hand sides of one ``poisson``."""
        _, left = self.step(batch["b"], batch["poisson"])
        return {"loss": (left.flatten(1).norm(dim=1) / batch["b"].flatten(1).norm(dim=1)).mean()}

    def step(self, b: Float[Tensor, "b h w"], poisson: Poisson) -> tuple[Tensor, Tensor]:
        """Return the solver's step and the right-hand side that it leaves."""
        size = b.flatten(1).norm(dim=1)[:, None, None]
        f = self.network(b / size, poisson.fluid.to(b).expand_as(b))
        af = poisson(f)
        along, length = ((f * each).sum((-2, -1), keepdim=True) for each in (b, af))
        return along / length * f, b - along / length * af


class EnergyObjective(DirectionObjective):
    r"""The share of the error's energy that a proposal leaves.

    .. math:: 1 - \frac{(f \cdot b)^2}{(f \cdot A f)\,(e \cdot b)},\quad b = A e

    The solver lowers the energy, not the residual, and its speed is that of this share.
    """

    def forward(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of solutions ``e (b, h, w)`` of one ``poisson``."""
        e, poisson = batch["e"], batch["poisson"]
        b = poisson(e)
        step, left = self.step(b, poisson)
        share = ((e - step) * left).sum((-2, -1)) / (e * b).sum((-2, -1))
        return {"loss": share.mean()}


def draw_solutions(
    poisson: Poisson, count: int, generator: torch.Generator, *, low: float = 9.0
) -> Float[Tensor, "b h w"]:
    """Draw solutions whose right-hand sides are noise, with low waves ``low`` times as strong.

    Sums of the sine waves of the open box, which are its eigenvectors; walls are cut out.

    References
    ----------
    Kaneda et al. (ICML 2023), whose Ritz vectors are approximately these, and whose ``low`` is 9.
    """
    from scipy.fft import dstn

    h, w = poisson.fluid.shape
    draws = torch.randn(count, h, w, generator=generator, dtype=torch.float64)
    i, j = torch.meshgrid(torch.arange(1, h + 1), torch.arange(1, w + 1), indexing="ij")
    value = torch.sin(torch.pi * i / (2 * h + 2)) ** 2 + torch.sin(torch.pi * j / (2 * w + 2)) ** 2
    draws = draws * torch.where(value < value.median(), low, 1.0) / value
    waves = torch.from_numpy(dstn(draws.numpy(), type=1, axes=(1, 2)))
    e = (waves * poisson.fluid).float()
    return e / e.flatten(1).norm(dim=1)[:, None, None]
