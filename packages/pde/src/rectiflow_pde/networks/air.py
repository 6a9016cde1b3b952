"""AirPhyNet: concentrations at stations, carried by diffusion and wind on their graph.

:class:`PublishedAir` is the authors' right-hand side as it is, for comparison. In their code it is
made anew, with random weights, in every forward pass, so that it is never trained; the wind's
weights get no gradient; ``max(A, A^T)`` of differences loses the direction of the wind; samples of
a batch leak into each other as further supports, so that the shape of weights depends on the batch;
and the Chebyshev recursion goes on from one support into the next. :class:`AirNetwork` is the same
physics without these.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from rectiflow.integrate import Moved, integrate, plan
from rectiflow.solvers import RK4
from rectiflow.states import State
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

KMH = 3.6
"""Kilometres in an hour at one metre in a second."""

_MOST = 64  # steps in a frame that the wind may ask for


def support(adjacency: Float[Tensor, "*b n n"]) -> Float[Tensor, "*b n n"]:
    """Return the normalised Laplacian minus one, of the larger of both directions."""
    both = torch.maximum(adjacency, adjacency.mT)
    degree = both.sum(-1)
    scale = torch.where(degree > 0, degree.clamp_min(1e-300).rsqrt(), 0.0)
    return -scale[..., None] * both * scale[..., None, :]


class PublishedAir(nn.Module):
    """The authors' right-hand side, with their names of weights and their defects.

    Parameters
    ----------
    stations, latent, units : int
        Sizes: of the graph, of a station's state, and of the hidden layer.
    wind_supports : int
        Of the batch, whose size the shapes of weights depend on; 0 without advection.
    coefficient : float
        Of diffusion.

    References
    ----------
    Hettige et al., "AirPhyNet: Harnessing Physics-Guided Neural Networks for Air Quality
    Prediction" (ICLR 2024). Official code: kethmih/AirPhyNet, ``ODEFunc``.
    """

    def __init__(
        self,
        stations: int,
        latent: int = 4,
        units: int = 64,
        wind_supports: int = 0,
        coefficient: float = 0.1,
    ) -> None:
        super().__init__()
        self.shape, self.coefficient = (stations, latent), coefficient
        branches = {"gconv": 1} | ({"gconv_adv": wind_supports} if wind_supports else {})
        self.layers: dict[str, list[tuple[str, str]]] = {}
        for branch, supports in branches.items():
            self.layers[branch] = []
            for inputs, outputs in ((latent, units), (units, latent)):
                size = (inputs * (2 * supports + 1), outputs)
                names = f"{branch}_weight_{size}", f"{branch}_biases_{outputs}"
                self.register_parameter(names[0], nn.Parameter(torch.empty(size)))
                self.register_parameter(names[1], nn.Parameter(torch.zeros(outputs)))
                nn.init.xavier_normal_(self.get_parameter(names[0]))
                self.layers[branch].append(names)
        self.flow_net = nn.ModuleDict({"fc": nn.Linear(2, 1)})
        self.gated_fusion = nn.ModuleDict({"fc": nn.Linear(stations * latent, stations * latent)})

    def wind_support(self, wind: Float[Tensor, "b n 2"]) -> Float[Tensor, "b n n"]:
        """Return the supports of the advection; no gradient goes through them."""
        weight = self.flow_net["fc"](wind)[..., 0].detach()
        return support(weight[:, :, None] - weight[:, None])

    def forward(
        self, y: Float[Tensor, "b f"], adjacency: Float[Tensor, "n n"], wind: Tensor | None = None
    ) -> Float[Tensor, "b f"]:
        """Return the change of all stations' states ``(b, n * latent)``."""
        found = {"gconv": -self.coefficient}
        supports = {"gconv": [support(adjacency).to(y)]}
        if "gconv_adv" in self.layers:
            assert wind is not None
            found["gconv_adv"], supports["gconv_adv"] = -1.0, list(self.wind_support(wind))
        parts = []
        for branch, factor in found.items():
            x = y
            for weight, bias in self.layers[branch]:
                told = self.get_parameter(weight), self.get_parameter(bias)
                x = torch.tanh(self._convolved(x, supports[branch], *told))
            parts.append(factor * x)
        if len(parts) == 1:
            return parts[0]
        spread, carried = map(self.gated_fusion["fc"], parts)
        return torch.lerp(carried, spread, torch.sigmoid(spread + carried))

    def _convolved(
        self, x: Tensor, supports: Sequence[Tensor], weight: Tensor, bias: Tensor
    ) -> Tensor:
        before = x.reshape(len(x), self.shape[0], -1)
        terms = [before]
        for each in supports:
            now = each @ before
            terms += [now, 2 * each @ now - before]
            before, now = now, terms[-1]  # the next support goes on from here, as published
        features = torch.stack(terms, -1).flatten(2)
        return (features @ weight + bias).flatten(1)


