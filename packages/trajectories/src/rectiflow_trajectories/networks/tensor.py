"""EGTN with tensor products of e3nn: features are scalars and vectors.

Coordinates of the plane are those of space whose third is 0, and stays so by symmetry.

References
----------
Thomas et al., "Tensor Field Networks" (2018); Geiger and Smidt, "e3nn: Euclidean Neural Networks"
(arXiv 2207.09453); Batzner et al., "E(3)-equivariant graph neural networks for data-efficient and
accurate interatomic potentials" (Nature Communications 2022), whose products go channel by channel.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rectiflow_trajectories.networks.egtn import EGTN, Mlp, TemporalLayer, pulled
from rectiflow_trajectories.networks.graph import Graph, nodes_mean

if TYPE_CHECKING:
    from jaxtyping import Float


class TensorSpatial(nn.Module):
    """Messages between the nodes of each frame: products of features and spherical harmonics.

    Features are ``hidden`` scalars and a quarter as many vectors. How much there is of each product
    depends on the scalars of both nodes, their distance, and what is told of the edge.

    Parameters
    ----------
    hidden, edge_dim : int
    """

    def __init__(self, hidden: int, edge_dim: int) -> None:
        super().__init__()
        o3, vectors = _o3(), hidden // 4
        features, self.waves = o3.Irreps(f"{hidden}x0e + {vectors}x1o"), o3.Irreps("0e + 1o + 2e")
        made: list[Any] = []
        paths = []
        for i, (count, own) in enumerate(features):
            for j, (_, wave) in enumerate(self.waves):
                for kind in own * wave:
                    if kind in features:
                        paths.append((i, j, len(made), "uvu", True))
                        made.append((count, kind))
        with torch.device("cpu"):  # tables of constants, even where only sizes are wanted
            self.product = o3.TensorProduct(
                features, self.waves, made, paths, shared_weights=False, internal_weights=False
            )
            self.mix = o3.Linear(made, features)
            self.keep = o3.Linear(f"{vectors}x1o", f"{vectors}x1o")
            self.shift = o3.Linear(f"{vectors}x1o", "1x1o")
        self.split, self.norm = (hidden, 3 * vectors), nn.LayerNorm(hidden)
        self.edge_mlp = Mlp(2 * hidden + 1 + edge_dim, hidden, self.product.weight_numel)
        self.node_mlp = Mlp(2 * hidden + vectors, hidden, hidden + vectors)

    def forward(
        self, x: Float[Tensor, "m t 3"], f: Float[Tensor, "m t f"], graph: Graph
    ) -> tuple[Float[Tensor, "m t 3"], Float[Tensor, "m t f"]]:
        """Return moved coordinates and new features."""
        (i, j), (h, u) = graph.edges, f.split(self.split, -1)
        apart = x[i] - x[j]
        square = apart.square().sum(-1, keepdim=True)
        # Shorter than 1, and smooth at 0, where loops and nodes in one place are.
        near = apart / ((square + 1e-8).sqrt() + 1)
        waves = _o3().spherical_harmonics(self.waves, near, False, "component")
        edge = graph.attributes
        edge = edge[:, None].expand(-1, x.shape[1], -1) if edge.ndim == 2 else edge
        # Products of products grow fast: what enters a product, or shares of one, is normalised.
        own = self.norm(h)
        shares = self.edge_mlp(torch.cat([own[i], own[j], (square + 1e-2).log(), edge], -1))
        product = self.product(torch.cat([own, u], -1)[j], waves, shares)
        told, turned = self.mix(nodes_mean(product, i, len(x))).split(self.split, -1)
        vectors = (self.keep(u) + turned).unflatten(-1, (-1, 3))
        said = self.node_mlp(torch.cat([own, told, vectors.square().sum(-1).log1p()], -1))
        more, gates = said[..., : h.shape[-1]], said[..., h.shape[-1] :]
        u = (vectors * gates.sigmoid()[..., None]).flatten(-2)
        return x + self.shift(u), torch.cat([h + more, u], -1)


class TensorTemporal(TemporalLayer):
    """Attention over the frames of each node: vectors are carried, and drawn from motions."""

    def __init__(self, hidden: int, time_dim: int) -> None:
        super().__init__(hidden, time_dim)
        vectors = hidden // 4
        self.split, self.norm = (hidden, 3 * vectors), nn.LayerNorm(hidden)
        self.u_mlp = Mlp(hidden, hidden, vectors)
        with torch.device("cpu"):
            self.carry = _o3().Linear(f"{vectors}x1o", f"{vectors}x1o")

    def forward(
        self, x: Float[Tensor, "m t 3"], h: Float[Tensor, "m t f"]
    ) -> tuple[Float[Tensor, "m t 3"], Float[Tensor, "m t f"]]:
        """Return moved coordinates and new features."""
        h, u = h.split(self.split, -1)
        attention, v, said = self.attend(self.norm(h))
        u = u + attention @ self.carry(u) + pulled(x, attention, self.u_mlp(v))
        return x + pulled(x, attention, self.x_mlp(v)), torch.cat([h + said, u], -1)


class TensorEGTN(EGTN):
    """EGTN whose layers pass tensor products of e3nn; all else, and what it is told, is EGTN's.

    ``hidden``, a multiple of 4, counts the scalars; there are a quarter as many vectors. It takes
    no ``pre_norm``.

    Raises
    ------
    ImportError
        When e3nn is not installed.
    """

    def _stack(self, layers: int, pre_norm: bool) -> tuple[nn.ModuleList, nn.ModuleList]:
        if self.hidden % 4:
            raise ValueError(f"hidden must be a multiple of 4, got {self.hidden}.")
        if pre_norm:
            raise ValueError("pre_norm is EGTN's alone; expected false.")
        spatial = (TensorSpatial(self.hidden, self.edge_dim) for _ in range(layers))
        return nn.ModuleList(spatial), nn.ModuleList(
            TensorTemporal(self.hidden, self.time_dim) for _ in range(layers)
        )

    def _through(
        self, spatials: Any, temporals: Any, place: Tensor, h: Tensor, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        dimensions, vectors = place.shape[-1], 3 * (self.hidden // 4)
        place, h = nn.functional.pad(place, (0, 3 - dimensions)), nn.functional.pad(h, (0, vectors))
        place, h = super()._through(spatials, temporals, place, h, graph)
        return place[..., :dimensions], h[..., : self.hidden]


def _o3() -> Any:
    try:
        from e3nn import o3
    except ImportError as error:
        raise ImportError(
            "the network is made of e3nn's tensor products, and e3nn is not installed; expected "
            "it. Install rectiflow-trajectories[e3nn]."
        ) from error
    return o3
