"""What a velocity field is like: straight, cheap, conservative, of which dimension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rectiflow.fields import VelocityField
from rectiflow.grids import uniform
from rectiflow.integrate import Moved, integrate, plan
from rectiflow.likelihood import Divergence, Exact
from rectiflow.paths import Path
from rectiflow.solvers.base import Solver
from rectiflow.solvers.runge_kutta import RK4
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, map_state, squares

if TYPE_CHECKING:
    from jaxtyping import Float

_FINE = uniform(200)


@dataclass(frozen=True)
class OverTime:
    """A quantity over the time grid, and its integral.

    Attributes
    ----------
    total : Tensor, shape ()
        Integral over the grid, by Simpson's rule.
    per_time : Tensor, shape (n + 1,)
        Mean over the batch at each time.
    times : list of float, length n + 1
    """

    total: Tensor
    per_time: Tensor
    times: list[float]


def trajectory(
    field: VelocityField,
    x0: State,
    grid: Sequence[float],
    solver: Solver | None = None,
    space: Space | None = None,
) -> list[State]:
    """Return the state at every time of the grid, the first being ``x0``; RK4 by default."""
    states = [x0]

    def record(moved: Moved) -> None:
        states.append(moved.state)

    moves = plan(grid, solver or RK4())
    integrate(field, x0, moves, space=space or Euclidean(), hook=record)
    return states


def zero_mean_basis(count: int) -> Float[Tensor, "n m"]:
    """Return an orthonormal basis, as ``count - 1`` columns, of the vectors whose mean is 0.

    What flows without its mean has one dimension less for each coordinate: its field is diagnosed
    as ``basis.T @ v(basis @ z)``. The columns are a Householder reflection's.
    """
    if count < 2:
        raise ValueError(f"a vector without its mean needs at least 2 numbers, got {count}.")
    way = torch.full((count,), -(count**-0.5), dtype=torch.float64)
    way[0] += 1
    return (torch.eye(count, dtype=torch.float64) - 2 * torch.outer(way, way) / (way @ way))[:, 1:]


def straightness(
    field: VelocityField,
    x0: State,
    *,
    grid: Sequence[float] = _FINE,
    solver: Solver | None = None,
) -> OverTime:
    r"""Return how far trajectories are from straight lines of constant speed.

    .. math:: S = \int_0^1 \mathbb{E}\,|(Z_1 - Z_0) - v(Z_t, t)|^2\,dt

    with squares summed over the event; zero if and only if one Euler step is exact.

    Parameters
    ----------
    field : VelocityField
        On flat space.
    x0 : State, shape (b, *event)
        Noise.
    grid : sequence of float, default 200 uniform steps
        Times where trajectories are solved and velocities taken, both ends included.
    solver : Solver, default RK4

    Returns
    -------
    OverTime

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023), Eq. (6).
    """
    states = trajectory(field, x0, grid, solver)
    chord = map_state(torch.sub, states[-1], x0)
    with torch.no_grad():
        velocities = [field(x, t) for x, t in zip(states, grid, strict=True)]
        values = [squares(map_state(torch.sub, chord, v)).mean() for v in velocities]
    return _over_time(values, list(grid))


def first_order_defect(
    field: VelocityField,
    path: Path,
    x0: State,
    *,
    grid: Sequence[float] = _FINE,
    solver: Solver | None = None,
) -> OverTime:
    r"""Return how far the noise prediction moves along trajectories.

    .. math:: Q = \int_0^1 \mathbb{E}\,|\hat x_0(x_t, t) - x_0|^2\,dt

    Zero if and only if the pairs lie on a first-order path, straight or not: one step of a
    first-order sampler is then exact. Arguments as for :func:`straightness`.

    References
    ----------
    Wang et al., "Rectified Diffusion: Straightness Is Not Your Need in Rectified Flow"
    (ICLR 2025).
    """
    values = []
    for x, t in zip(trajectory(field, x0, grid, solver), grid, strict=True):
        with torch.no_grad():
            noise = path.noise(field(x, t), x, t)
        values.append(squares(map_state(torch.sub, noise, x0)).mean())
    return _over_time(values, list(grid))


def transport_cost(x0: State, x1: State) -> Tensor:
    """Return the mean over the batch of ``|x1 - x0|²``, summed over the event."""
    return squares(map_state(torch.sub, x1, x0)).mean()


def asymmetry(
    field: VelocityField,
    x: Float[Tensor, " b *event"],
    t: float | Tensor,
    *,
    n_probes: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return :math:`\mathbb{E}|J - J^\top|_F^2 / \mathbb{E}|J|_F^2` of the velocity's Jacobian.

    Estimated by normal probes n as ``|Jn - Jᵀn|² / |Jn|²``, sums over the batch and the probes
    first. Zero for a gradient field; 4 for a purely rotating one.

    Parameters
    ----------
    field : VelocityField
        Must allow forward-mode differentiation.
    x : Tensor, shape (b, *event)
    t : float or Tensor, shape ()
    n_probes : int, default 1
    generator : torch.Generator, optional

    Returns
    -------
    Tensor, shape ()
    """
    if n_probes < 1:
        raise ValueError(f"n_probes must be at least 1, got {n_probes}")

    def at(point: Tensor) -> Tensor:
        return _one(field(point, t))

    gap, size = x.new_zeros(()), x.new_zeros(())
    for _ in range(n_probes):
        probe = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        pushed = torch.func.jvp(at, (x,), (probe,))[1]
        (pulled,) = torch.func.vjp(at, x)[1](probe)
        gap = gap + (pushed - pulled).square().sum()
        size = size + pushed.square().sum()
    return (gap / size).detach()


