"""The object users hold: a recording and words in, the named sounds out."""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from rectiflow.conditioning import TextEmbedding, TextEncoder
from rectiflow.grids import uniform
from rectiflow.guidance import batched_cfg
from rectiflow.integrate import integrate, plan
from rectiflow.pretrained import CONFIG, find_pretrained, weights_hash
from rectiflow.randomness import counter_generator
from rectiflow.solvers import Euler, Solver
from rectiflow.tensor_files import CheckpointError
from torch import Tensor

from rectiflow_audio.candidates import Medoid, Pick
from rectiflow_audio.flow import FRAMES_MULTIPLE, SIGMA_MIN, condition
from rectiflow_audio.frontend import SAMPLE_RATE, Level, LogMel, normalise, resample
from rectiflow_audio.masking import apply_mask, mel_ratio_mask, mixture_consistency
from rectiflow_audio.networks.unet import SeparationUNet
from rectiflow_audio.networks.vae import SpectrogramVae
from rectiflow_audio.waveform import Generated, Masking, Vocoding, Waveform
from rectiflow_audio.windows import Window, Windows, overlap_add, split

if TYPE_CHECKING:
    from rectiflow_audio.networks.vocoder import BigVgan

log = logging.getLogger(__name__)

PRETRAINED = Path(__file__).parent / "pretrained"
"""Checkpoints that ship with the package, by folder name."""

SHORTEST = 0.1
"""Seconds; shorter sounds are refused."""

SILENCE = 1e-5
"""Windows whose largest sample is below this are silent: silence in gives silence out."""

ROWS = {"cpu": 8, "cuda": 64}
"""Latents in one call of the network, by device."""

CONTEXT_SHARE = 1 / 16
"""Of a window: what is thrown away at each end, and what is faded, where windows overlap."""

QUIETEST_SHARE = 1e-8
"""Of the power, below which a residual is silence."""

Channels = Literal["each", "mid"]


@dataclass(frozen=True)
class SeparationSettings:
    """What a checkpoint is to be used with; stored beside its weights.

    Parameters
    ----------
    text_encoder : str
        Name or folder, for :meth:`rectiflow.conditioning.TextEncoder.load`.
    window_seconds : float
        Length of sound that the networks were trained on.
    steps : int
        Network calls, unless told otherwise.
    posterior_sample : bool
        Take a sample of the mixture's posterior, as the authors do, not its mean.
    has_vocoder : bool
        Whether waves are made by a vocoder unless told otherwise; else by masking.
    sigma_min : float
        Of the flow's path.
    """

    text_encoder: str = "google/flan-t5-large"
    window_seconds: float = 10.24
    steps: int = 20
    posterior_sample: bool = True
    has_vocoder: bool = True
    sigma_min: float = SIGMA_MIN


@dataclass(frozen=True)
class Estimate:
    """One separated sound.

    Attributes
    ----------
    query : str
    samples : ndarray, shape (channels, n), float32
        In the level, rate and length of the mixture.
    energy : float
        Its energy over the mixture's: near 0 when nothing was found.
    """

    query: str
    samples: np.ndarray
    energy: float

    @property
    def name(self) -> str:
        """Return the query as a file name."""
        return re.sub(r"[^a-z0-9]+", "_", self.query.lower()).strip("_")[:60] or "estimate"


@dataclass(frozen=True)
class SeparationResult:
    """Separated sounds and how they were made.

    Attributes
    ----------
    estimates : list of Estimate
        In the order of the queries.
    residual : ndarray, shape (channels, n), optional
        Everything but the estimates, if it was asked for.
    sample_rate : int
        Hz.
    seconds : float
        Time taken.
    settings : dict
        Queries, seed, steps, solver, guidance and hash of the weights.
    """

    estimates: list[Estimate]
    residual: np.ndarray | None
    sample_rate: int
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str, *, suffix: str = ".wav") -> list[Path]:
        """Write a sound for each query, ``residual`` if there is one, and ``result.json``.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        suffix : str
            Format of the sounds.

        Returns
        -------
        list of Path
            The sounds.
        """
        from rectiflow_audio.io import write_audio

        target = Path(folder)
        sounds = {
            (e.name if self._names.count(e.name) == 1 else f"{e.name}_{i}"): e.samples
            for i, e in enumerate(self.estimates)
        }
        if self.residual is not None:
            sounds["residual"] = self.residual
        written = [target / f"{name}{suffix}" for name in sounds]
        for path, samples in zip(written, sounds.values(), strict=True):
            write_audio(path, samples, self.sample_rate)
        write_summary(target / "result.json", self.summary(written))
        return written

    def summary(self, files: Sequence[Path] = ()) -> dict[str, Any]:
        """Return what ``result.json`` tells."""
        energies = {e.query: round(e.energy, 6) for e in self.estimates}
        return {
            **self.settings,
            "seconds": round(self.seconds, 3),
            "sample_rate": self.sample_rate,
            "energy": energies,
            "files": [path.name for path in files],
        }

    @property
    def _names(self) -> list[str]:
        return [e.name for e in self.estimates]


