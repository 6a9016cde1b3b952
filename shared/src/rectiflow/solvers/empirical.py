"""DPM-Solver-v3: an exponential integrator whose linear part is measured on the model."""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rectiflow.grids import log_snr
from rectiflow.paths import Linear, Path
from rectiflow.solvers.adams import Adams
from rectiflow.solvers.base import Solver, combine
from rectiflow.solvers.context import Context, Memory, Time
from rectiflow.solvers.exponential import first_order
from rectiflow.states import State
from rectiflow.storage.files import write_tensors
from rectiflow.storage.tensor_files import load_tensors

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_LINEAR = Linear()
STATISTICS_FILE = "statistics.safetensors"
_FLAT_VARIANCE = 1e-10  # of f, relative to its square: below, nothing can be fitted to it


@dataclass(frozen=True, eq=False)
class EmpiricalStatistics:
    r"""What :class:`DPMSolverV3` knows of a model, on a table of half log-SNRs.

    With the noise prediction E and :math:`b E = N + l x,\ f = N / a`, the derivative of f along
    the flow is fitted by :math:`f' \approx s f + c`.

    Parameters
    ----------
    lam : Tensor, shape (n,)
        Increasing.
    linear, slope, shift : Tensor, shape (n, *event)
        The coefficients l, s and c, elementwise; axes that were averaged over have length 1.
    path : Path
        The path that the field was trained on.
    """

    lam: Tensor
    linear: Tensor
    slope: Tensor
    shift: Tensor
    path: Path = _LINEAR

    def __post_init__(self) -> None:
        shapes = {tuple(part.shape) for part in (self.linear, self.slope, self.shift)}
        if len(self.lam) < 2 or len(shapes) != 1 or shapes.pop()[0] != len(self.lam):
            raise ValueError(
                f"statistics must share one table, got {len(self.lam)} log-SNRs and shapes "
                f"{[tuple(p.shape) for p in (self.linear, self.slope, self.shift)]}; expected "
                "(n, *event) for each"
            )

    def __repr__(self) -> str:
        whole = torch.cat([p.double().flatten() for p in (self.linear, self.slope, self.shift)])
        digest = hashlib.sha256(whole.cpu().numpy().tobytes()).hexdigest()[:8]
        return f"EmpiricalStatistics({len(self.lam)} points, {digest})"

    @cached_property
    def _lams(self) -> list[float]:
        return self.lam.double().tolist()

    @cached_property
    def _summed(self) -> Tensor:
        """Integrals of l, of s, and of c exp(-int s) from the first point, (n, 3, *event)."""
        h = self.lam.double().diff().reshape(-1, *(1,) * (self.linear.ndim - 1))

        def integral(values: Tensor) -> Tensor:
            steps = h * (values[1:] + values[:-1]) / 2
            return torch.cat([torch.zeros_like(values[:1]), steps.cumsum(0)])

        rates = integral(self.slope.double())
        shifts = integral(self.shift.double() * (-rates).exp())
        return torch.stack([integral(self.linear.double()), rates, shifts], dim=1)

    def covers(self, lam: float) -> bool:
        """Tell whether a half log-SNR lies on the table."""
        slack = 1e-9 * (self._lams[-1] - self._lams[0])
        return self._lams[0] - slack <= lam <= self._lams[-1] + slack

    def linear_at(self, lam: float) -> Tensor:
        """Return l (*event)."""
        return self._between(self.linear.double(), lam)

    def _between(self, table: Tensor, lam: float) -> Tensor:
        i = min(max(bisect_right(self._lams, lam) - 1, 0), len(self._lams) - 2)
        part = (lam - self._lams[i]) / (self._lams[i + 1] - self._lams[i])
        return torch.lerp(table[i], table[i + 1], min(max(part, 0.0), 1.0))

    def _relative(self, start: float, stop: float) -> Tensor:
        """Integrals of l and s, and of c exp(-int s), from ``start`` to ``stop``, (3, *event)."""
        return self._since(self._between(self._summed, start), self._between(self._summed, stop))

    @staticmethod
    def _since(first: Tensor, later: Tensor) -> Tensor:
        off = later - first
        return torch.stack([off[0], off[1], first[1].exp() * off[2]])

    def step(self, start: float, stop: float, terms: int) -> tuple[Tensor, ...]:
        """Integrate the weights of a move between half log-SNRs.

        Returns
        -------
        tuple of Tensor, shape (*event)
            The decay, then what it is of the constant, and of the powers 0 to ``terms - 1`` of the
            distance in lambda, over their factorials.
        """
        i, j = bisect_right(self._lams, start), bisect_right(self._lams, stop)
        between = range(i, j) if start < stop else range(i - 1, j - 1, -1)
        inside = [k for k in between if start != self._lams[k] != stop]
        first, last = (self._between(self._summed, lam) for lam in (start, stop))
        values = torch.stack([first, *(self._summed[k] for k in inside), last])
        lams = torch.tensor([start, *(self._lams[k] for k in inside), stop], dtype=torch.float64)
        off = values - first
        weight = (off[:, 0] + off[:, 1]).exp()
        far = (lams - start).reshape(-1, *(1,) * (weight.ndim - 1))
        shifted = first[1].exp() * off[:, 2]
        powers = [weight * far**k / math.factorial(k) for k in range(terms)]
        sums = (torch.trapezoid(w, lams, dim=0) for w in (shifted * weight, *powers))
        return (-off[-1, 0]).exp(), *sums

    def parameter_from(self, here: float, there: float, value: Tensor) -> Tensor:
        """Carry f of one half log-SNR, ``there``, back to ``here``: what is smooth between them."""
        _, rate, shift = self._relative(here, there)
        return value * (-rate).exp().to(value) - shift.to(value)

    def save(self, folder: FilePath | str, **told: str) -> FilePath:
        """Write them beside the weights of a folder."""
        path = FilePath(folder) / STATISTICS_FILE
        names = ("lam", "linear", "slope", "shift")
        write_tensors(path, {name: getattr(self, name) for name in names}, told)
        return path

    @classmethod
    def load(cls, folder: FilePath | str | None, path: Path = _LINEAR) -> EmpiricalStatistics:
        """Read them from a folder of weights.

        Raises
        ------
        FileNotFoundError
            When none lie there.
        """
        file = FilePath(folder or ".") / STATISTICS_FILE
        if folder is None or not file.is_file():
            raise FileNotFoundError(
                f"no statistics lie beside these weights, expected {file.name}; make them with the "
                "domain's verb `tune`."
            )
        return cls(**load_tensors(file), path=path)


