"""A mesh through a representation and back, and how far the result is from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_shape.data.mosaics import THICKNESS, outline_of
from rectiflow_shape.geometry import Mesh, SignedDistance, extract, surface_points
from rectiflow_shape.metrics import chamfer_l1, f_score, iou, normal_consistency
from rectiflow_shape.mosaic import FitSettings, Fitted, MosaicField, fit
from rectiflow_shape.networks.vae import TripoSGVae
from rectiflow_shape.sampling import latent_surface
from rectiflow_shape.tokens import choose_tokens

if TYPE_CHECKING:
    from rectiflow_shape.geometry import Extraction

POINTS = 20_000
"""On each surface, and as many in the box, that distances are measured with."""

SURFACE = 20_480
"""Points with normals that an autoencoder is shown, as published for its training."""


@dataclass(frozen=True)
class Encoded:
    """A mesh as an autoencoder has it: ``latents (n, c)`` and what they were drawn from."""

    latents: Tensor
    mean: Tensor


def mosaic_of(
    mesh: Mesh,
    settings: FitSettings,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> Fitted:
    """Fit a mosaic to a normalised mesh."""
    points, normals, distance = outline_of(mesh, generator)
    return fit(points, normals, distance, settings, generator=generator, device=device)


@torch.no_grad()
def encode(
    vae: TripoSGVae,
    mesh: Mesh,
    tokens: int,
    generator: torch.Generator,
    *,
    surface: int = SURFACE,
    sample: bool = False,
) -> Encoded:
    """Encode the surface that bounds a normalised mesh's inside.

    Parameters
    ----------
    vae : TripoSGVae
    mesh : Mesh
    tokens : int
        How many.
    generator : torch.Generator
        On the CPU; draws points, and the sample.
    surface : int
        Points that are shown.
    sample : bool
        Take a sample of the posterior, as the authors do, not its mean.
    """
    device = next(vae.parameters()).device
    points, normals = SignedDistance(mesh, THICKNESS).surface(surface, generator)
    cloud = torch.cat([points, normals], dim=-1)[None].float()
    queries = choose_tokens(cloud, tokens, generator)
    posterior = vae.encode(cloud.to(device), queries.to(device))
    noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
    latents = posterior.sample(noise) if sample else posterior.mean
    return Encoded(latents[0], posterior.mean[0])


def by_mosaic(fitted: Fitted, depth: int, device: torch.device | str = "cpu") -> Extraction:
    """Extract the surface of a fitted mosaic."""
    field = MosaicField(fitted.mosaic.to(device))
    return extract(field.inside_positive, depth=depth, device=device)


def by_vae(vae: TripoSGVae, encoded: Encoded, depth: int) -> Extraction:
    """Extract the surface of encoded latents."""
    with torch.no_grad():
        return latent_surface(vae, encoded.latents, depth)


def compare(found: Mesh, reference: Mesh, generator: torch.Generator) -> dict[str, float]:
    """Return how far a mesh is from a reference; both in the box of normalised shapes.

    ``chamfer_l1``, ``f_score`` at 0.02 and ``normal_consistency`` by points of both surfaces, the
    reference's being that which bounds its inside; ``iou`` by points of the box.
    """
    distance = SignedDistance(reference, THICKNESS)
    x, nx = surface_points(found, POINTS, generator)
    y, ny = distance.surface(POINTS, generator)
    box = torch.rand(POINTS, 3, generator=generator, dtype=torch.float64) * 2 - 1
    inside = SignedDistance(found)(box) < 0
    told = {
        "chamfer_l1": chamfer_l1(x, y),
        "f_score": f_score(x, y),
        "normal_consistency": normal_consistency(x, nx, y, ny),
        "iou": iou(inside, distance(box) < 0),
    }
    return {name: float(value) for name, value in told.items()}