def gauge_residual(
    w: VelocityField,
    score: VelocityField,
    x: Float[Tensor, " b *event"],
    t: float | Tensor,
    *,
    divergence: Divergence | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    """Return ``div w + w · score``, which is zero where adding w leaves the marginals unchanged.

    Parameters
    ----------
    w : VelocityField
        The field that is added to a velocity.
    score : VelocityField
        ``grad log p_t(x)``.
    x : Tensor, shape (b, *event)
    t : float or Tensor, shape ()
    divergence : Divergence, default :class:`~rectiflow.likelihood.Exact`
    generator : torch.Generator, optional
        For the probes of an estimated divergence.
    """
    method = divergence or Exact()
    value, div = method(w, x, t, method.probes(x, generator))
    with torch.no_grad():
        along = (value * _one(score(x, t))).flatten(1).sum(1)
    return div.mean(1) + along


def score(field: VelocityField, path: Path) -> VelocityField:
    """Return the score that a velocity on a path from unit noise stands for: ``-noise / b``."""

    def at(x: State, t: float | Tensor) -> State:
        x = _one(x)
        return -_one(path.noise(field(x, t), x, t)) / path.coeffs(t).b

    return at


def score_gauge(
    field: VelocityField, path: Path, generator: torch.Generator | None = None
) -> VelocityField:
    """Return the score turned by a right angle in planes of random pairs of axes.

    Added to the velocity it moves points but not the marginals, if the field is conservative: a
    turned gradient has no divergence, and is orthogonal to the gradient. Its
    :func:`gauge_residual` tells how far a trained field is from such freedom.
    """
    own, order = score(field, path), list[Tensor]()

    def at(x: State, t: float | Tensor) -> State:
        value = _one(own(x, t))
        flat = value.flatten(1)
        if not order:
            order.append(torch.randperm(flat.shape[1], generator=generator).to(flat.device))
        first, second = (order[0][i::2][: flat.shape[1] // 2] for i in range(2))
        turned = torch.zeros_like(flat).index_copy(1, first, flat[:, second])
        return turned.index_copy(1, second, -flat[:, first]).reshape(value.shape)

    return at


def intrinsic_dimension(
    field: VelocityField,
    path: Path,
    x1: Float[Tensor, " b *event"],
    t: float,
    *,
    divergence: Divergence | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""Return the dimension of the data around points, as seen at the scale of a time.

    .. math:: k = D - b \, \nabla \cdot \hat x_0(a x_1, t) + |\hat x_0(a x_1, t)|^2

    with the predicted noise at the point itself: noise across the data is told wholly, noise along
    it hardly. Near t = 1 it is the dimension of the data's manifold, for small t that of a blur.

    Parameters
    ----------
    field : VelocityField
    path : Path
        From unit noise.
    x1 : Tensor, shape (b, *event)
        Data, or samples of the flow.
    t : float
        In (0, 1).
    divergence : Divergence, default :class:`~rectiflow.likelihood.Exact`
    generator : torch.Generator, optional
        For the probes of an estimated divergence.

    References
    ----------
    Kamkari et al., "A Geometric View of Data Complexity: Efficient Local Intrinsic Dimension
    Estimation with Diffusion Models" (NeurIPS 2024): FLIPD.
    """
    if not 0.0 < t < 1.0:
        raise ValueError(f"t must lie inside of (0, 1), got {t}")
    method = divergence or Exact()
    a, b = path.coeffs(t)[:2]

    def noise(x: State, t: float | Tensor) -> State:
        return path.noise(field(x, t), x, t)

    point = a * x1
    value, div = method(noise, point, t, method.probes(point, generator))
    return x1[0].numel() - b * div.mean(1) + value.square().flatten(1).sum(1)


def flow_jacobian_svd(
    field: VelocityField,
    x0: Float[Tensor, " b *event"],
    *,
    grid: Sequence[float] = _FINE,
    solver: Solver | None = None,
) -> Float[Tensor, "n b d"]:
    """Return the singular values of ``dx_t/dx_0`` along trajectories.

    Data on a k-dimensional subspace keeps k of them while the others vanish as ``1 - t``, so the
    number above a threshold near t = 1 tells the intrinsic dimension.

    Parameters
    ----------
    field : VelocityField
        Must allow forward-mode differentiation; samples must not influence each other.
    x0 : Tensor, shape (b, *event)
        Noise; d is the size of the event. Costs d Jacobian-vector products per evaluation.
    grid : sequence of float, default 200 uniform steps
    solver : Solver, default RK4

    Returns
    -------
    Tensor, shape (n + 1, b, d)
        At each time of the grid, in descending order.
    """
    batch, dim = x0.shape[0], x0[0].numel()

    def augmented(state: State, t: float | Tensor) -> State:
        assert isinstance(state, dict)
        x, columns = state["x"], state["columns"]

        def push(tangent: Tensor) -> tuple[Tensor, Tensor]:
            v, pushed = torch.func.jvp(lambda z: _one(field(z, t)), (x,), (tangent,))
            return v, pushed

        out_dims: Any = (None, 1)  # one velocity for all tangents
        v, pushed = torch.func.vmap(push, in_dims=1, out_dims=out_dims)(columns)
        return {"x": v, "columns": pushed}

    identity = torch.eye(dim, dtype=x0.dtype, device=x0.device)
    columns = identity.reshape(1, dim, *x0.shape[1:]).expand(batch, *(-1,) * x0.ndim)
    states = trajectory(augmented, {"x": x0, "columns": columns}, grid, solver)
    flows = torch.stack(
        [state["columns"].flatten(2) for state in states if isinstance(state, dict)]
    )
    return torch.linalg.svdvals(flows)


def _over_time(values: list[Tensor], times: list[float]) -> OverTime:
    from scipy.integrate import simpson

    per_time = torch.stack(values)
    total = simpson(per_time.double().cpu().numpy(), x=times)
    return OverTime(per_time.new_tensor(float(total)), per_time, times)


def _one(x: State) -> Tensor:
    """Narrow a state to one tensor."""
    if isinstance(x, dict):
        raise TypeError(f"this diagnostic takes states of one tensor, got parts {sorted(x)}")
    return x
