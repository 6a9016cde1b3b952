"""Poisson's equation on cells, matrix-free, and how it is solved without a trained network.

The unknowns are pressures in the fluid cells of a grid; ``(A x)_i`` is the sum of ``x_i - x_j``
over the neighbours that are no wall: in open cells, and outside of the box, the pressure is zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class Poisson:
    """The five-point Laplacian, positive definite.

    Parameters
    ----------
    fluid : Tensor, shape (h, w), bool
        Cells with an unknown.
    wall : Tensor, shape (h, w), bool, optional
        Cells that nothing enters; all that are no fluid if absent. Other cells are open.
    closed : bool
        Whether the box is walled, not open.

    Raises
    ------
    ValueError
        If some fluid touches nothing open: its pressure is known up to a constant only.
    """

    fluid: Bool[Tensor, "h w"]
    wall: Bool[Tensor, "h w"] | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        from scipy.ndimage import label

        wall = ~self.fluid if self.wall is None else self.wall
        if self.fluid.ndim != 2 or wall.shape != self.fluid.shape or (wall & self.fluid).any():
            raise ValueError(
                f"fluid and wall must be of one shape (h, w) and disjoint, got "
                f"{tuple(self.fluid.shape)} and {tuple(wall.shape)}."
            )
        object.__setattr__(self, "wall", wall)
        parts, count = label(self.fluid.numpy())
        held = self.diagonal > self._around(self.fluid).sum(0)
        loose = count - len(np.unique(parts[(held & self.fluid).numpy()]))
        if loose:
            raise ValueError(
                f"{loose} of {count} regions of fluid touch nothing open, so that their pressure "
                "is known up to a constant only; expected none. Open a cell of each."
            )

    def _around(self, cells: Tensor, outside: bool = False) -> Float[Tensor, "4 h w"]:
        """Values of the four neighbours."""
        padded = F.pad(cells.double()[None], (1, 1, 1, 1), value=float(outside))[0]
        return torch.stack(
            [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        )

    @cached_property
    def diagonal(self) -> Float[Tensor, "h w"]:
        """Neighbours that are no wall, in fluid cells; float64."""
        assert self.wall is not None
        return self.fluid * (4 - self._around(self.wall, self.closed).sum(0))

    def __call__(self, x: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
        """Apply it, by shifted sums."""
        inside = x * self.fluid.to(x)
        found = self.diagonal.to(x) * inside
        found[..., 1:, :] -= inside[..., :-1, :]
        found[..., :-1, :] -= inside[..., 1:, :]
        found[..., :, 1:] -= inside[..., :, :-1]
        found[..., :, :-1] -= inside[..., :, 1:]
        return found * self.fluid.to(x)

    def matrix(self) -> Any:
        """Return it as a sparse matrix of the fluid cells, row by row."""
        import scipy.sparse as sp

        number = np.full(self.fluid.shape, -1)
        fluid = self.fluid.numpy()
        number[fluid] = np.arange(int(fluid.sum()))
        pairs = []
        for one, other in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
            both = (one >= 0) & (other >= 0)
            pairs.append(np.stack([one[both], other[both]]))
        i, j = np.concatenate(pairs, 1)
        below = sp.csr_matrix((-np.ones(len(i)), (i, j)), shape=2 * (int(fluid.sum()),))
        return (below + below.T + sp.diags(self.diagonal.numpy()[fluid])).tocsr()


def incomplete_cholesky(matrix: Any) -> Any:
    """Return the lower factor of a five-point matrix without fill, IC(0).

    Neighbours of a cell are no neighbours of each other, so that each row follows from the
    diagonal of the rows before.
    """
    import scipy.sparse as sp

    lower = sp.tril(matrix, -1).tocsr()
    diagonal = np.sqrt(matrix.diagonal())
    starts, columns, values = lower.indptr, lower.indices, lower.data
    for row in range(matrix.shape[0]):
        inside = slice(starts[row], starts[row + 1])
        values[inside] /= diagonal[columns[inside]]
        diagonal[row] = np.sqrt(diagonal[row] ** 2 - (values[inside] ** 2).sum())
    return (lower + sp.diags(diagonal)).tocsc()


def cholesky_directions(poisson: Poisson) -> Any:
    """Return ``f(r) = (L L^T)^-1 r`` of the incomplete factor: the preconditioner of ICPCG."""
    from scipy.sparse.linalg import splu

    told = {"permc_spec": "NATURAL", "diag_pivot_thresh": 0.0, "options": {"SymmetricMode": True}}
    solved = splu(incomplete_cholesky(poisson.matrix()), **told)
    fluid = poisson.fluid

    def direction(r: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
        found = torch.zeros_like(r, dtype=torch.float64)
        half = solved.solve(r[fluid].double().numpy())
        found[fluid] = torch.from_numpy(solved.solve(half, trans="T"))
        return found.to(r)

    return direction
