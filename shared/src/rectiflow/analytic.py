"""Flows whose velocity is known in closed form: the yardstick of every sampler and diagnostic.

Longer than 400 lines because the two flows share the algebra of their posteriors, and because every
formula stands in its docstring.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from rectiflow.interpolants import Interpolant, Level
from rectiflow.paths import Linear, Path
from rectiflow.sources import Normal

if TYPE_CHECKING:
    from jaxtyping import Float


class ClosedFormFlow(nn.Module, ABC):
    """The exact marginal flow of independent noise and data on an affine path.

    All arithmetic is float64; results have the dtype of ``x``. ``t`` is a number, a 0-dimensional
    tensor, or a tensor of shape ``(b,)``. The module itself is the velocity, so it can stand where
    a trained network does. Flows also know ``data``, ``noise``, ``score``, ``log_prob``,
    ``divergence`` and ``jacobian`` at a point and a time, and ``sample`` both ends.
    """

    path: Path

    @abstractmethod
    def velocity(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return ``E[dx_t/dt | x_t = x]``, of the shape of ``x``."""

    def forward(self, x: Tensor, t: float | Tensor) -> Tensor:
        """Return the velocity."""
        return self.velocity(x, t)

    def flow_map(
        self, x: Tensor, start: float = 0.0, stop: float = 1.0, *, tolerance: float = 1e-11
    ) -> Tensor:
        """Carry points along the exact flow from time ``start`` to ``stop``, in either direction.

        Parameters
        ----------
        x : Tensor, shape (b, *event)
        start, stop : float
        tolerance : float, default 1e-11
            Relative and absolute, of the adaptive eighth-order integrator.

        Returns
        -------
        Tensor, shape (b, *event)
        """
        from scipy.integrate import solve_ivp

        def rate(t: float, flat: Any) -> Any:
            point = torch.from_numpy(flat).to(x.device).reshape(x.shape)
            return self.velocity(point, min(max(t, 0.0), 1.0)).flatten().cpu().numpy()

        with torch.no_grad():
            begin = x.detach().double().flatten().cpu().numpy()
            out = solve_ivp(
                rate, (start, stop), begin, method="DOP853", rtol=tolerance, atol=tolerance
            )
        if not out.success:
            raise RuntimeError(f"the flow map could not be integrated: {out.message}")
        return torch.from_numpy(out.y[:, -1].copy()).reshape(x.shape).to(x)


class _Posterior(NamedTuple):
    """Per-component quantities at a point."""

    log_joint: Tensor  # (*b, k): log w_k + log N(x; m_k, C_k)
    weight: Tensor  # (*b, k, 1): posterior probability of a component
    pull: Tensor  # (*b, k, d): C_k^-1 (x - m_k), minus the component's score
    precision: Tensor  # (*b or none, k, d, d): C_k^-1