class Transport(nn.Module):
    """Diffusion and advection between stations, which move mass and make none.

    Diffusion is ``sum_j w_ij (x_j - x_i)`` with symmetric weights, advection a flux along each edge
    ``relu(v_i . e_ij) / d_ij`` that leaves i and arrives at j: the sum over stations stays as it
    is, whatever the weights.

    Parameters
    ----------
    neighbours : int
        Nearest stations that each is joined to; an edge of one is an edge of both.
    """

    def __init__(self, neighbours: int = 6) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.diffusion = nn.Parameter(torch.tensor(-4.0))
        self.advection = nn.Parameter(torch.tensor(-0.5))

    def rates(
        self, places: Float[Tensor, "n 2"], wind: Float[Tensor, "*b n 2"]
    ) -> Float[Tensor, "*b n n"]:
        """Return the share of station i that goes to j in an hour, ``[..., i, j]``.

        Parameters
        ----------
        places : Tensor, shape (n, 2)
            Kilometres.
        wind : Tensor, shape (..., n, 2)
            m/s.
        """
        gap = places - places[:, None]
        far = gap.norm(dim=-1)
        order = far.argsort(1).argsort(1)
        near = (order <= self.neighbours) & (far > 0)
        near = near | near.T
        far = torch.where(near, far, 1.0)
        along = torch.einsum("...ic,ijc->...ij", KMH * wind, gap / far[..., None])
        carried = F.relu(along) / far * near
        spread = near / far.square()
        return F.softplus(self.advection) * carried + F.softplus(self.diffusion) * spread

    @staticmethod
    def change(rates: Float[Tensor, "*b n n"], x: Float[Tensor, "*b n c"]) -> Tensor:
        """Return what arrives minus what leaves, in an hour."""
        return rates.mT @ x - rates.sum(-1, keepdim=True) * x


class AirNetwork(Pretrained, nn.Module):
    """Forecasts concentrations at any stations from their readings and the wind.

    A station's state is begun as its last reading, corrected by a recurrent network that saw its
    history. It changes by transport (:class:`Transport`) and by a learned remainder, and its mean
    over ``latent`` channels is the forecast.

    Parameters
    ----------
    latent, units : int
        Channels of a station's state, and of the hidden layers.
    neighbours : int
        As for :class:`Transport`.
    physics : bool
        Whether there is transport; the same network without it is what it is compared with.
    """

    def __init__(
        self, latent: int = 4, units: int = 64, neighbours: int = 6, physics: bool = True
    ) -> None:
        super().__init__()
        self.transport = Transport(neighbours) if physics else None
        self.recurrent = nn.GRU(2, units, batch_first=True)
        self.begin = _corrects(units, units, latent)
        self.remainder = _corrects(latent, units, latent)

    def forward(
        self,
        history: Float[Tensor, "b h n"],
        wind: Float[Tensor, "b n 2"],
        places: Float[Tensor, "n 2"],
        horizon: int,
        step: float = 1.0,
    ) -> Float[Tensor, "b f n"]:
        """Return the next frames.

        Parameters
        ----------
        history : Tensor, shape (b, h, n)
            Readings over the training's scale, NaN in gaps.
        wind : Tensor, shape (b, n, 2)
            m/s, held over the forecast.
        places : Tensor, shape (n, 2)
            Kilometres.
        horizon : int
            Frames.
        step : float
            Hours between them.
        """
        x = self.start(history)
        rates = self.transport.rates(places, wind) if self.transport is not None else None
        swiftest = 0.0 if rates is None else float(rates.detach().sum(-1).max())
        # Explicit steps are stable, and keep what is positive so, while less leaves than is there.
        parts = min(max(math.ceil(step * swiftest), 1), _MOST)

        def change(x: State, t: float | Tensor) -> Tensor:
            assert isinstance(x, Tensor)
            moved = self.remainder(x)
            if rates is not None:
                moved = moved + Transport.change(rates, x)
            return moved * (step * horizon)  # the core's time is 1 at the end

        frames: list[Tensor] = []

        def record(moved: Moved) -> None:
            if (moved.index + 1) % parts == 0:
                assert isinstance(moved.state, Tensor)
                frames.append(moved.state.mean(-1))

        times = torch.linspace(0, 1, horizon * parts + 1, dtype=torch.float64).tolist()
        integrate(change, x, plan(times, RK4()), hook=record, differentiable=True)
        return torch.stack(frames, 1)

    @staticmethod
    def held(history: Float[Tensor, "b h n"]) -> tuple[Tensor, Tensor]:
        """Return readings whose gaps are filled with the one before, 0 at first; and which are."""
        known = ~history.isnan()
        at = torch.where(known, torch.arange(history.shape[1], device=history.device)[:, None], -1)
        last = at.cummax(1).values.clamp_min(0)
        return torch.where(known, history, 0.0).gather(1, last), known

    def start(self, history: Float[Tensor, "b h n"]) -> Float[Tensor, "b n c"]:
        """Return the states at the last reading."""
        b, h, n = history.shape
        held, known = self.held(history)
        seen = torch.stack([held, known.to(held)], -1).transpose(1, 2).reshape(b * n, h, 2)
        hidden = self.recurrent(seen)[1][0].reshape(b, n, -1)
        return held[:, -1, :, None] + self.begin(hidden)


def _corrects(inputs: int, units: int, outputs: int) -> nn.Sequential:
    """Return a network that begins as zero."""
    last = nn.Linear(units, outputs)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(inputs, units), nn.Tanh(), last)
