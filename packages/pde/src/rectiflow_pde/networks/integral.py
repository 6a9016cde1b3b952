"""Kernel integrals: what each point gets from the points around it, by a learnt kernel."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rectiflow_pde.networks.neighbours import Neighbours

if TYPE_CHECKING:
    from jaxtyping import Float

TRANSFORMS = ("linear", "nonlinear", "linear_kernelonly", "nonlinear_kernelonly")
PAIRS = 1 << 15
"""Pairs through the kernel at a time, so that memory does not grow with their number: few enough
for the cache of a processor. An accelerator takes eight times as many."""


class PointMlp(nn.Module):
    """Linear layers with exact GELU between them, of these widths."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.fcs: Any = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, x: Float[Tensor, "*n a"]) -> Float[Tensor, "*n b"]:
        """Return the mapped features."""
        for layer in self.fcs[:-1]:
            x = F.gelu(layer(x))
        return self.fcs[-1](x)


class FourierEmbedding(nn.Module):
    """Learnt waves of a position: ``cos`` and ``sin`` of ``2 pi (W p + b)``.

    Parameters
    ----------
    channels : int
        Out; half of them cosines.
    dims : int
        Of a position.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dims, channels // 2)

    def forward(self, p: Float[Tensor, "*n d"]) -> Float[Tensor, "*n c"]:
        """Return the waves at positions."""
        z = 2 * math.pi * self.linear(p)
        return torch.cat([z.cos(), z.sin()], -1)


class IntegralTransform(nn.Module):
    r"""Average a kernel times a function over the neighbours of each query.

    .. math:: g(x_i) = \frac{1}{|N_i|} \sum_{j \in N_i} k(y_j, x_i[, f_j]) f_j

    Where nothing is near, the result is zero. Pairs go through the kernel block by block; when
    gradients are wanted a block is computed again in the backward pass.

    Parameters
    ----------
    widths : sequence of int
        Of the kernel: in, hidden, out.
    kind : str
        ``linear`` as above; ``nonlinear`` with the function in the kernel's input; these with
        ``_kernelonly`` leave out the factor :math:`f_j`.

    References
    ----------
    Li et al., "Neural Operator: Graph Kernel Network" (arXiv 2003.03485); Li et al., GINO
    (NeurIPS 2023).
    """

    def __init__(self, widths: Sequence[int], kind: str = "linear") -> None:
        super().__init__()
        if kind not in TRANSFORMS:
            raise ValueError(f"a transform is one of {', '.join(TRANSFORMS)}, got {kind!r}.")
        self.kind = kind
        self.mlp = PointMlp(widths)

    def forward(
        self,
        y: Float[Tensor, "s e"],
        x: Float[Tensor, "q e"],
        f: Float[Tensor, "s c"] | None,
        near: Neighbours,
        weights: Float[Tensor, " s"] | None = None,
    ) -> Float[Tensor, "q c"]:
        """Return the integral at each query.

        Parameters
        ----------
        y, x : Tensor, shapes (s, e) and (q, e)
            Embedded positions of sources and queries.
        f : Tensor, shape (s, c)
            The function at the sources; None for ``linear_kernelonly``.
        near : Neighbours
        weights : Tensor, shape (s,), optional
            Quadrature weights: their sum takes the place of the average.
        """
        first, *layers = self.mlp.fcs
        told = [y, x]
        if self.kind.startswith("nonlinear"):
            assert f is not None
            told.append(f)
        # The first layer is linear in what it is told, and each point is told of many times.
        of_y, of_x, *of_f = first.weight.split([part.shape[1] for part in told], 1)
        at_sources, at_queries = F.linear(y, of_y), F.linear(x, of_x, first.bias)
        if of_f:
            at_sources = at_sources + F.linear(told[2], of_f[0])
        factor = None if self.kind.endswith("kernelonly") else f

        def block(at_sources: Tensor, at_queries: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
            value = at_sources[rows] + at_queries[columns]
            for layer in layers:
                value = layer(F.gelu(value))
            value = value if factor is None else value * factor[rows]
            return value if weights is None else value * weights[rows, None]

        out = y.new_zeros(near.n_queries, self.mlp.fcs[-1].out_features)
        several = torch.is_grad_enabled() and len(near.source) > PAIRS
        size = PAIRS if y.device.type == "cpu" else 8 * PAIRS
        for pairs in zip(near.source.split(size), near.query.split(size), strict=True):
            rows, columns = (index.long() for index in pairs)
            args = at_sources, at_queries, rows, columns
            part: Any = checkpoint(block, *args, use_reentrant=False) if several else block(*args)
            out.index_add_(0, columns, part.to(out))
        if weights is not None:
            return out
        return out / near.counts.clamp_min(1)[:, None].to(out)


def lattice(shape: Sequence[int], extent: Sequence[float] | None = None) -> Float[Tensor, "g d"]:
    """Return the points of a regular grid that fills ``[0, extent]``, last axis fastest.

    Examples
    --------
    >>> lattice((2, 2)).tolist()
    [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    ends = extent or (1.0,) * len(shape)
    axes = [torch.linspace(0, end, n) for n, end in zip(shape, ends, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