class GaussianMixtureFlow(ClosedFormFlow):
    r"""The flow from a Gaussian, or a mixture, to a mixture of Gaussians.

    Given component k, ``x_t`` is Gaussian with mean :math:`m_k = a \mu_k + b m_0` and covariance
    :math:`C_k = a^2 \Sigma_k + b^2 S_0 + g^2`, and every conditional expectation is linear in x;
    the marginal ones are averages over the posterior of k. The last term is there on an
    :class:`~rectiflow.interpolants.Interpolant`.

    Parameters
    ----------
    weights : Tensor, shape (k,)
        Positive; normalised to sum to one.
    means : Tensor, shape (k, d)
    covs : Tensor, shape (k, d, d)
        Positive semi-definite; singular ones have no density at t = 1.
    path : Path or Interpolant, default :class:`~rectiflow.paths.Linear`
    source_mean : Tensor, shape (d,) or (k, d), optional
        Zero by default; one for each component where they are pairs of components.
    source_cov : Tensor, shape (d, d) or (k, d, d), optional
        Identity by default.

    Examples
    --------
    >>> import torch
    >>> flow = GaussianMixtureFlow(torch.ones(1), torch.zeros(1, 2), 0.25 * torch.eye(2)[None])
    >>> flow.flow_map(torch.tensor([[1.0, -2.0]]))  # contracts by the ratio of widths
    tensor([[ 0.5000, -1.0000]])
    """

    def __init__(
        self,
        weights: Float[Tensor, " k"],
        means: Float[Tensor, "k d"],
        covs: Float[Tensor, "k d d"],
        *,
        path: Path | Interpolant | None = None,
        source_mean: Float[Tensor, "*k d"] | None = None,
        source_cov: Float[Tensor, "*k d d"] | None = None,
    ) -> None:
        super().__init__()
        count, dim = means.shape
        if weights.shape != (count,) or covs.shape != (count, dim, dim):
            raise ValueError(
                "weights, means and covs must have shapes (k,), (k, d), (k, d, d), got "
                f"{tuple(weights.shape)}, {tuple(means.shape)}, {tuple(covs.shape)}"
            )
        self.gamma = path.gamma if isinstance(path, Interpolant) else None
        self.path = path.path if isinstance(path, Interpolant) else path or Linear()
        self.centred = source_mean is None
        mean0 = torch.zeros(dim) if source_mean is None else source_mean
        cov0 = torch.eye(dim) if source_cov is None else source_cov
        self.weights: Tensor
        self.means: Tensor
        self.covs: Tensor
        self.source_mean: Tensor
        self.source_cov: Tensor
        self.register_buffer("weights", weights.double() / weights.double().sum())
        self.register_buffer("means", means.double())
        self.register_buffer("covs", covs.double())
        self.register_buffer("source_mean", mean0.double())
        self.register_buffer("source_cov", cov0.double())

    def velocity(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b d"]:
        """Return ``E[dx_t/dt | x_t = x]``."""
        post = self._posterior(x, t)
        return (post.weight * self._component_velocity(post, t)).sum(-2).to(x)

    def data(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b d"]:
        """Return ``E[x1 | x_t = x]``."""
        post = self._posterior(x, t)
        a = _trailing(self.path.coeffs(_double(t)).a, 2)
        component = self.means + a * _apply(self.covs, post.pull)
        return (post.weight * component).sum(-2).to(x)

    def noise(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b d"]:
        """Return ``E[x0 | x_t = x]``."""
        post = self._posterior(x, t)
        b = _trailing(self.path.coeffs(_double(t)).b, 2)
        component = self.source_mean + b * _apply(self.source_cov, post.pull)
        return (post.weight * component).sum(-2).to(x)

    def denoiser(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b d"]:
        """Return ``E[z | x_t = x]``, the mean noise that an interpolant added on the way."""
        post = self._posterior(x, t)
        return _trailing(self._added(t)[0], 1).sqrt() * (post.weight * post.pull).sum(-2).to(x)

    def score(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b d"]:
        """Return ``grad log p_t(x)``."""
        post = self._posterior(x, t)
        return -(post.weight * post.pull).sum(-2).to(x)

    def log_prob(self, x: Float[Tensor, "*b d"], t: float | Tensor = 1.0) -> Float[Tensor, "*b"]:
        """Return the log-density of ``x_t``; of the data by default."""
        return torch.logsumexp(self._posterior(x, t).log_joint, dim=-1).to(x.dtype)

    def divergence(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b"]:
        """Return the divergence of the velocity."""
        post = self._posterior(x, t)
        inner = (self._rate(t) * post.precision).sum((-1, -2))[..., None]
        outer = (self._component_velocity(post, t) * _tilt(post)).sum(-1, keepdim=True)
        return (post.weight * (inner + outer)).sum((-1, -2)).to(x.dtype)

    def jacobian(self, x: Float[Tensor, "*b d"], t: float | Tensor) -> Float[Tensor, "*b d d"]:
        """Return ``dv_i/dx_j``."""
        post = self._posterior(x, t)
        inner = self._rate(t) @ post.precision
        outer = self._component_velocity(post, t)[..., :, None] * _tilt(post)[..., None, :]
        return (post.weight[..., None] * (inner + outer)).sum(-3).to(x)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` data points, shape ``(n, d)``."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        return self.means[which] + _apply(_root(self.covs)[which], self._normal(n, generator))

    def sample_source(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` noise points, shape ``(n, d)``."""
        mean, root = self.source_mean, _root(self.source_cov)
        if mean.ndim > 1 or root.ndim > 2:
            which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
            mean, root = mean.expand_as(self.means)[which], root.expand_as(self.covs)[which]
        return mean + _apply(root, self._normal(n, generator))

    def _normal(self, n: int, generator: torch.Generator | None) -> Tensor:
        like = self.means
        shape = (n, like.shape[1])
        return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)

    def _posterior(self, x: Tensor, t: float | Tensor) -> _Posterior:
        c = self.path.coeffs(_double(t))
        a, b = _trailing(c.a, 2), _trailing(c.b, 2)
        diff = x.double()[..., None, :] - (a * self.means + b * self.source_mean)
        cov = _trailing(c.a, 3) ** 2 * self.covs + _trailing(c.b, 3) ** 2 * self.source_cov
        identity = torch.eye(diff.shape[-1], dtype=cov.dtype, device=cov.device)
        if self.gamma is not None:
            cov = cov + _trailing(self._added(t)[0], 3) * identity
        try:
            factor = torch.linalg.cholesky(cov)
        except torch.linalg.LinAlgError as error:
            raise ValueError(
                "x_t has no density here: the covariance of a component is singular, got t="
                f"{t}. Stay off the end of the path, or give every component some width."
            ) from error
        # Not cholesky_inverse: its forward-mode derivative is wrong in torch 2.11.
        precision = torch.cholesky_solve(identity, factor)
        pull = _apply(precision, diff)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        constant = 0.5 * diff.shape[-1] * math.log(2 * math.pi)
        log_joint = self.weights.log() - 0.5 * (diff * pull).sum(-1) - log_det - constant
        return _Posterior(log_joint, torch.softmax(log_joint, -1)[..., None], pull, precision)

    def _rate(self, t: float | Tensor) -> Tensor:
        """Return ``a a' Σ_k + b b' S0 + g g'``, half the rate of the covariances."""
        c = self.path.coeffs(_double(t))
        rate = _trailing(c.a * c.da, 3) * self.covs
        rate = rate + _trailing(self.path.b_db(_double(t)), 3) * self.source_cov
        if self.gamma is None:
            return rate
        return rate + _trailing(self._added(t)[1], 3) * torch.eye(rate.shape[-1]).to(rate)

    def _added(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return ``g²`` and ``g g'`` of the noise added on the way."""
        level = self.gamma(_double(t)) if self.gamma is not None else Level(0.0, 0.0, 0.0)
        return torch.as_tensor(level.g) ** 2, torch.as_tensor(level.g_dg)

    def _component_velocity(self, post: _Posterior, t: float | Tensor) -> Tensor:
        c = self.path.coeffs(_double(t))
        drift = _trailing(c.da, 2) * self.means
        if not self.centred:  # b' may be infinite, and times zero it would be NaN
            drift = drift + _trailing(c.db, 2) * self.source_mean
        return drift + _apply(self._rate(t), post.pull)


class FiniteDataFlow(ClosedFormFlow):
    r"""The flow from a Gaussian to finitely many points: what a network that memorises learns.

    The posterior of point i is proportional to
    :math:`w_i \exp(-|x - a y_i|^2 / (2 b^2 \sigma^2))`.

    Parameters
    ----------
    points : Tensor, shape (n, *event)
    weights : sequence of float, optional
        Positive; normalised to sum to one. Equal by default.
    path : Path, default :class:`~rectiflow.paths.Linear`
    source_scale : float, default 1
        Standard deviation of the noise.

    Notes
    -----
    At t = 1 the velocity is finite only at the points themselves; there a ``ValueError`` says so.
    """

    def __init__(
        self,
        points: Float[Tensor, " n *event"],
        weights: Sequence[float] | None = None,
        *,
        path: Path | None = None,
        source_scale: float = 1.0,
    ) -> None:
        super().__init__()
        count = points.shape[0]
        mass = torch.ones(count) if weights is None else torch.as_tensor(weights)
        if count == 0 or mass.shape != (count,) or bool((mass <= 0).any()):
            raise ValueError(
                f"a finite data set needs points and one positive weight each, got {count} points "
                f"and weights of shape {tuple(mass.shape)}"
            )
        self.path = path or Linear()
        self.source = Normal(scale=source_scale)
        self.source_scale = source_scale
        self.points: Tensor
        self.log_weights: Tensor
        self.register_buffer("points", points.double())
        self.register_buffer("log_weights", (mass.double() / mass.sum()).log())

    def posterior(self, x: Float[Tensor, " b *event"], t: float | Tensor) -> Float[Tensor, "b n"]:
        """Return the probability of each data point given ``x_t = x``."""
        return torch.softmax(self._log_joint(x, t), dim=-1).to(x.dtype)

    def data(self, x: Float[Tensor, " b *event"], t: float | Tensor) -> Float[Tensor, " b *event"]:
        """Return ``E[x1 | x_t = x]``, a weighted mean of the points."""
        return self._data(x, t).to(x)

    def noise(self, x: Float[Tensor, " b *event"], t: float | Tensor) -> Float[Tensor, " b *event"]:
        """Return ``E[x0 | x_t = x]``."""
        return self._from_velocity(self.path.noise, x, t)

    def score(self, x: Float[Tensor, " b *event"], t: float | Tensor) -> Float[Tensor, " b *event"]:
        """Return ``grad log p_t(x)``."""
        return self._from_velocity(partial(self.path.score, source=self.source), x, t)

    def velocity(
        self, x: Float[Tensor, " b *event"], t: float | Tensor
    ) -> Float[Tensor, " b *event"]:
        """Return ``E[dx_t/dt | x_t = x]``."""
        return self._from_velocity(lambda v, x, t: v, x, t)

    def log_prob(
        self, x: Float[Tensor, " b *event"], t: float | Tensor = 0.0
    ) -> Float[Tensor, " b"]:
        """Return the log-density of ``x_t``; of the noise by default, since data has none."""
        width = self._noise_width(t)
        dim = x[0].numel()
        norm = 0.5 * dim * torch.log(2 * math.pi * width**2)
        return (torch.logsumexp(self._log_joint(x, t), -1) - norm).to(x.dtype)

    def divergence(self, x: Float[Tensor, " b *event"], t: float | Tensor) -> Float[Tensor, " b"]:
        """Return the divergence of the velocity."""
        p = torch.softmax(self._log_joint(x, t), dim=-1)
        flat = self.points.flatten(1)
        spread = p @ flat.square().sum(1) - (p @ flat).square().sum(1)
        of_spread, of_identity = self._jacobian_factors(t)
        return (of_spread * spread + of_identity * flat.shape[1]).to(x.dtype)

    def jacobian(self, x: Float[Tensor, " b *event"], t: float | Tensor) -> Float[Tensor, "b d d"]:
        """Return ``dv_i/dx_j`` over flattened events: the spread of the posterior."""
        p = torch.softmax(self._log_joint(x, t), dim=-1)
        flat = self.points.flatten(1)
        centred = flat - (p @ flat)[:, None]
        spread = torch.einsum("bn,bni,bnj->bij", p, centred, centred)
        of_spread, of_identity = self._jacobian_factors(t)
        identity = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        out = of_spread[..., None, None] * spread + of_identity[..., None, None] * identity
        return out.to(x.dtype)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` of the points with their weights, shape ``(n, *event)``."""
        mass = self.log_weights.exp()
        return self.points[torch.multinomial(mass, n, replacement=True, generator=generator)]

    def sample_source(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``n`` noise points, shape ``(n, *event)``."""
        like = self.points
        shape = (n, *like.shape[1:])
        return self.source.sample(shape, generator=generator, device=like.device, dtype=like.dtype)

    def flow_map(
        self, x: Tensor, start: float = 0.0, stop: float = 1.0, *, tolerance: float = 1e-11
    ) -> Tensor:
        """Carry points along the flow; up to t = 1 they end on data points.

        The velocity has no limit at t = 1 away from the points, so the last 1e-4 is taken by the
        data prediction, which is the end point itself wherever one data point has all of the
        posterior.
        """
        last = 1 - 1e-4
        if start > last:
            raise ValueError(
                f"the flow of finitely many points cannot start at t={start}; "
                f"expected at most {last}"
            )
        out = super().flow_map(x, start, min(stop, last), tolerance=tolerance)
        return self.data(out, last) if stop > last else out

    def _from_velocity(self, convert: Callable[..., Any], x: Tensor, t: float | Tensor) -> Tensor:
        double, time = x.double(), _double(t)
        return convert(self.path.from_data(self._data(x, t), double, time), double, time).to(x)

    def _data(self, x: Tensor, t: float | Tensor) -> Tensor:
        p = torch.softmax(self._log_joint(x, t), dim=-1)
        return (p @ self.points.flatten(1)).reshape(x.shape)

    def _noise_width(self, t: float | Tensor) -> Tensor:
        width = self._constant(self.path.coeffs(_double(t)).b * self.source_scale)
        if bool((width == 0).any()):
            raise ValueError(
                f"the law of x_t is a set of points here, got t={t}; expected a time with noise, "
                "such as t <= 1 - 1e-6"
            )
        return width

    def _log_joint(self, x: Tensor, t: float | Tensor) -> Tensor:
        flat, points = x.double().flatten(1), self.points.flatten(1)
        a = _trailing(self.path.coeffs(_double(t)).a, 1)
        width = _trailing(self._noise_width(t), 1)
        cross = a * (flat @ points.T)
        distance = flat.square().sum(1, keepdim=True) - 2 * cross + a**2 * points.square().sum(1)
        return self.log_weights - distance / (2 * width**2)

    def _jacobian_factors(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Factors of the posterior covariance and of the identity in the Jacobian."""
        a, b, da, db = self.path.coeffs(_double(t))
        of_spread = (da * b - db * a) / b * a / (b * self.source_scale) ** 2
        return self._constant(of_spread), self._constant(db / b)

    def _constant(self, value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=self.points.device)


def _double(t: float | Tensor) -> float | Tensor:
    return t.double() if isinstance(t, Tensor) else t


def _trailing(value: Any, axes: int) -> Any:
    """Append axes to a coefficient with one entry per sample."""
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return value.reshape(*value.shape, *(1,) * axes)


def _apply(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[..., None])[..., 0]


def _tilt(post: _Posterior) -> Tensor:
    """Return the gradient of the log posterior weights, ``s_k - s``, shape ``(*b, k, d)``."""
    return (post.weight * post.pull).sum(-2, keepdim=True) - post.pull


def _root(cov: Tensor) -> Tensor:
    """Return a square root of a positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]
