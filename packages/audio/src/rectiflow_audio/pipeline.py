"""The object users hold: a recording and words in, the named sounds out."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from rectiflow.conditioning import TextEmbedding, TextEncoder
from rectiflow.solvers import Euler, Solver
from rectiflow.storage.pretrained import CONFIG, find_pretrained, weights_hash
from rectiflow.storage.tensor_files import CheckpointError
from torch import Tensor

from rectiflow_audio.candidates import Medoid, Pick
from rectiflow_audio.frontend import SAMPLE_RATE
from rectiflow_audio.networks.unet import SeparationUNet
from rectiflow_audio.networks.vae import SpectrogramVae
from rectiflow_audio.request import (
    Channels,
    Request,
    check_channels,
    check_mixture,
    check_numbers,
    check_query,
    check_waveform,
)
from rectiflow_audio.result import Estimate, SeparationResult, write_summary
from rectiflow_audio.separator import Separator
from rectiflow_audio.settings import SeparationSettings
from rectiflow_audio.waveform import Masking, Vocoding, Waveform
from rectiflow_audio.windows import Windows, overlap_add, split

if TYPE_CHECKING:
    from rectiflow_audio.networks.vocoder import BigVgan

PRETRAINED = Path(__file__).parent / "pretrained"
"""Checkpoints that ship with the package, by folder name."""

CONTEXT_SHARE = 1 / 16
"""Of a window: what is thrown away at each end, and what is faded, where windows overlap."""


class SeparationPipeline:
    """Separates the sounds that queries name.

    Parameters
    ----------
    unet : SeparationUNet
        The flow's network.
    vae : SpectrogramVae
        Of its latents.
    vocoder : BigVgan, optional
        Makes waves of spectrograms.
    text : TextEncoder, optional
        Loaded by ``settings.text_encoder`` when first needed, if absent.
    settings : SeparationSettings, optional
        The authors' if absent.

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

    def __init__(
        self,
        unet: SeparationUNet,
        vae: SpectrogramVae,
        vocoder: BigVgan | None = None,
        text: TextEncoder | None = None,
        settings: SeparationSettings | None = None,
    ) -> None:
        self.unet, self.vae = unet.eval(), vae.eval()
        self.vocoder = None if vocoder is None else vocoder.eval()
        self.settings = settings or SeparationSettings(has_vocoder=vocoder is not None)
        self._given_text = text

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Path | str = "small",
        *,
        device: torch.device | str = "cpu",
        text: TextEncoder | None = None,
    ) -> Self:
        """Load a pipeline.

        Parameters
        ----------
        name_or_path : Path or str
            A checkpoint that ships with the package (``"small"``), a folder written by
            :meth:`save_pretrained`, the authors' ``v2_100k.ckpt``, or ``owner/name`` on the hub.
        device : device
            Where to run.
        text : TextEncoder, optional
            In place of the one that the checkpoint names.

        Raises
        ------
        FileNotFoundError
            When nothing of that name is found; the message lists what ships.
        CheckpointError
            When the weights do not fit.
        """
        path = find_pretrained(name_or_path, PRETRAINED)
        made = cls._from_folder(path, text) if path.is_dir() else cls._from_official(path, text)
        return made.to(device)

    @classmethod
    def _from_folder(cls, folder: Path, text: TextEncoder | None) -> Self:
        config = folder / CONFIG
        if not config.is_file():
            raise FileNotFoundError(
                f"{folder} lacks {CONFIG}; expected a folder written by save_pretrained, or the "
                "path of the authors' checkpoint file itself."
            )
        try:
            described = json.loads(config.read_text(encoding="utf-8"))
            # Checkpoints may share a part: then it lies in one folder, named relative to the other.
            shared = described.get("shared", {})
            where = {name: folder / shared.get(name, name) for name in ("unet", "vae", "vocoder")}
            if (kind := described.get("class")) != cls.__name__:
                raise CheckpointError(folder, f"holds a {kind}, expected a {cls.__name__}")
            settings = SeparationSettings(**described["settings"])
        except CheckpointError:
            raise
        except (ValueError, AttributeError, TypeError, KeyError) as error:
            raise CheckpointError(config, f"is damaged ({error})") from error
        vocoder = None
        if where["vocoder"].is_dir():
            from rectiflow_audio.networks.vocoder import BigVgan

            vocoder = BigVgan.from_pretrained(where["vocoder"])
        return cls(
            SeparationUNet.from_pretrained(where["unet"]),
            SpectrogramVae.from_pretrained(where["vae"]),
            vocoder,
            text,
            settings,
        )

    @classmethod
    def _from_official(cls, path: Path, text: TextEncoder | None) -> Self:
        from rectiflow_audio.weights import load_official

        parts = load_official(path)
        return cls(parts.unet, parts.vae, parts.vocoder, text)

    def save_pretrained(
        self, folder: Path | str, *, dtype: torch.dtype = torch.float32, **card: Any
    ) -> None:
        """Write settings and weights to a folder.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        dtype : torch.dtype
            Of the stored weights; they are float32 again when loaded.
        **card
            What a user should know: training data, licence, metrics. Plain JSON values.
        """
        import copy

        target = Path(folder)
        parts = {"unet": self.unet, "vae": self.vae, "vocoder": self.vocoder}
        for name, part in parts.items():
            if part is not None:
                stored = copy.deepcopy(part).to(dtype)
                stored.save_pretrained(target / name)
        described = {
            "class": type(self).__name__,
            "settings": asdict(self.settings),
            "card": card,
        }
        write_summary(target / CONFIG, described)

    def to(self, device: torch.device | str) -> Self:
        """Move everything to a device."""
        for part in (self.unet, self.vae, self.vocoder):
            if part is not None:
                part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return next(self.unet.parameters()).device

    @cached_property
    def text(self) -> TextEncoder:
        """Return the text encoder; it is loaded when first needed."""
        if self._given_text is not None:
            return self._given_text
        return TextEncoder.load(self.settings.text_encoder)

    def compile(self) -> Self:
        """Compile the network, as CUDA graphs on a GPU; each batch size compiles once."""
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.unet.compile(dynamic=False, mode=mode)
        return self

    def __call__(
        self,
        mixture: np.ndarray | Tensor,
        sample_rate: int,
        queries: str | Sequence[str],
        *,
        negative: str | None = None,
        residual: bool = False,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: float | None = None,
        n_candidates: int = 1,
        pick: Pick | None = None,
        seed: int = 0,
        posterior_sample: bool | None = None,
        waveform: Waveform | None = None,
        consistent: bool = False,
        channels: Channels = "each",
        dtype: torch.dtype = torch.float32,
        progress: Callable[[int, int], None] | None = None,
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
        residual : bool
            Also return everything but the estimates, cut out of the mixture by masks. What
            several estimates claim they then share, so that nothing is taken out twice.
        steps : int, optional
            Steps of the solver; the checkpoint's own if absent.
        solver : Solver, optional
            Euler's method, as published, if absent. Any core solver will do.
        guidance : float, optional
            Weight of classifier-free guidance; 1 is none, as published. The checkpoint's own if
            absent.
        n_candidates : int
            Estimates drawn for each query, of which ``pick`` makes one.
        pick : Pick, optional
            :class:`~rectiflow_audio.candidates.Medoid` if absent.
        seed : int
            Fixes the noise. Every window, channel and query starts from the same.
        posterior_sample : bool, optional
            Condition on a sample of the mixture's posterior, or its mean; by default as the
            checkpoint was made for.
        waveform : Waveform, optional
            How waves are made; the checkpoint's vocoder if it has one, else
            :class:`~rectiflow_audio.waveform.Masking`.
        consistent : bool
            Correct the estimates so that they sum to the mixture; with a residual they do so
            together with it anyway.
        channels : {"each", "mid"}
            Separate every channel, or their mean, whose mask is then applied to each.
        dtype : torch.dtype
            ``bfloat16`` runs the networks under autocast.
        progress : callable, optional
            Called with windows done and in all.

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
        if channels == "mid":
            check_channels([wave.numpy()])
        request = self.request(
            queries,
            negative=negative,
            residual=residual,
            steps=steps,
            solver=solver,
            guidance=guidance,
            n_candidates=n_candidates,
            pick=pick,
            seed=seed,
            posterior_sample=posterior_sample,
            waveform=waveform,
            consistent=consistent,
            channels=channels,
        )
        windows = self.windows(sample_rate)
        total = len(windows.starts(wave.shape[-1]))
        started = time.perf_counter()
        parts = self.stream([wave], sample_rate, request, dtype=dtype)
        pieces = list(_reported(parts, windows, total, progress))
        found = torch.cat(pieces, dim=-1).numpy()
        power = float(wave.square().sum()) or 1.0
        estimates = [
            Estimate(query, found[i], float(np.square(found[i], dtype=np.float64).sum()) / power)
            for i, query in enumerate(request.queries)
        ]
        return SeparationResult(
            estimates,
            found[-1] if residual else None,
            sample_rate,
            time.perf_counter() - started,
            self.describe(request, dtype),
        )

    def request(
        self, queries: str | Sequence[str], *, negative: str | None = None, **options: Any
    ) -> Request:
        """Check the arguments of a separation and encode its queries, once for all windows.

        Parameters
        ----------
        queries, negative, **options
            As for a call.
        """
        asked = [queries] if isinstance(queries, str) else list(queries)
        for text in [*asked, *([] if negative is None else [negative])]:
            check_query(text)
        if not asked:
            raise ValueError("no query was given; expected at least one, such as 'a dog barks'.")
        guidance = self._guidance(options.get("guidance"))
        if negative is not None and guidance <= 1:
            raise ValueError(
                f"a negative query acts through guidance, got guidance={guidance}; expected more "
                "than 1, such as 2."
            )
        unwanted = self.text.null(1) if negative is None else self.text.encode([negative])
        return self.encoded_request(asked, self.text.encode(asked), unwanted, **options)

    def encoded_request(
        self,
        queries: list[str],
        context: TextEmbedding,
        negative: TextEmbedding,
        *,
        residual: bool = False,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: float | None = None,
        n_candidates: int = 1,
        pick: Pick | None = None,
        seed: int = 0,
        posterior_sample: bool | None = None,
        waveform: Waveform | None = None,
        consistent: bool = False,
        channels: Channels = "each",
    ) -> Request:
        """Check the arguments of a separation whose queries are encoded already.

        Parameters
        ----------
        queries : list of str
            Names of the estimates.
        context : TextEmbedding
            A row for each query.
        negative : TextEmbedding
            One row: of the negative query, or of none.
        **options
            As for a call.
        """
        steps = self.settings.steps if steps is None else steps
        guidance = self._guidance(guidance)
        check_numbers(steps, n_candidates, guidance, channels)
        default = Vocoding() if self.settings.has_vocoder else Masking()
        waveform = default if waveform is None else waveform
        check_waveform(
            waveform,
            has_vocoder=self.vocoder is not None,
            consistent=consistent,
            channels=channels,
            sources=len(queries) + residual,
        )
        unasked = self.settings.posterior_sample
        return Request(
            queries,
            context,
            negative,
            steps,
            Euler() if solver is None else solver,
            guidance,
            n_candidates,
            Medoid() if pick is None else pick,
            seed,
            unasked if posterior_sample is None else posterior_sample,
            waveform,
            residual,
            consistent,
            channels,
        )

    def _guidance(self, told: float | None) -> float:
        return self.settings.guidance if told is None else told

    def separator(
        self,
        request: Request,
        sample_rate: int = SAMPLE_RATE,
        dtype: torch.dtype = torch.float32,
    ) -> Separator:
        """Return what carries out a request on windows of a sample rate."""
        return Separator(self.unet, self.vae, self.vocoder, request, sample_rate, dtype)

    def windows(self, sample_rate: int) -> Windows:
        """Return how sounds of a rate are cut: windows, margins and fades in their own samples."""
        length = round(self.settings.window_seconds * sample_rate)
        part = max(1, round(length * CONTEXT_SHARE))
        return Windows(length=length, margin=part, fade=part)

    def stream(
        self,
        blocks: Iterable[Tensor],
        sample_rate: int,
        request: Request,
        *,
        dtype: torch.dtype = torch.float32,
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
        dtype : torch.dtype
            As for a call.

        Yields
        ------
        Tensor, shape (queries, channels, m)
            Consecutive pieces of the estimates, and of the residual after them if it was asked
            for.
        """
        windows = self.windows(sample_rate)
        separator = self.separator(request, sample_rate, dtype)
        done = separator.separated(split(blocks, windows))
        yield from overlap_add(done, windows, keep_level=not request.waveform.keeps_phase)

    def separate_file(
        self,
        path: Path | str,
        queries: str | Sequence[str],
        out: Sequence[Path | str],
        *,
        residual_out: Path | str | None = None,
        depth: str | None = None,
        dtype: torch.dtype = torch.float32,
        progress: Callable[[int, int], None] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Separate a file of any length, read and written piece by piece.

        Parameters
        ----------
        path : Path or str
            The mixture.
        queries : str or sequence of str
            What to separate.
        out : sequence of Path
            A file for each query.
        residual_out : Path, optional
            Where everything else goes.
        depth : str, optional
            Of the files, as libsndfile names it ("PCM_24"); the recording's if absent.
        dtype, progress, **options
            As for a call.

        Returns
        -------
        dict
            What ``result.json`` tells.

        Raises
        ------
        AudioFileError
            When the file cannot be read.
        ValueError
            As for a call.
        """
        from contextlib import ExitStack

        from rectiflow_audio.io import AudioWriter, depth_like, sound_info, stream_blocks

        info = sound_info(path)
        if options.get("channels") == "mid":  # told before hours of work
            check_channels(stream_blocks(path), path)
        request = self.request(queries, residual=residual_out is not None, **options)
        targets = [*out, *([] if residual_out is None else [residual_out])]
        if len(out) != len(request.queries):
            raise ValueError(
                f"every query needs a file, got {len(out)} for {len(request.queries)} queries."
            )
        windows = self.windows(info.sample_rate)
        total = len(windows.starts(info.samples))
        started = time.perf_counter()
        energy = np.zeros(len(targets))
        power = 0.0
        shape = info.sample_rate, info.channels
        depths = [depth or depth_like(info.subtype, target) for target in targets]

        def measured() -> Iterator[Tensor]:
            nonlocal power
            for block in stream_blocks(path):
                power += float(np.square(block, dtype=np.float64).sum())
                yield torch.from_numpy(block)

        with ExitStack() as stack:
            writers = [
                stack.enter_context(AudioWriter(target, *shape, subtype=subtype))
                for target, subtype in zip(targets, depths, strict=True)
            ]
            parts = self.stream(measured(), info.sample_rate, request, dtype=dtype)
            for piece in _reported(parts, windows, total, progress):
                for i, writer in enumerate(writers):
                    writer.write(piece[i])
                    energy[i] += float(piece[i].double().square().sum())
        shares = (energy / (power or 1.0)).round(6).tolist()
        return {
            **self.describe(request, dtype),
            "input": str(path),
            "seconds": round(time.perf_counter() - started, 3),
            "sample_rate": info.sample_rate,
            "energy": dict(zip(request.queries, shares, strict=False)),
            "files": [Path(target).name for target in targets],
        }

    def describe(self, request: Request, dtype: torch.dtype) -> dict[str, Any]:
        """Return the settings of a separation as plain JSON values."""
        return {
            "queries": request.queries,
            "seed": request.seed,
            "steps": request.steps,
            "nfe": request.steps * request.solver.nfe * (2 if request.guidance != 1 else 1),
            "solver": repr(request.solver),
            "guidance": request.guidance,
            "candidates": request.candidates,
            "waveform": repr(request.waveform),
            "dtype": str(dtype).removeprefix("torch."),
            "device": str(self.device),
            "weights_hash": weights_hash(self.unet),
        }


def _reported(
    parts: Iterator[Tensor],
    windows: Windows,
    total: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Tensor]:
    """Pass pieces on, one for each window, and tell how many there were."""
    for done, piece in enumerate(parts, start=1):
        if progress is not None:
            progress(done, total)
        yield piece
