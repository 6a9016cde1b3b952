"""Log-likelihoods of data under a flow, by the change of volume along its trajectories."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow.fields import VelocityField, counted
from rectiflow.grids import uniform
from rectiflow.integrate import Plan, integrate, reverse
from rectiflow.integrate import plan as make_plan
from rectiflow.solvers.runge_kutta import RK4
from rectiflow.states import State

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8


_FIFTY = make_plan(uniform(50), RK4())


class Divergence(ABC):
    """A way to get ``div v``, exactly or as unbiased estimates."""

    @abstractmethod
    def probes(self, x: Tensor, generator: torch.Generator | None) -> Tensor | None:
        """Draw what stays fixed along a trajectory, shape ``(p, b, *event)``; None if nothing."""

    @abstractmethod
    def _estimates(
        self, pull: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None
    ) -> Tensor:
        """Return the divergence, or its estimates ``(b, p)``, from the pull-back of covectors."""

    def __call__(
        self,
        field: VelocityField,
        x: Tensor,
        t: float | Tensor,
        probes: Tensor | None = None,
        *,
        differentiable: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return the velocity and its divergence, or one estimate of it per probe.

        The field is evaluated once. Samples of a batch must not influence each other in it.

        Returns
        -------
        (Tensor, Tensor), shapes (b, *event) and (b, p)
        """
        with torch.enable_grad():
            if not (differentiable and x.requires_grad):
                x = x.detach().requires_grad_()
            v = field(x, t)
            assert isinstance(v, Tensor)

            def pull(covectors: Tensor) -> Tensor:
                if not v.requires_grad:
                    return torch.zeros_like(covectors)
                alone = covectors.shape[0] == 1
                (out,) = torch.autograd.grad(
                    v,
                    x,
                    covectors[0] if alone else covectors,
                    retain_graph=True,
                    create_graph=differentiable,
                    is_grads_batched=not alone,
                    materialize_grads=True,
                )
                return out[None] if alone else out

            div = self._estimates(pull, x, probes)
        return (v, div) if differentiable else (v.detach(), div.detach())


@dataclass(frozen=True)
class Exact(Divergence):
    """The divergence by one vector-Jacobian product per dimension.

    Parameters
    ----------
    chunk : int, default 16
        Dimensions that are differentiated at once; 1 for networks that cannot be vectorised.
    """

    chunk: int = 16

    def __post_init__(self) -> None:
        _check_positive("chunk", self.chunk)

    def probes(self, x: Tensor, generator: torch.Generator | None) -> None:
        """Return None: nothing is random."""

    def _estimates(
        self, pull: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None
    ) -> Tensor:
        batch, dim = x.shape[0], x[0].numel()
        identity, traces = torch.eye(dim, dtype=x.dtype, device=x.device), []
        for rows in identity.split(self.chunk):
            directions = rows[:, None].expand(-1, batch, -1).reshape(-1, *x.shape)
            pulled = pull(directions).reshape(-1, batch, dim)
            traces.append((pulled * rows[:, None]).sum((0, 2)))
        return torch.stack(traces).sum(0)[:, None]