@dataclass(frozen=True)
class Request:
    """What is asked of every window.

    Attributes are the arguments of :meth:`SeparationPipeline.__call__`, resolved.
    """

    queries: list[str]
    context: TextEmbedding
    negative: TextEmbedding
    steps: int
    solver: Solver
    guidance: float
    candidates: int
    pick: Pick
    seed: int
    posterior_sample: bool
    waveform: Waveform
    residual: bool
    consistent: bool
    channels: Channels


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
        self.log_mel = LogMel().to(self.device)
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
        described = json.loads(config.read_text(encoding="utf-8"))
        if described.get("class") != cls.__name__:
            raise CheckpointError(
                folder, f"holds a {described.get('class')}, expected a {cls.__name__}"
            )
        vocoder = None
        if (folder / "vocoder").is_dir():
            from rectiflow_audio.networks.vocoder import BigVgan

            vocoder = BigVgan.from_pretrained(folder / "vocoder")
        return cls(
            SeparationUNet.from_pretrained(folder / "unet"),
            SpectrogramVae.from_pretrained(folder / "vae"),
            vocoder,
            text,
            SeparationSettings(**described["settings"]),
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
        for part in (self.unet, self.vae, self.vocoder, self.log_mel):
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
        guidance: float = 1.0,
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
            Also return everything but the estimates, cut out of the mixture by masks.
        steps : int, optional
            Steps of the solver; the checkpoint's own if absent.
        solver : Solver, optional
            Euler's method, as published, if absent. Any core solver will do.
        guidance : float
            Weight of classifier-free guidance; 1 is none, as published.
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
            Correct the estimates so that they sum to the mixture.
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
        wave = torch.as_tensor(mixture, dtype=torch.float32)
        wave = wave[None] if wave.ndim == 1 else wave
        _check_mixture(wave, sample_rate)
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
        self,
        queries: str | Sequence[str],
        *,
        negative: str | None = None,
        residual: bool = False,
        steps: int | None = None,
        solver: Solver | None = None,
        guidance: float = 1.0,
        n_candidates: int = 1,
        pick: Pick | None = None,
        seed: int = 0,
        posterior_sample: bool | None = None,
        waveform: Waveform | None = None,
        consistent: bool = False,
        channels: Channels = "each",
    ) -> Request:
        """Check the arguments of a separation and encode its queries, once for all windows."""
        asked = [queries] if isinstance(queries, str) else list(queries)
        steps = self.settings.steps if steps is None else steps
        _check_numbers(steps, n_candidates, guidance, channels)
        if not asked or any(not query.strip() for query in asked):
            raise ValueError(
                f"a query is empty, got {asked}; expected words that name a sound, such as "
                "'a dog barks'."
            )
        if negative is not None and guidance <= 1:
            raise ValueError(
                f"a negative query acts through guidance, got guidance={guidance}; expected more "
                "than 1, such as 2."
            )
        default = Vocoding() if self.settings.has_vocoder else Masking()
        waveform = default if waveform is None else waveform
        if isinstance(waveform, Vocoding) and self.vocoder is None:
            raise ValueError(
                "these weights have no vocoder, got waveform=Vocoding(); expected Masking(), or "
                "weights that have one, such as the authors'."
            )
        if consistent and not waveform.keeps_phase:
            raise ValueError(
                "estimates can only be made to sum to the mixture where they keep its phase, got "
                f"{waveform!r}; expected Masking()."
            )
        if channels == "mid" and not waveform.keeps_phase:
            raise ValueError(
                f"the mean channel's mask is applied to each channel, got {waveform!r}, which "
                "makes no mask; expected Masking(), or channels='each'."
            )
        unsampled = self.settings.posterior_sample
        return Request(
            asked,
            self.text.encode(asked),
            self.text.null(1) if negative is None else self.text.encode([negative]),
            steps,
            Euler() if solver is None else solver,
            guidance,
            n_candidates,
            Medoid() if pick is None else pick,
            seed,
            unsampled if posterior_sample is None else posterior_sample,
            waveform,
            residual,
            consistent,
            channels,
        )

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
        pieces = split(blocks, windows)
        done = self._separated(pieces, sample_rate, request, dtype)
        yield from overlap_add(done, windows, keep_level=not request.waveform.keeps_phase)

    def separate_file(
        self,
        path: Path | str,
        queries: str | Sequence[str],
        out: Sequence[Path | str],
        *,
        residual_out: Path | str | None = None,
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

        from rectiflow_audio.io import AudioWriter, sound_info, stream_blocks

        info = sound_info(path)
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

        def measured() -> Iterator[Tensor]:
            nonlocal power
            for block in stream_blocks(path):
                power += float(np.square(block, dtype=np.float64).sum())
                yield torch.from_numpy(block)

        with ExitStack() as stack:
            writers = [
                stack.enter_context(AudioWriter(target, info.sample_rate, info.channels))
                for target in targets
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

    def _separated(
        self, pieces: Iterator[Window], sample_rate: int, request: Request, dtype: torch.dtype
    ) -> Iterator[Window]:
        """Separate windows, as many at once as the device takes."""
        rows = len(request.queries) * request.candidates
        at_once = max(1, ROWS["cuda" if self.device.type == "cuda" else "cpu"] // rows)
        while group := list(islice(pieces, at_once)):
            waves = torch.stack([piece.wave for piece in group])
            for piece, wave in zip(
                group, self._separate(waves, sample_rate, request, dtype), strict=True
            ):
                yield replace(piece, wave=wave)

    @torch.no_grad()
    def _separate(
        self, waves: Tensor, sample_rate: int, request: Request, dtype: torch.dtype
    ) -> Tensor:
        """Return the estimates (w, k, channels, n) of windows (w, channels, n)."""
        count, channels, samples = waves.shape
        heard = waves.mean(1, keepdim=True) if request.channels == "mid" else waves
        rows = resample(heard.flatten(0, 1), sample_rate, SAMPLE_RATE)
        loud = rows.abs().amax(-1) > SILENCE
        if not bool(loud.any()):
            silent = len(request.queries) + request.residual
            return waves.new_zeros(count, silent, channels, samples)
        normal, level = normalise(rows)
        generated = self.generate(normal.to(self.device), request, dtype)
        k = len(request.queries)
        if request.channels == "mid":  # one mask for all channels
            target, through_codec = generated
            generated = (
                target.repeat_interleave(channels, 0),
                through_codec.repeat_interleave(channels, 0),
            )
            level = Level(
                level.mean.repeat_interleave(channels, 0), level.gain.repeat_interleave(channels, 0)
            )
            sides = resample(waves.flatten(0, 1), sample_rate, SAMPLE_RATE)
            normal = (sides - level.mean) * level.gain
            loud = loud.repeat_interleave(channels, 0)
        found = self._render(normal, generated, request)
        found = level.restore(found.transpose(0, 1)).transpose(0, 1) * loud[:, None, None]
        found = resample(found, SAMPLE_RATE, sample_rate)[..., :samples]
        flat = waves.flatten(0, 1)
        if request.consistent:
            found = mixture_consistency(found, flat)
        if request.residual:
            found = torch.cat([found, self._rest(found, flat, request)], dim=1)
        return (
            found.unflatten(0, (count, channels))
            .transpose(1, 2)
            .reshape(count, k + request.residual, channels, samples)
        )

    def generate(
        self, waves: Tensor, request: Request, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Generate the spectrograms of the sounds in waves.

        Parameters
        ----------
        waves : Tensor, shape (b, n)
            Normalised, 16 kHz, on the pipeline's device.
        request : Request
            From :meth:`request`.
        dtype : torch.dtype
            Of the networks' arithmetic.

        Returns
        -------
        target : Tensor, shape (b, queries, candidates, frames, mels)
            Log-mels of the estimates.
        mixture : Tensor, shape (b, frames, mels)
            Log-mel of the mixture, through the same codec.
        """
        mels = self.log_mel(waves)[:, None]
        frames = mels.shape[2] // FRAMES_MULTIPLE * FRAMES_MULTIPLE
        mels = mels[:, :, :frames]
        k, c = len(request.queries), request.candidates
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            posterior = self.vae.encode(mels)
            m = posterior.mean.float()
            if request.posterior_sample:
                draw = _noise(m.shape[1:], "posterior", request.seed, 0).to(m)
                m = m + posterior.std.float() * draw
            m = m * self.vae.scale_factor
            noise = torch.stack(
                [_noise(m.shape[1:], "separate", request.seed, i).to(m) for i in range(c)]
            )
            x0 = noise.repeat(len(m) * k, 1, 1, 1)
            states, mask = request.context.states.to(m.device), request.context.mask.to(m.device)
            cond = condition(
                m.repeat_interleave(k * c, 0),
                states.repeat_interleave(c, 0).repeat(len(m), 1, 1),
                mask.repeat_interleave(c, 0).repeat(len(m), 1),
            )
            x1 = self._flow(x0, cond, request)
            decoded = self.vae.from_latent(torch.cat([x1, m])).float()[:, 0]
        rows = len(m)
        target = decoded[:-rows].unflatten(0, (rows, k, c))
        return target, decoded[-rows:]

    def _flow(self, x0: Tensor, cond: dict[str, Tensor], request: Request) -> Tensor:
        """Carry noise to latents, a bounded number of rows at a time."""
        limit = ROWS["cuda" if self.device.type == "cuda" else "cpu"]
        moves = plan(uniform(request.steps), request.solver)
        ends = []
        for start in range(0, len(x0), limit):
            part = {name: value[start : start + limit] for name, value in cond.items()}
            states = request.negative.states.to(x0.device).expand(len(part["mixture"]), -1, -1)
            null = part | {
                "context": states,
                "context_mask": request.negative.mask.to(x0.device).expand(len(states), -1),
            }
            network = lambda x, t, c: self.unet(x, t, c).float()  # noqa: E731
            field = batched_cfg(network, part, null, request.guidance)
            ends.append(integrate(field, x0[start : start + limit], moves))
        return torch.cat(ends)

    def _render(self, waves: Tensor, generated: tuple[Tensor, ...], request: Request) -> Tensor:
        """Make the waves (b, k, n) of generated spectrograms."""
        targets, mixtures = generated
        waves = waves.to(self.device)
        rendered = []
        for wave, target, mixture in zip(waves, targets, mixtures, strict=True):
            render = self._renderer(wave, mixture, request)
            mels = [
                candidates[0]
                if request.candidates == 1
                else request.pick(candidates, query, render)
                for candidates, query in zip(target, request.queries, strict=True)
            ]
            rendered.append(torch.stack([render(mel) for mel in mels]))
        return torch.stack(rendered).cpu()

    def _renderer(
        self, wave: Tensor, mixture: Tensor, request: Request
    ) -> Callable[[Tensor], Tensor]:
        """Return what makes a wave of a log-mel generated for one mixture."""
        generator = counter_generator("phase", request.seed, 0, device=self.device)

        def render(mel: Tensor) -> Tensor:
            one = Generated(
                mel[None], mixture[None], wave[None], self.log_mel, self.vocoder, generator
            )
            return request.waveform(one)[0]

        return render

    def _rest(self, found: Tensor, mixture: Tensor, request: Request) -> Tensor:
        """Return everything but the estimates, (b, 1, n)."""
        if request.waveform.keeps_phase:
            return mixture[:, None] - found.sum(1, keepdim=True)
        # Waves that do not keep the phase cannot be subtracted: what they hold is masked out.
        log_mel = LogMel()
        heard = log_mel(mixture)
        share = (log_mel(found.sum(1)) - heard).exp().clamp(max=1)
        rest = heard + (1 - share.square()).clamp(min=QUIETEST_SHARE).sqrt().log()
        return apply_mask(mixture, mel_ratio_mask(rest, heard, log_mel, 1.0), log_mel)[:, None]


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _noise(shape: Sequence[int], purpose: str, seed: int, index: int) -> Tensor:
    """Draw on the CPU, so that a seed means the same noise on every machine."""
    return torch.randn(*shape, generator=counter_generator(purpose, seed, index))


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


def _check_mixture(wave: Tensor, sample_rate: int) -> None:
    if wave.ndim != 2:
        raise ValueError(f"mixture must have shape (channels, n) or (n,), got {tuple(wave.shape)}.")
    if sample_rate < 1:
        raise ValueError(f"sample_rate must be positive, got {sample_rate}; expected Hz.")
    if wave.shape[-1] < SHORTEST * sample_rate:
        raise ValueError(
            f"mixture is too short, got {wave.shape[-1] / sample_rate:.3f} s; expected at least "
            f"{SHORTEST} s."
        )
    if not bool(torch.isfinite(wave).all()):
        where = int((~torch.isfinite(wave)).any(0).nonzero()[0])
        raise ValueError(
            f"mixture holds NaN or infinity, the first at sample {where}; expected finite numbers. "
            "Repair or cut the recording."
        )


def _check_numbers(steps: int, candidates: int, guidance: float, channels: str) -> None:
    if steps < 1 or candidates < 1:
        raise ValueError(
            f"steps and n_candidates must be at least 1, got {steps} and {candidates}."
        )
    if not guidance >= 0:
        raise ValueError(f"guidance must be at least 0, got {guidance}; expected 1 for none.")
    if channels not in ("each", "mid"):
        raise ValueError(f"channels must be 'each' or 'mid', got {channels!r}.")