@dataclass(frozen=True)
class DPMSolverV3(Solver):
    """DPM-Solver-v3: measured linear and first-order parts, multistep; one evaluation per step.

    The linear part of the flow and the usual change of the rest are taken from statistics of the
    model and integrated exactly; only what is left is extrapolated from past steps. Where the data
    are normal nothing is left, and one step of any length is exact. A corrector mends the last step
    by the evaluation that the next one begins with. Moves that leave the table, to t = 0 or 1, are
    DDIM. Flat spaces only.

    Parameters
    ----------
    statistics : EmpiricalStatistics
        Of this very field, guidance included.
    terms : int, default 3
        Order of the predictor, 1 to 4.
    correct : bool, default True
        Mend each step by the next evaluation.

    References
    ----------
    Zheng et al., "DPM-Solver-v3: Improved Diffusion ODE Solver with Empirical Model Statistics"
    (NeurIPS 2023), Algorithms 1 and 2. Official code: thu-ml/DPM-Solver-v3.
    """

    statistics: EmpiricalStatistics
    terms: int = 3
    correct: bool = True
    nfe = 1
    traceable = False
    leaves = ("state", "velocity", "parameter")

    order = property(lambda self: self.terms)
    reads = property(lambda self: {"state": 1, "parameter": max(self.terms - 1, 1)})

    def __post_init__(self) -> None:
        if not 1 <= self.terms <= 4:
            raise ValueError(f"terms must be 1 to 4, got {self.terms}; expected 2 or 3")

    @classmethod
    def load(cls, folder: FilePath | None, terms: int = 3) -> DPMSolverV3:
        """Return the solver with the statistics beside a checkpoint."""
        return cls(EmpiricalStatistics.load(folder), terms)

    def step(
        self, field: VelocityField, x: State, start: Time, stop: Time, context: Context
    ) -> tuple[State, Memory | None]:
        """Advance ``x`` by one move; see :meth:`Solver.step`."""
        if isinstance(start, Tensor) or isinstance(x, dict) or isinstance(stop, Tensor):
            raise ValueError(
                f"{type(self).__name__} moves one tensor at one time, got a product of spaces or "
                "times per row; expected another solver there"
            )
        path = self.statistics.path
        x, v = context.begin(field, x, start)
        assert isinstance(x, Tensor)
        assert isinstance(v, Tensor)
        here, there = path.lam(float(start)), path.lam(float(stop))
        if not self.statistics.covers(here):
            left = context.remember(start, stop, state=x, velocity=v)
            return combine(first_order(path, start, stop), (x, v)), left
        a, b, *_ = path.coeffs(start)
        noise = path.noise(v, x, start)
        f = (b * noise - self.statistics.linear_at(here).to(x) * x) / a
        past = context.past(start, stop)
        known: Any = past.get("parameter")
        chain: Any = [(path.lam(t), value) for t, value in known]
        before = past.get("state")
        if self.correct and chain and before:
            # The evaluation belongs to f, which stays: the state moves, and the noise with it.
            nodes = [(here, f), *chain[1 : self.terms - 1]]
            x = self._moved(before[0][1], past.start, start, chain[0][1], nodes)
            v = path.from_noise((f * a + self.statistics.linear_at(here).to(x) * x) / b, x, start)
        left = context.remember(start, stop, state=x, velocity=v, parameter=f)
        if not self.statistics.covers(there):
            return combine(first_order(path, start, stop), (x, v)), left
        return self._moved(x, start, stop, f, chain[: self.terms - 1]), left

    def _moved(
        self, x: Any, start: Any, stop: Any, f: Tensor, nodes: Sequence[tuple[float, Tensor]]
    ) -> Tensor:
        """Move ``x``, with f there and at other half log-SNRs."""
        path, known = self.statistics.path, self.statistics
        here, there = path.lam(start), path.lam(stop)
        decay, constant, *powers = (part.to(x) for part in known.step(here, there, len(nodes) + 1))
        rest = constant + powers[0] * f
        if nodes:
            far = torch.tensor(
                [[(lam - here) ** k / math.factorial(k) for k in range(1, len(nodes) + 1)]
                 for lam, _ in nodes], dtype=torch.float64
            )  # fmt: skip
            changes = [known.parameter_from(here, lam, value) - f for lam, value in nodes]
            for weights, power in zip(far.inverse().tolist(), powers[1:], strict=True):
                rest = rest + power * sum(w * c for w, c in zip(weights, changes, strict=True))
        a_start, a_stop = path.coeffs(start).a, path.coeffs(stop).a
        return a_stop * decay * (x / a_start - rest)


