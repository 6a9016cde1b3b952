"""The object users hold: a category, words or an image in, a closed mesh out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.conditioning import TextEncoder
from rectiflow.costs import Load, Work
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.solvers import Euler
from rectiflow.storage.pretrained import CONFIG, find_pretrained
from rectiflow.storage.reading import read_json
from torch import Tensor, nn

from rectiflow_shape.geometry import Mesh
from rectiflow_shape.networks.dit import TripoSGDiT
from rectiflow_shape.networks.mosaic import MosaicTransformer
from rectiflow_shape.networks.vae import TripoSGVae
from rectiflow_shape.request import Asked, Options
from rectiflow_shape.result import ShapeResult, ShapeSample, sample_name
from rectiflow_shape.sampling import Sampler, Tick
from rectiflow_shape.settings import ShapeSettings

if TYPE_CHECKING:
    from rectiflow_shape.geometry import Extraction
    from rectiflow_shape.networks.dinov2 import ImageEncoder


class ShapePipeline(Pipeline):
    """Makes shapes by Mosaic-SDF, or by TripoSG.

    Parameters
    ----------
    network : MosaicTransformer or TripoSGDiT
        The flow's network.
    vae : TripoSGVae, optional
        Of its latents; mosaics have none.
    image : ImageEncoder, optional
        Where the condition is an image.
    settings : ShapeSettings, optional
    dtype : torch.dtype
        ``bfloat16`` runs the networks under autocast.

    References
    ----------
    Yariv et al., "Mosaic-SDF for 3D Generative Models" (CVPR 2024); Li et al., "TripoSG" (arXiv
    2502.06608).
    """

    shipped = Path(__file__).parent / "pretrained"
    settings_kind = ShapeSettings

    def __init__(
        self,
        network: MosaicTransformer | TripoSGDiT,
        vae: TripoSGVae | None = None,
        image: ImageEncoder | None = None,
        *,
        settings: ShapeSettings | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if (vae is None) != isinstance(network, MosaicTransformer):
            raise ValueError(
                f"a {type(network).__name__} goes {'with' if vae is None else 'without'} an "
                f"autoencoder, got {'none' if vae is None else 'one'}."
            )
        parts: dict[str, nn.Module | None] = {"network": network, "vae": vae, "image": image}
        super().__init__(parts, settings=settings or ShapeSettings(), dtype=dtype)
        self.vae: Any = vae
        self.image: Any = image

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the classes of flow, autoencoder and image encoder."""
        from rectiflow_shape.networks.dinov2 import ImageEncoder

        flows = (MosaicTransformer, TripoSGDiT)
        return {"network": flows, "vae": TripoSGVae, "image": ImageEncoder}

    @classmethod
    def load_official(cls, path: Path) -> Self:
        """Load the authors' folder; see :func:`rectiflow_shape.weights.load_official`."""
        from rectiflow_shape.weights import load_official

        if not (path / "transformer").is_dir():
            return super().load_official(path)
        found: Any = load_official(path)
        return found

    @cached_property
    def text(self) -> TextEncoder:
        """Return the text encoder; it is loaded when first needed."""
        return TextEncoder.load(self.settings.text_encoder)

    def work(self, part: str = "flow") -> Work:
        """Return some shapes' way through the flow, or surfaces on lattices of several depths."""
        if part == "surface":
            return Work(self._run_surface, [(1, 5**depth) for depth in (4, 5, 6)], (0,))
        most = int(self.settings.tokens)
        return Work(self._run_flow, [(b, n) for b in (1, 2) for n in (most // 2, most)], (1, 3))

    @staticmethod
    def surface_load(depth: int, count: int = 1) -> Load:
        """Return what some surfaces take, one by one: some five times as much with each depth."""
        return Load(1, 5**depth, 0, count, "surface")

    def _run_surface(self, load: Load) -> None:
        depth = round(math.log(load.tokens, 5))
        Sampler(self, self.options(depth=depth)).surface(self._trial_tokens)

    @torch.no_grad()
    def _run_flow(self, load: Load) -> None:
        told = self.options(steps=load.calls, solver=Euler(), tokens=load.tokens)
        list(Sampler(self, told).tokens([self._trial(index) for index in range(load.rows)]))

    def _trial(self, index: int) -> Asked:
        return Asked(index, image=None if self.image is None else torch.zeros(3, 224, 224))

    @cached_property
    def _trial_tokens(self) -> Tensor:
        """One shape as the weights make it: its surface costs what others' do."""
        (tokens,) = Sampler(self, self.options(steps=4)).tokens([self._trial(0)])
        return tokens

    @property
    def is_mosaic(self) -> bool:
        """Return whether shapes are mosaics, not latents."""
        return isinstance(self.network, MosaicTransformer)

    def text_states(self, texts: Sequence[str | None]) -> Tensor:
        """Return the states (b, m, d) of texts, zeros where there is none."""
        words = [text for text in texts if text]
        width = self.network.config["context"]
        if not words:
            return torch.zeros(len(texts), 1, width)
        found = self.text.encode(sorted(set(words)))
        states = dict(zip(sorted(set(words)), found.states * found.mask[..., None], strict=True))
        empty = torch.zeros_like(found.states[0])
        return torch.stack([states[text] if text else empty for text in texts])

    def __call__(
        self,
        asked: Sequence[Asked] | Asked | str | int = 1,
        *,
        progress: Tick | None = None,
        **options: Any,
    ) -> ShapeResult:
        """Make shapes.

        Parameters
        ----------
        asked : Asked, or several; str; or int
            What to make; a text is a prompt, and a number is so many shapes of any kind.
        progress : callable, optional
            Called with what is done and all there is to do.
        **options
            :class:`~rectiflow_shape.request.Options`: ``steps``, ``guidance``, ``depth``,
            ``faces``, ``largest``, ``seed``, ...

        Raises
        ------
        ValueError
            When the weights do not know what is asked for, or a number is out of range.
        """
        if isinstance(asked, str):
            asked = [Asked(prompt=asked)]
        elif isinstance(asked, int):
            asked = [Asked(index) for index in range(asked)]
        wanted = [asked] if isinstance(asked, Asked) else list(asked)
        told = self.options(**options)
        started = time.perf_counter()
        sampler, samples = Sampler(self, told), []
        for each, tokens in zip(wanted, sampler.tokens(wanted, progress), strict=True):
            found = sampler.surface(tokens)
            name = sample_name(each.index)
            samples.append(finished(name, found, tokens.cpu(), told, each.told()))
        settings = self.describe() | told.described()
        return ShapeResult(samples, settings=settings, seconds=time.perf_counter() - started)

    def options(self, **options: Any) -> Options:
        """Check the arguments of a call, and fill in what the checkpoint decides."""
        is_map = getattr(self.network, "is_map", False)
        return Options(**options).resolved(self.settings, self.is_mosaic, is_map)


class ShapeAutoencoder(Pipeline):
    """An autoencoder by itself, as its training leaves it: there is no flow of its latents yet.

    Parameters
    ----------
    vae : TripoSGVae
    dtype : torch.dtype
    """

    shipped = ShapePipeline.shipped

    def __init__(self, vae: TripoSGVae, *, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({"vae": vae}, settings=ShapeSettings(), dtype=dtype)
        self.vae = vae

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of the autoencoder."""
        return {"vae": TripoSGVae}

    @classmethod
    def is_at(cls, weights: Path | str) -> bool:
        """Return whether weights are an autoencoder by itself."""
        path = find_pretrained(weights, cls.shipped)
        if not (path / CONFIG).is_file():
            return False
        return bool(read_json(path / CONFIG).get("class") == TripoSGVae.__name__)


def finished(
    name: str, found: Extraction, tokens: Tensor, options: Options, told: dict[str, Any]
) -> ShapeSample:
    """Return a surface as it was asked for: its largest part, fewer faces, and its certificate."""
    from rectiflow_shape.geometry import certificate, decimate, largest

    mesh: Mesh = found.mesh
    if options.largest:
        mesh = largest(mesh)
    if options.faces is not None:
        mesh = decimate(mesh, options.faces)
    judged = certificate(mesh, faces=options.faces).document()
    row = {"certificate": judged, "queries": found.queries, "capped": found.capped}
    return ShapeSample(name, mesh, tokens, told | row)
