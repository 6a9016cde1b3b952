"""EGTN: equivariant layers over the nodes of each frame and over the frames of each node.

Frames are the last axis but one here, ``(m, t, d)``; the authors have them last. Names of the
parameters are theirs.

References
----------
Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024, arXiv 2410.13027).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

from rectiflow_trajectories.networks.graph import Graph, Told, centred, nodes_mean

if TYPE_CHECKING:
    from jaxtyping import Float

PRIORS = ("learned", "centre", "last", "velocity")
"""Where futures start: a learned mean of the given frames, the centre of all their nodes, the last
frame, or the last two frames gone on with at constant velocity."""


def waves(t: Float[Tensor, *b], width: int) -> Float[Tensor, "*b w"]:
    """Return sines, then cosines, of numbers at frequencies from 1 to 1e-4."""
    half = width // 2
    powers = torch.arange(half, device=t.device, dtype=t.dtype) * (-math.log(1e4) / (half - 1))
    angles = t[..., None] * powers.exp()
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, width % 2))


class Mlp(nn.Module):
    """Two linear layers with SiLU between, and after them if asked for."""

    def __init__(self, inner: int, hidden: int, outer: int, *, ends: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inner, hidden), nn.SiLU(), nn.Linear(hidden, outer)]
        self.actions = nn.Sequential(*layers, *([nn.SiLU()] if ends else []))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layers along the last axis."""
        out: Tensor = self.actions(x)
        return out


class SpatialLayer(nn.Module):
    """Messages between the nodes of each frame (EGNN).

    Parameters
    ----------
    hidden, edge_dim : int
    pre_norm : bool
        Messages see distances, not their squares, and coordinates move by whole differences.
    """

    def __init__(self, hidden: int, edge_dim: int, *, pre_norm: bool = False) -> None:
        super().__init__()
        self.hidden, self.pre_norm = hidden, pre_norm
        self.edge_mlp = Mlp(2 * hidden + 1 + edge_dim, hidden, hidden, ends=True)
        self.coord_mlp = Mlp(hidden, hidden, 1)
        self.node_mlp = Mlp(2 * hidden, hidden, hidden)

    def forward(
        self, x: Float[Tensor, "m t d"], h: Float[Tensor, "m t h"], graph: Graph
    ) -> tuple[Float[Tensor, "m t d"], Float[Tensor, "m t h"]]:
        """Return moved coordinates and new features; a node without edges stays where it is."""
        i, j = graph.edges
        apart = x[i] - x[j]
        square = apart.square().sum(-1, keepdim=True)
        # The root has no slope at 0, where loops and nodes in one place are.
        length = torch.where(square > 0, square, 1.0).sqrt() * (square > 0)
        messages = self._messages(h, length if self.pre_norm else square, graph)
        share = self.coord_mlp(messages)
        if not self.pre_norm:
            share = share / ((square + 1e-8).sqrt() + 1)
        total = torch.zeros_like(h).index_add(0, i, messages)
        moved = x + nodes_mean(share * apart, i, len(x))
        return moved, self.node_mlp(torch.cat([h, total], -1))

    def _messages(self, h: Tensor, distance: Tensor, graph: Graph) -> Tensor:
        """Apply the edge network; its first layer costs a product per node, not per edge."""
        layers: Any = self.edge_mlp.actions
        first, rest = layers[0], layers[1:]
        own, other, far, told = first.weight.split(
            [self.hidden, self.hidden, 1, graph.attributes.shape[-1]], 1
        )
        i, j = graph.edges
        edge = nn.functional.linear(graph.attributes, told, first.bias)
        edge = edge[:, None] if edge.ndim == 2 else edge
        hidden = (h @ own.T)[i] + (h @ other.T)[j] + distance * far[:, 0] + edge
        messages: Tensor = rest(hidden)
        return messages


