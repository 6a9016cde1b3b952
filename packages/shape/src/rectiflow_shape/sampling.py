"""A request carried out: condition, flow, field, surface; lives for one call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.integrate import Moved, integrate
from rectiflow.randomness import KeyedNoise
from rectiflow.rectify import sample_generator
from torch import Tensor

from rectiflow_shape.data.conditions import short_caption
from rectiflow_shape.flow import Condition, guided_field
from rectiflow_shape.geometry import Extraction, Mesh, extract
from rectiflow_shape.geometry.topology import components
from rectiflow_shape.mosaic import MosaicField
from rectiflow_shape.networks.mosaic import MosaicTransformer
from rectiflow_shape.networks.vae import QUERY_CHUNK, TripoSGVae

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapePipeline
    from rectiflow_shape.request import Asked, Options

CRUMB = 1e-3
"""Share of the area below which a component of a generated mosaic is dropped."""

Tick = Callable[[float, float], None]
"""Called with what is done and all there is to do."""


class Sampler:
    """Makes the shapes of one request.

    Parameters
    ----------
    pipe : ShapePipeline
    options : Options
        As resolved.
    """

    def __init__(self, pipe: ShapePipeline, options: Options) -> None:
        self.pipe, self.options, self.network = pipe, options, pipe.network
        self.is_mosaic = isinstance(self.network, MosaicTransformer)
        self.device = pipe.device

    @torch.no_grad()
    def tokens(self, asked: Sequence[Asked], tick: Tick | None = None) -> Iterator[Tensor]:
        """Yield the tokens (n, c) of each shape, some at once through the network."""
        rows, done = self.options.rows, 0
        for start in range(0, len(asked), rows):
            group = asked[start : start + rows]
            cond = self.condition(group)
            noise = self.noise([each.index for each in group])

            def moved(at: Moved, done: int = done, size: int = len(group)) -> None:
                if tick is not None:
                    tick(done + size * (at.index + 1) / at.count, len(asked))

            with self.only("network"):
                yield from self.flow(noise, cond, moved, [each.index for each in group])
            done += len(group)

    def flow(
        self, noise: Tensor, cond: Condition, hook: Any = None, indices: Sequence[int] = ()
    ) -> Tensor:
        """Carry noise (b, n, c) to tokens; indices number the rows where a solver draws more."""
        options, dtype, moves = self.options, self.pipe.dtype, self.options.moves
        field = guided_field(
            self.network,
            cond,
            float(options.guidance or 1),
            interval=options.interval,
            rule=options.rule,
            moves=moves,
        )
        fresh = KeyedNoise(options.seed, indices or range(len(noise)))
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            found: Tensor = integrate(field, noise, moves, hook=hook, noise=fresh)
        return found.float()

    def noise(self, indices: Sequence[int]) -> Tensor:
        """Draw on the CPU, so that a seed means the same noise on every machine."""
        channels = self.network.channels if self.is_mosaic else self.network.in_channels
        shape = (int(self.options.tokens or 1), channels)
        draws = [
            torch.randn(shape, generator=sample_generator(self.options.seed, i)) for i in indices
        ]
        return torch.stack(draws).to(self.device)

    def condition(self, asked: Sequence[Asked]) -> Condition:
        """Return what the network is told of each shape."""
        settings, network = self.pipe.settings, self.network
        if self.pipe.image is not None:
            images = [each.image for each in asked if each.image is not None]
            if len(images) < len(asked):
                raise ValueError("these weights make shapes of images, got none; expected one.")
            with self.only("image"):
                return {"context": self.pipe.image(torch.stack(images).to(self.device)).float()}
        if any(each.image is not None for each in asked):
            raise ValueError(
                "these weights know no images, got one; expected a category or words. Use weights "
                "with an image encoder, such as the released TripoSG."
            )
        cond = {}
        unknown = [e.category for e in asked if e.category not in (None, *settings.classes)]
        if unknown:
            raise ValueError(
                f"unknown category {unknown[0]!r}; known: {', '.join(settings.classes)}."
            )
        if self.is_mosaic:
            labels = [
                settings.classes.index(e.category) if e.category else network.classes for e in asked
            ]
            cond["label"] = torch.tensor(labels, device=self.device)
        texts = [each.prompt for each in asked]
        if not self.is_mosaic:  # a class is told by its words
            texts = [e.prompt or (e.category and short_caption(e.category)) for e in asked]
        if settings.text_encoder is not None:
            cond["context"] = self.pipe.text_states(texts).to(self.device)
        elif any(texts):
            raise ValueError("these weights know no words, got a prompt; expected a category.")
        return cond

    @torch.no_grad()
    def surface(self, tokens: Tensor) -> Extraction:
        """Return the surface of tokens (n, c)."""
        depth = int(self.options.depth or 7)
        if self.is_mosaic:
            field = MosaicField(self.network.mosaic(tokens))
            found = extract(field.inside_positive, depth=depth, device=self.device)
            return replace(found, mesh=without_crumbs(found.mesh))
        with self.only("vae"):
            return latent_surface(self.pipe.vae, tokens, depth, self.pipe.dtype)

    @contextmanager
    def only(self, name: str) -> Iterator[None]:
        """Have one part on the device, and the others too unless memory is low."""
        parts = self.pipe.parts
        if self.options.low_memory:
            for other, part in parts.items():
                part.to(self.device if other == name else "cpu")
        yield
        if self.options.low_memory:
            for part in parts.values():
                part.to("cpu")
            parts["network"].to(self.device)


def without_crumbs(mesh: Mesh, share: float = CRUMB) -> Mesh:
    """Drop components with less than a share of the area, which grids that disagree leave."""
    parts = components(mesh.faces)
    areas = np.bincount(parts, mesh.areas)
    kept = areas >= min(share * areas.sum(), areas.max())
    return mesh.of_faces(kept[parts])


def latent_surface(
    vae: TripoSGVae, latents: Tensor, depth: int, dtype: torch.dtype = torch.float32
) -> Extraction:
    """Return the surface of latents (n, c): keys once, then only points near it."""
    device = latents.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        keys = vae.keys(latents[None])

        def field(xyz: Tensor) -> Tensor:
            return vae.field(keys, xyz[None])[0]

        return extract(
            field, depth=depth, truncation=vae.truncation, device=device, chunk=QUERY_CHUNK
        )
