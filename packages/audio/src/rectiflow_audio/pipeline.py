"""The object users hold: a recording and words in, the named sounds out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from rectiflow.conditioning import TextEmbedding, TextEncoder
from rectiflow.costs import Work
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.rectify import solver_for
from torch import Tensor, nn

from rectiflow_audio.frontend import SAMPLE_RATE
from rectiflow_audio.networks.patches import PatchCodec
from rectiflow_audio.networks.unet import SeparationUNet
from rectiflow_audio.networks.vae import SpectrogramVae
from rectiflow_audio.request import (
    Options,
    Request,
    check_channels,
    check_mixture,
    check_queries,
    check_when,
)
from rectiflow_audio.result import Estimate, SeparationResult, Tally
from rectiflow_audio.separator import Separator, rows_of
from rectiflow_audio.settings import SeparationSettings
from rectiflow_audio.windows import Windows, overlap_add, split, within

if TYPE_CHECKING:
    from rectiflow_audio.networks.vocoder import BigVgan

CONTEXT_SHARE = 1 / 16
"""Of a window: what is thrown away at each end, and what is faded, where windows overlap."""

Progress = Callable[[int, int], None]
"""Called with windows done and in all."""


class SeparationPipeline(Pipeline):
    """Separates the sounds that queries name.

    Parameters
    ----------
    unet : SeparationUNet
        The flow's network.
    vae : SpectrogramVae or PatchCodec
        Of its latents.
    vocoder : BigVgan, optional
        Makes waves of spectrograms.
    text : TextEncoder, optional
        Loaded by ``settings.text_encoder`` when first needed, if absent.
    settings : SeparationSettings, optional
        The authors' if absent.
    dtype : torch.dtype
        ``bfloat16`` runs the networks under autocast.

    References
    ----------
    Yuan et al., "FlowSep: Language-Queried Sound Separation with Rectified Flow Matching"
    (ICASSP 2025, arXiv 2409.07614).

    Examples
    --------
    >>> pipe = SeparationPipeline.from_pretrained("small")  # doctest: +SKIP
    >>> result = pipe(mixture, 44100, "a dog barks", seed=0)  # doctest: +SKIP
    >>> result.estimates[0].samples.shape == mixture.shape  # doctest: +SKIP
    True
    """

    shipped = Path(__file__).parent / "pretrained"
    settings_kind = SeparationSettings
    settings: SeparationSettings

    def __init__(
        self,
        unet: SeparationUNet,
        vae: SpectrogramVae | PatchCodec,
        vocoder: BigVgan | None = None,
        text: TextEncoder | None = None,
        settings: SeparationSettings | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(
            {"unet": unet, "vae": vae, "vocoder": vocoder},
            settings=settings or SeparationSettings(has_vocoder=vocoder is not None),
            dtype=dtype,
        )
        self.unet, self.vae, self.vocoder = unet, vae, vocoder
        if text is not None:
            self.text = text

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the classes of flow, codec and vocoder."""
        from rectiflow_audio.networks.vocoder import BigVgan

        codecs = (SpectrogramVae, PatchCodec)
        return {"unet": SeparationUNet, "vae": codecs, "vocoder": BigVgan}

    @classmethod
    def load_official(cls, path: Path, **options: Any) -> Self:
        """Load the authors' checkpoint; see :func:`rectiflow_audio.weights.load_official`."""
        from rectiflow_audio.weights import load_official

        if path.is_dir():
            return super().load_official(path)
        parts = load_official(path, **options)
        return cls(parts.unet, parts.vae, parts.vocoder)

    @classmethod
    def load_official_part(cls, path: Path, part: str, **options: Any) -> nn.Module:
        """Load the authors' autoencoder or vocoder, or the flow of a whole checkpoint."""
        from rectiflow_audio import weights

        if part == "vae":
            return weights.load_official_vae(path, **options)
        if part == "vocoder":
            return weights.load_official_vocoder(path, **options)
        return cls.load_official(path, **options).unet

    @cached_property
    def text(self) -> TextEncoder:
        """Return the text encoder; it is loaded when first needed."""
        return TextEncoder.load(self.settings.text_encoder)

    def work(self, part: str = "") -> Work:
        """Return the separation of some windows, the repair of one, or an edit."""
        from rectiflow_audio.trials import edit_window, separate_windows

        if part:
            rates = (1, 8), (1, 16), (1, 44)
            return Work(partial(edit_window, self, part), rates, (1, 2))
        most = rows_of(self.device)
        sizes = [(rows, 1) for rows in (1, 2, most // 2, most)]
        return Work(partial(separate_windows, self), sizes)

    def __call__(
        self,
        mixture: np.ndarray | Tensor,
        sample_rate: int,
        queries: str | Sequence[str],
        *,
        negative: str | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> SeparationResult:
        """Separate a recording of any length.

        Parameters
        ----------
        mixture : array, shape (channels, n) or (n,)
            Full scale is ±1.
        sample_rate : int
            Hz. Sounds are separated at 16 kHz, so what comes back holds nothing above 8 kHz;
            only the residual does.
        queries : str or sequence of str
            What to separate. All queries share one encoding of the mixture.
        negative : str, optional
            What not to hear; takes the empty query's place in guidance, which must exceed 1.
        progress : callable, optional
            Called with windows done and in all.
        **options
            :class:`~rectiflow_audio.request.Options`: ``steps``, ``solver``, ``guidance``,
            ``seed``, ``residual``, ``waveform``, ...

        Returns
        -------
        SeparationResult

        Raises
        ------
        ValueError
            When the mixture is too short or not finite, a query is empty or too long, or a number
            is out of range.
        """
        wave = torch.as_tensor(mixture)
        wave = wave[None] if wave.ndim == 1 else wave
        check_mixture(wave, sample_rate)
        wave = wave.float()
        request = self.request(queries, negative=negative, **options)
        check_when(request.when, wave.shape[-1] / sample_rate)
        if request.channels == "mid":
            check_channels([wave.numpy()])
        started, tally = time.perf_counter(), Tally()
        pieces = list(self._pieces([wave], sample_rate, wave.shape[-1], request, tally, progress))
        found = torch.cat(pieces, dim=-1).numpy()
        named = zip(request.queries, found, tally.shares, strict=False)
        return SeparationResult(
            [Estimate(query, samples, energy) for query, samples, energy in named],
            found[-1] if request.residual else None,
            sample_rate,
            settings=self.describe() | request.describe(),
            seconds=time.perf_counter() - started,
        )

    def separate_file(
        self,
        path: Path | str,
        request: Request,
        out: Sequence[Path | str],
        *,
        depth: str | None = None,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """Separate a file of any length, read and written piece by piece.

        Parameters
        ----------
        path : Path or str
            The mixture.
        request : Request
            From :meth:`request`.
        out : sequence of Path
            A file for each query, and for the residual if it is asked for.
        depth : str, optional
            Of the files, as libsndfile names it ("PCM_24"); the recording's if absent.
        progress : callable, optional
            Called with windows done and in all.

        Returns
        -------
        dict
            ``input``, ``queries``, ``energy`` of each, ``sample_rate`` and ``seconds``.

        Raises
        ------
        AudioFileError
            When the file cannot be read.
        ValueError
            As for a call.
        """
        from rectiflow_audio.io import AudioWriter, depth_like, sound_info, stream_blocks

        info = sound_info(path)
        check_when(request.when, info.samples / info.sample_rate)
        if request.channels == "mid":  # told before hours of work
            check_channels(stream_blocks(path), path)
        wanted = len(request.queries) + request.residual
        if len(out) != wanted:
            raise ValueError(
                f"every sound needs a file, got {len(out)} for {len(request.queries)} queries"
                f"{' and the residual' if request.residual else ''}."
            )
        blocks = map(torch.from_numpy, stream_blocks(path))
        started, tally = time.perf_counter(), Tally()
        with ExitStack() as stack:
            shape = info.sample_rate, info.channels
            depths = [depth or depth_like(info.subtype, target) for target in out]
            writers = [
                stack.enter_context(AudioWriter(target, *shape, subtype=subtype))
                for target, subtype in zip(out, depths, strict=True)
            ]
            for piece in self._pieces(
                blocks, info.sample_rate, info.samples, request, tally, progress
            ):
                for writer, samples in zip(writers, piece, strict=True):
                    writer.write(samples)
        shares = [round(share, 6) for share in tally.shares]
        return {
            "input": str(path),
            "queries": request.queries,
            "energy": dict(zip(request.queries, shares, strict=False)),
            "sample_rate": info.sample_rate,
            "seconds": round(time.perf_counter() - started, 3),
        }

    def request(
        self, queries: str | Sequence[str], *, negative: str | None = None, **options: Any
    ) -> Request:
        """Check the arguments of a separation and encode its queries, once for all windows.

        Parameters
        ----------
        queries, negative, **options
            As for a call.
        """
        asked = check_queries(queries, negative)
        unwanted = self.text.null(1) if negative is None else self.text.encode([negative])
        return self.encoded_request(
            asked, self.text.encode(asked), unwanted, negative=negative, **options
        )

    def encoded_request(
        self,
        queries: Sequence[str],
        context: TextEmbedding,
        unwanted: TextEmbedding,
        *,
        negative: str | None = None,
        **options: Any,
    ) -> Request:
        """Check the arguments of a separation whose queries are encoded already.

        Parameters
        ----------
        queries, context, unwanted
            As for :meth:`Options.resolved <rectiflow_audio.request.Options.resolved>`.
        negative, **options
            As for a call.
        """
        request = Options(**options).resolved(
            self.settings,
            queries,
            context,
            unwanted,
            has_vocoder=self.vocoder is not None,
            unwanted=negative,
        )
        return replace(request, solver=solver_for(self.unet, request.solver))

    def separator(self, request: Request, sample_rate: int = SAMPLE_RATE) -> Separator:
        """Return what carries out a request on windows of a sample rate."""
        return Separator(self.unet, self.vae, self.vocoder, request, sample_rate, self.dtype)

    def windows(self, sample_rate: int) -> Windows:
        """Return how sounds of a rate are cut: windows, margins and fades in their own samples."""
        length = round(self.settings.window_seconds * sample_rate)
        part = max(1, round(length * CONTEXT_SHARE))
        return Windows(length=length, margin=part, fade=part)

    def stream(
        self, blocks: Iterable[Tensor], sample_rate: int, request: Request
    ) -> Iterator[Tensor]:
        """Separate a sound that arrives in pieces, in memory that does not grow with its length.

        Parameters
        ----------
        blocks : iterable of Tensor, shape (channels, m)
            Consecutive pieces.
        sample_rate : int
            Hz.
        request : Request
            From :meth:`request`.

        Yields
        ------
        Tensor, shape (queries, channels, m)
            Consecutive pieces of the estimates, and of the residual after them if it was asked
            for.
        """
        windows = self.windows(sample_rate)
        blocks, again = tee(blocks) if request.when is not None else (blocks, ())
        done = self.separator(request, sample_rate).separated(split(blocks, windows))
        pieces = overlap_add(done, windows, keep_level=not request.waveform.keeps_phase)
        if request.when is not None:
            told = sample_rate, request.when
            pieces = within(pieces, again, *told, residual=request.residual)
        yield from pieces

    def _pieces(
        self,
        blocks: Iterable[Tensor],
        sample_rate: int,
        samples: int,
        request: Request,
        tally: Tally,
        progress: Progress | None,
    ) -> Iterator[Tensor]:
        """Stream a sound of known length, counting windows and energies: one piece a window."""
        total = len(self.windows(sample_rate).starts(samples))
        pieces = tally.found(self.stream(tally.heard(blocks), sample_rate, request))
        for done, piece in enumerate(pieces, start=1):
            if progress is not None:
                progress(done, total)
            yield piece
