"""Our small codec: patches of a rastered flow by their principal components, nothing to train."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class PatchConfig:
    """Sizes of the codec.

    Parameters
    ----------
    fields : int
        Channels of the flow.
    cells : tuple of int
        Of the raster along x and y.
    frames : int
        Of a trajectory.
    patch : tuple of int
        Cells and frames of a patch along x, y and t.
    latent : int
        Components that are kept.
    whitening : float
        Power of a component's deviation that it is divided by: with 0 the latents have the
        flow's own energies, with 1 they all have one spread.
    """

    fields: int = 3
    cells: tuple[int, int] = (96, 24)
    frames: int = 24
    patch: tuple[int, int, int] = (6, 6, 8)
    latent: int = 64
    whitening: float = 0.5

    def __post_init__(self) -> None:
        for name in ("cells", "patch"):  # JSON has lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        whole = (*self.cells, self.frames)
        if any(n % p for n, p in zip(whole, self.patch, strict=True)):
            raise ValueError(f"patches of {self.patch} do not fill {whole}.")
        if not 1 <= self.latent <= self.values:
            raise ValueError(f"latent must lie in 1 to {self.values}, got {self.latent}.")

    @property
    def values(self) -> int:
        """Numbers of a patch."""
        return self.fields * self.patch[0] * self.patch[1] * self.patch[2]

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches along x, y and t."""
        x, y, t = (n // p for n, p in zip((*self.cells, self.frames), self.patch, strict=True))
        return (x, y, t)


class PatchCodec(Pretrained, nn.Module):
    """Encode rastered flows into the principal components of their patches, and decode them.

    The best linear code of its size, found in seconds by :meth:`fit`: what a small convolutional
    autoencoder reaches after hours on a CPU. The mean flow is taken out place by place first.

    Parameters
    ----------
    sizes : PatchConfig, optional

    References
    ----------
    Lumley, "The structure of inhomogeneous turbulent flows" (1967): proper orthogonal
    decomposition.
    """

    mean: Float[Tensor, "k x y"]
    std: Float[Tensor, " k"]
    basis: Float[Tensor, "v c"]
    spread: Float[Tensor, " c"]

    def __init__(self, sizes: PatchConfig | None = None) -> None:
        super().__init__()
        self.sizes = c = sizes or PatchConfig()
        self.register_buffer("mean", torch.zeros(c.fields, *c.cells))
        self.register_buffer("std", torch.ones(c.fields))
        self.register_buffer("basis", torch.eye(c.values, c.latent))
        self.register_buffer("spread", torch.ones(c.latent))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make a codec from the configuration in ``config.json``."""
        return cls(None if config["sizes"] is None else PatchConfig(**config["sizes"]))

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Channels and axes x, y, t of a latent."""
        return (self.sizes.latent, *self.sizes.grid)

    @property
    def is_fitted(self) -> bool:
        """Whether the components are of any data."""
        return bool((self.spread != 1).any())

    @torch.no_grad()
    def fit(self, flows: Iterable[Float[Tensor, "k x y t"]]) -> None:
        """Find mean and components of flows, each as long as a trajectory or longer.

        Every flow is taken as it is and upside down, so that the code does not prefer a side.
        """
        c = self.sizes
        whole = [flow.double() for flow in flows]
        turn = torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)[: c.fields, None, None, None]
        whole += [flow.flip(2) * turn for flow in whole]
        mean = torch.stack([flow.mean(-1) for flow in whole]).mean(0)
        off = [flow - mean[..., None] for flow in whole]
        std = torch.stack([flow.square().mean((1, 2, 3)) for flow in off]).mean(0).sqrt()
        total, count = torch.zeros(c.values, c.values, dtype=torch.float64), 0
        for flow in off:
            for begin in range(0, flow.shape[-1] - c.patch[2] + 1, max(c.patch[2] // 4, 1)):
                cut = flow[None, ..., begin : begin + c.patch[2]] / std[:, None, None, None]
                rows = _patches(cut, c.patch).flatten(0, 3)
                total += rows.T @ rows
                count += len(rows)
        energy, vectors = torch.linalg.eigh(total / count)
        spread = energy.flip(0)[: c.latent].clamp_min(1e-12).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.basis.copy_(vectors.flip(1)[:, : c.latent])
        # Divided once more by a number that gives all latents together the spread 1.
        whitened = spread ** (1 - c.whitening)
        scale = whitened.square().mean().sqrt()
        self.spread.copy_(spread**c.whitening * scale)

    def encode(self, flows: Float[Tensor, "b k x y t"]) -> Float[Tensor, "b c i j l"]:
        """Return the latents of flows."""
        off = (flows - self.mean[..., None]) / self.std[:, None, None, None]
        return (_patches(off, self.sizes.patch) @ self.basis / self.spread).movedim(-1, 1)

    def decode(self, z: Float[Tensor, "b c i j l"]) -> Float[Tensor, "b k x y t"]:
        """Return the flows of latents."""
        c = self.sizes
        rows = (z.movedim(1, -1) * self.spread) @ self.basis.T
        rows = rows.unflatten(-1, (c.fields, *c.patch))  # b, i, j, l, k, and a patch's x, y, t
        off = rows.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(len(z), c.fields, *c.cells, c.frames)
        return off * self.std[:, None, None, None] + self.mean[..., None]


def _patches(
    flows: Float[Tensor, "b k x y t"], patch: tuple[int, int, int]
) -> Float[Tensor, "b i j l v"]:
    """Return the patches of flows as rows: channel, then x, y, t."""
    b, k, x, y, t = flows.shape
    px, py, pt = patch
    split = flows.reshape(b, k, x // px, px, y // py, py, t // pt, pt)
    return split.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