class TemporalLayer(nn.Module):
    """Attention over the frames of each node, which knows how far apart in time they are."""

    def __init__(self, hidden: int, time_dim: int) -> None:
        super().__init__()
        self.time_dim = time_dim
        self.q_mlp, self.k_mlp, self.v_mlp = (Mlp(hidden, hidden, hidden) for _ in range(3))
        self.x_mlp = Mlp(hidden, hidden, 1)
        self.time_emb = nn.Linear(time_dim, hidden)

    def forward(
        self, x: Float[Tensor, "m t d"], h: Float[Tensor, "m t h"]
    ) -> tuple[Float[Tensor, "m t d"], Float[Tensor, "m t h"]]:
        """Return moved coordinates and new features."""
        attention, v, said = self.attend(h)
        return x + pulled(x, attention, self.x_mlp(v)), h + said

    def attend(
        self, h: Float[Tensor, "m t h"]
    ) -> tuple[Float[Tensor, "m t t"], Float[Tensor, "m t h"], Float[Tensor, "m t h"]]:
        """Return who looks at whom, the values, and what each frame is told."""
        frames = h.shape[1]
        at = torch.arange(frames, device=h.device)
        offsets = torch.arange(1 - frames, frames, device=h.device, dtype=h.dtype)
        rows = self.time_emb(waves(offsets, self.time_dim))
        between = rows[at[:, None] - at + frames - 1]  # (t, s, h)
        q, k, v = self.q_mlp(h), self.k_mlp(h), self.v_mlp(h)
        logits = q @ k.mT + torch.einsum("mth,tsh->mts", q, between)
        attention = logits.softmax(-1)
        return attention, v, attention @ v + torch.einsum("mts,tsh->mth", attention, between)


def pulled(
    x: Float[Tensor, "m t d"], attention: Float[Tensor, "m t t"], pull: Float[Tensor, "m t v"]
) -> Float[Tensor, "m t vd"]:
    """Return ``sum_s a[t, s] g[s] (x[t] - x[s])``, a vector for each of the pulls g."""
    near = (x - x.mean(1, keepdim=True))[..., None, :]  # differences are summed: keep terms small
    drawn = (pull[..., None] * near).flatten(-2)
    return ((attention @ pull)[..., None] * near).flatten(-2) - attention @ drawn