def estimate_statistics(
    field: VelocityField,
    x0: Tensor,
    *,
    path: Path = _LINEAR,
    t_min: float = 0.02,
    t_max: float = 0.98,
    points: int = 120,
    probes: int = 1,
    pooled: bool = False,
    generator: torch.Generator,
) -> EmpiricalStatistics:
    """Measure a field along its own flow, from a fixed batch of noise.

    The diagonal of the Jacobian is estimated with random signs, and the change of f along the flow
    by differences between the points of the table, so that no forward derivative is needed.

    Parameters
    ----------
    field : VelocityField
        Differentiable in its first argument; as it will be sampled, guidance included.
    x0 : Tensor, shape (b, *event)
        Noise.
    path : Path
        The path that the field was trained on.
    t_min, t_max : float
        Ends of the table, strictly inside ``(0, 1)``.
    points : int
        Steps of the table, equal in lambda.
    probes : int
        Random signs for each point and sample.
    pooled : bool
        Average over all axes but the first of the event, its channels: less noise, a small file,
        and any size of input.
    generator : torch.Generator
        On the host.

    References
    ----------
    Zheng et al. (NeurIPS 2023), section 3.3 and Appendix C.1.
    """
    from rectiflow.diagnostics import trajectory

    times = log_snr(points, t_min, t_max, path)
    states: list[Any] = trajectory(field, x0, [0.0, *times], Adams(2))[1:]
    axes = tuple(range(2, x0.ndim)) if pooled else ()

    def mean(values: Tensor) -> Tensor:
        """Average (n, b, *event) over the batch, and over what is pooled."""
        return values.mean((1, *(axis + 1 for axis in axes)), keepdim=True)

    # The same signs at every point: an error of l that changes slowly is only another choice of l.
    signs = [
        torch.randint(0, 2, x0.shape, generator=generator).to(x0) * 2 - 1 for _ in range(probes)
    ]
    noises, linears = [], []
    for t, x in zip(times, states, strict=True):
        inverse, b = path.inverse(t), path.coeffs(t).b
        at = x.detach().requires_grad_()
        with torch.enable_grad():
            v: Any = field(at, t)
            diagonal = torch.zeros_like(x)
            for i, sign in enumerate(signs, start=1):
                (grad,) = torch.autograd.grad((v * sign).sum(), at, retain_graph=i < probes)
                diagonal += sign * grad / probes
        noise: Any = path.noise(v.detach(), x, t)
        noises.append(noise.double())
        linears.append(b * (inverse.noise_v * diagonal.double() + inverse.noise_x))
    lam = torch.tensor([path.lam(t) for t in times], dtype=torch.float64)
    linear = mean(torch.stack(linears))
    column = (-1, *(1,) * x0.ndim)
    a, b = (
        torch.tensor([path.coeffs(t)[i] for t in times], dtype=torch.float64).reshape(column)
        for i in (0, 1)
    )
    where = torch.stack(states).double()
    f = (b.to(where) * torch.stack(noises) - linear * where) / a.to(where)
    (change,) = torch.gradient(f, spacing=(lam.to(f),), dim=0, edge_order=2)
    middle, drift = mean(f), mean(change)
    spread = mean((f - middle).square())
    together = mean((f - middle) * (change - drift))
    fits = spread > _FLAT_VARIANCE * mean(f.square())
    slope = torch.where(fits, together / spread.clamp_min(1e-300), 0.0)
    parts = (linear, slope, drift - slope * middle)
    kept = [part[:, 0].float() if x0.dtype == torch.float32 else part[:, 0] for part in parts]
    linear, slope, constant = (table.cpu() for table in kept)
    return EmpiricalStatistics(lam, linear, slope, constant, path=path)
