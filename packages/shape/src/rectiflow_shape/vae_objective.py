"""What training minimises to make TripoSG's autoencoder: distances, normals, an eikonal term."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from rectiflow_shape.networks.vae import TripoSGVae
from rectiflow_shape.tokens import choose_tokens

if TYPE_CHECKING:
    from jaxtyping import Float


class VaeObjective(nn.Module):
    r"""Reconstruction of a truncated distance from a posterior sample, and its divergence.

    .. math:: L = L_{sdf} + 10\, L_{sn} + 0.1\, L_{eik} + 0.001\, L_{kl}

    with :math:`L_{sdf} = |s - \hat s| + (s - \hat s)^2` in units of the truncation distance
    :math:`\tau` near the surface and in the volume, :math:`L_{sn} = 1 - \langle \nabla D /
    \|\nabla D\|, n \rangle` on the surface, and :math:`L_{eik} = (\tau \|\nabla D\| - 1)^2` there,
    where D is negative inside: a perfect field costs nothing. The divergence is the mean over
    numbers, not their sum.

    A batch holds ``surface (b, p, 6)``, ``near (b, q, 4)`` and ``volume (b, q, 4)``: points with
    normals, and points with signed distances, negative inside.

    Parameters
    ----------
    vae : TripoSGVae
        With a truncation distance.
    tokens : sequence of int
        Numbers of tokens, of which each batch draws one.
    normals : int
        Points of the surface whose gradient is looked at; 0 leaves both terms out.
    sn_weight, eikonal_weight, kl_weight : float
        As above.

    References
    ----------
    Li et al., "TripoSG" (arXiv 2502.06608), section 3.2.
    """

    def __init__(
        self,
        vae: TripoSGVae,
        *,
        tokens: Sequence[int] = (512, 2048),
        normals: int = 8192,
        sn_weight: float = 10.0,
        eikonal_weight: float = 0.1,
        kl_weight: float = 0.001,
    ) -> None:
        super().__init__()
        if vae.truncation is None:
            raise ValueError(
                "the autoencoder has no truncation distance, got None; expected one such as 0.1. "
                "Set vae.truncation."
            )
        if min((sn_weight, eikonal_weight, kl_weight)) < 0 or normals < 0 or not tokens:
            raise ValueError("weights and normals must not be negative, and tokens not be empty.")
        self.network, self.truncation = vae, vae.truncation
        self.tokens, self.normals = tuple(tokens), normals
        self.sn_weight, self.eikonal_weight = sn_weight, eikonal_weight
        self.kl_weight = kl_weight

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss and its terms."""
        surface, samples = batch["surface"], torch.cat([batch["near"], batch["volume"]], dim=1)
        pick = int(torch.randint(len(self.tokens), (), generator=generator, device=surface.device))
        queries = choose_tokens(surface, self.tokens[pick], generator)
        posterior = self.network.encode(surface, queries)
        mean = posterior.mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        keys = self.network.keys(posterior.sample(noise))
        wanted = (samples[..., 3] / self.truncation).clamp(-1, 1)
        off = -self.network.field(keys, samples[..., :3]) - wanted
        found = {"sdf": off.abs().mean() + off.square().mean(), "kl": posterior.kl().mean()}
        found["kl"] = found["kl"] / mean[0].numel()
        loss = found["sdf"] + self.kl_weight * found["kl"]
        if self.normals:
            order = torch.randperm(surface.shape[1], generator=generator, device=surface.device)
            some = surface[:, order[: self.normals]]
            # On surfaces inside another part the distance is not zero, and has another gradient.
            found |= self.slopes(keys, some[..., :3], some[..., 3:])
            loss = loss + self.sn_weight * found["normal"]
            loss = loss + self.eikonal_weight * found["eikonal"]
        return {"loss": loss, **found}

    def slopes(
        self,
        keys: tuple[Tensor, Tensor],
        xyz: Float[Tensor, "b m 3"],
        normals: Float[Tensor, "b m 3"],
    ) -> dict[str, Tensor]:
        """Return what directions and lengths of the gradient on the surface cost."""
        with torch.enable_grad():
            at = xyz.detach().requires_grad_()
            with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
                values = -self.network.field(keys, at)
                (slope,) = torch.autograd.grad(values.sum(), at, create_graph=self.training)
        cosine = F.cosine_similarity(slope, normals, dim=-1)
        length = self.truncation * slope.norm(dim=-1)
        return {"normal": (1 - cosine).mean(), "eikonal": (length - 1).square().mean()}