@dataclass(frozen=True)
class Hutchinson(Divergence):
    """Unbiased estimates ``n · (J n)`` with random probes n of unit covariance.

    Parameters
    ----------
    n_probes : int, default 1
        Probes per sample, each fixed along a trajectory.
    rademacher : bool, default True
        Entries ±1, which have the least variance; normal ones otherwise.
    chunk : int, default 16
        Probes that are pulled back at once.

    References
    ----------
    Grathwohl et al., "FFJORD" (ICLR 2019), Eq. (8).
    """

    n_probes: int = 1
    rademacher: bool = True
    chunk: int = 16

    def __post_init__(self) -> None:
        _check_positive("n_probes", self.n_probes)
        _check_positive("chunk", self.chunk)

    def probes(self, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Draw the probes, shape ``(n_probes, b, *event)``."""
        shape = (self.n_probes, *x.shape)
        if not self.rademacher:
            return torch.randn(shape, generator=generator, device=x.device, dtype=x.dtype)
        coins = torch.randint(2, shape, generator=generator, device=x.device)
        return (2 * coins - 1).to(x.dtype)

    def _estimates(
        self, pull: Callable[[Tensor], Tensor], x: Tensor, probes: Tensor | None
    ) -> Tensor:
        if probes is None:
            raise ValueError(
                "Hutchinson's estimate needs probes, got None. Draw them once with "
                "divergence.probes(x, generator)."
            )
        products = [pull(part) * part for part in probes.split(self.chunk)]
        return torch.cat(products).flatten(2).sum(2).T


@dataclass(frozen=True)
class Likelihood:
    """Log-likelihoods and what they were computed from.

    Attributes
    ----------
    log_prob : Tensor, shape (b,)
        In nats, of the density over the whole event.
    x0 : Tensor, shape (b, *event)
        Where the data came from.
    estimates : Tensor, shape (b, p)
        ``log_prob`` by each probe alone; their mean is ``log_prob``. One column when exact.
    nfe : int
        Evaluations of the field, not counting the backward passes.
    """

    log_prob: Tensor
    x0: Tensor
    estimates: Tensor
    nfe: int

    @property
    def standard_error(self) -> Tensor:
        """Standard error of ``log_prob`` from the spread of the probes, shape ``(b,)``.

        Raises
        ------
        ValueError
            With fewer than two probes.
        """
        count = self.estimates.shape[1]
        if count < 2:
            raise ValueError(f"a standard error needs at least two probes, got {count}")
        return self.estimates.std(dim=1) / math.sqrt(count)


def log_likelihood(
    field: VelocityField,
    x1: Float[Tensor, " b *event"],
    source_log_prob: Callable[[Tensor], Tensor],
    plan: Plan = _FIFTY,
    *,
    divergence: Divergence | None = None,
    generator: torch.Generator | None = None,
    differentiable: bool = False,
) -> Likelihood:
    r"""Return the log-likelihood of data under a flow.

    .. math:: \log p_1(x_1) = \log p_0(x(0)) - \int_0^1 \nabla\cdot v(x(t), t)\,dt

    along the trajectory that ends in ``x1``, integrated from data to noise.

    Parameters
    ----------
    field : VelocityField
    x1 : Tensor, shape (b, *event)
    source_log_prob : callable
        Log-density of the noise, ``(b, *event) -> (b,)``: ``Normal().log_prob``.
    plan : Plan
        A plan for sampling, from 0 to 1; it is reversed here. 50 RK4 steps by default. The plan
        must suit the field near t = 1.
    divergence : Divergence, default :class:`Exact`
    generator : torch.Generator, optional
        For the probes.
    differentiable : bool, default False
        Keep the graph, to differentiate by ``x1`` or by the parameters of the field. Memory grows
        with the number of evaluations.

    Returns
    -------
    Likelihood

    References
    ----------
    Chen et al., "Neural Ordinary Differential Equations" (NeurIPS 2018), Eq. (8).

    Examples
    --------
    >>> import torch
    >>> from rectiflow.sources import Normal
    >>> out = log_likelihood(lambda x, t: torch.zeros_like(x), torch.zeros(1, 2), Normal().log_prob)
    >>> out.log_prob
    tensor([-1.8379])
    """
    method = divergence or Exact()
    probes = method.probes(x1, generator)
    columns = 1 if probes is None else probes.shape[0]
    evaluated = counted(field)

    def augmented(state: State, t: float | Tensor) -> State:
        assert isinstance(state, dict)
        v, div = method(evaluated, state["x"], t, probes, differentiable=differentiable)
        return {"x": v, "log_volume": div}

    start: State = {"x": x1, "log_volume": x1.new_zeros(x1.shape[0], columns)}
    with torch.set_grad_enabled(differentiable):
        end = integrate(augmented, start, reverse(plan), differentiable=differentiable)
        assert isinstance(end, dict)
        estimates = source_log_prob(end["x"])[:, None] + end["log_volume"]
        return Likelihood(estimates.mean(1), end["x"], estimates, evaluated.calls)


def bits_per_dim(log_prob: Tensor, dims: int, *, offset: float = 0.0) -> Tensor:
    """Return ``-log_prob / (dims ln 2) + offset``.

    Parameters
    ----------
    log_prob : Tensor
        In nats.
    dims : int
        Size of the event.
    offset : float, default 0
        Bits for the width of a cell of the data: 7 for 8-bit data in [-1, 1] (256 cells of width
        2/256), 8 for 8-bit data in [0, 1].
    """
    _check_positive("dims", dims)
    return -log_prob / (dims * math.log(2)) + offset


def dequantise(
    levels: UInt8[Tensor, " b *event"], *, generator: torch.Generator | None = None
) -> Float[Tensor, " b *event"]:
    """Spread 8-bit levels uniformly over their cells of [-1, 1], ``(levels + u) / 128 - 1``.

    The density of the result bounds the probability of the levels; 7 is its offset in
    :func:`bits_per_dim`.

    Raises
    ------
    ValueError
        When the levels are not uint8.
    """
    if levels.dtype != torch.uint8:
        raise ValueError(f"levels must be uint8, got {levels.dtype}; scale and round them first")
    u = torch.rand(levels.shape, generator=generator, device=levels.device)
    return (levels + u) / 128 - 1


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