class EGTN(Pretrained, nn.Module):
    """The velocity, or the noise, of trajectories.

    It commutes with rotations, reflections and shifts of space and with the order of nodes. With
    ``given`` frames it has a prior too, :meth:`reference`: where futures start.

    Parameters
    ----------
    node_dim, edge_dim : int
        Invariant features of nodes and edges.
    hidden, layers, time_dim : int
    given, frames : int
        Frames told and frames made; without given ones a trajectory is made of noise whose mean
        over nodes and frames is 0.
    prior : str
        One of :data:`PRIORS`.
    prior_layers : int
        Of the learned prior.
    pre_norm : bool
        As the authors have it for pedestrians.

    Raises
    ------
    ValueError
        When a size is not usable.
    """

    def __init__(
        self,
        node_dim: int = 1,
        edge_dim: int = 1,
        hidden: int = 128,
        layers: int = 6,
        time_dim: int = 32,
        given: int = 10,
        frames: int = 20,
        prior: str = "learned",
        prior_layers: int = 2,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        least = {"node_dim": 1, "edge_dim": 0, "hidden": 1, "layers": 1, "time_dim": 4,
                 "given": 0, "frames": 1, "prior_layers": 1}  # fmt: skip
        sizes = {name: value for name, value in locals().items() if name in least}
        for name, value in sizes.items():
            if value < least[name]:
                raise ValueError(f"{name} must be at least {least[name]}, got {value}.")
        if prior not in PRIORS:
            raise ValueError(f"prior must be one of {', '.join(PRIORS)}, got {prior!r}.")
        if given == 1 and prior == "velocity":
            raise ValueError("prior=velocity needs two given frames, got 1.")
        self.given, self.frames, self.prior, self.time_dim = given, frames, prior, time_dim
        self.node_dim, self.edge_dim, self.hidden = node_dim, edge_dim, hidden
        self.input_linear = nn.Linear(node_dim + time_dim, hidden)
        self.s_modules, self.t_modules = self._stack(layers, pre_norm)
        if given and prior == "learned":
            self.input_linear_ref = nn.Linear(node_dim, hidden)
            self.s_modules_ref, self.t_modules_ref = self._stack(prior_layers, pre_norm)
            self.ws = nn.Parameter(torch.ones(frames))

    def moved(
        self,
        x: Float[Tensor, "m t d"],
        step: Float[Tensor, " m"],
        nodes: Tensor,
        graph: Graph,
        given: Float[Tensor, "m s d"] | None = None,
    ) -> tuple[Float[Tensor, "m t d"], Float[Tensor, "m t h"]]:
        """Return how far each node of each frame is moved, and its features: the authors' call.

        Parameters
        ----------
        x : Tensor, shape (m, t, d)
            Noisy frames.
        step : Tensor, shape (m,)
            Of their diffusion, 0 at the data and about 1000 at the noise.
        nodes : Tensor, shape (m, f) or (m, s + t, f)
        graph : Graph
        given : Tensor, shape (m, s, d), optional
            The frames before.
        """
        before = 0 if given is None else given.shape[1]
        place = x if given is None else torch.cat([given, x], 1)
        told = self._over(nodes, place.shape[1])
        level = waves(step.to(x), self.time_dim)[:, None].expand(-1, place.shape[1], -1)
        h = self.input_linear(torch.cat([told, level], -1))
        place, h = self._through(self.s_modules, self.t_modules, place, h, graph)
        return place[:, before:] - x, h[:, before:]

    def reference_of(
        self, given: Float[Tensor, "m s d"], nodes: Tensor, graph: Graph
    ) -> Float[Tensor, "m t d"]:
        """Return where futures start, of joined graphs."""
        if self.prior == "centre":
            return graph.mean(given).expand(-1, self.frames, -1)
        last = given[:, -1:].expand(-1, self.frames, -1)
        if self.prior == "last":
            return last
        if self.prior == "velocity":
            ahead = torch.arange(1, self.frames + 1, device=given.device).to(given)[None, :, None]
            return last + ahead * (given[:, -1:] - given[:, -2:-1])
        h = self.input_linear_ref(self._over(nodes, given.shape[1]))
        place, h = self._through(self.s_modules_ref, self.t_modules_ref, given, h, graph)
        weights = h.mean(-1, keepdim=True) * self.ws  # (m, s, t)
        weights = torch.cat([weights[:, :-1], 1 - weights[:, :-1].sum(1, keepdim=True)], 1)
        # The weights of a frame sum to one: away from its last place nothing is lost by rounding.
        return place[:, -1:] + weights.mT @ (place - place[:, -1:])

    def reference(self, told: Told) -> Float[Tensor, "b n t d"]:
        """Return where futures start, of padded graphs; 0 without given frames."""
        real, nodes = told["real"], told["nodes"]
        if not self.given:
            raise ValueError("the network forecasts nothing: it was made without given frames.")
        given = told["given"]
        found = given.new_zeros(*real.shape, self.frames, given.shape[-1])
        found[real] = self.reference_of(given[real], nodes[real], Graph.of(told)).to(found)
        return found

    def forward(
        self, x: Float[Tensor, "b n t d"], t: Float[Tensor, " b"], told: Told
    ) -> Float[Tensor, "b n t d"]:
        """Return the velocity of padded graphs, at times from 0 at the noise to 1 at the data.

        Parameters
        ----------
        x : Tensor, shape (b, n, t, d)
            Frames, less the reference where frames are given.
        t : Tensor, shape (b,)
        told : dict
            See :data:`~rectiflow_trajectories.networks.graph.Told`; with ``reference``.
        """
        real, graph = told["real"], Graph.of(told)
        step = (1000 * (1 - t.expand(len(x))))[graph.batch]
        place, given = centred(x, real), None
        if self.given:
            place, given = x + told["reference"], told["given"][real]
        out = torch.zeros_like(x)
        out[real] = self.moved(place[real], step, told["nodes"][real], graph, given)[0].to(out)
        return out if self.given else centred(out, real)

    def _over(self, nodes: Tensor, frames: int) -> Tensor:
        """Return features of each node in each frame."""
        return nodes[:, :frames] if nodes.ndim == 3 else nodes[:, None].expand(-1, frames, -1)

    def _stack(self, layers: int, pre_norm: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        """Return layers over nodes, and over frames."""
        width, edges = self.hidden, self.edge_dim
        spatial = (SpatialLayer(width, edges, pre_norm=pre_norm) for _ in range(layers))
        return nn.ModuleList(spatial), nn.ModuleList(
            TemporalLayer(width, self.time_dim) for _ in range(layers)
        )

    def _through(
        self, spatials: Any, temporals: Any, place: Tensor, h: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """Return coordinates and features after layers of both kinds in turn."""
        for spatial, temporal in zip(spatials, temporals, strict=True):
            place, h = temporal(*spatial(place, h, graph))
        return place, h
