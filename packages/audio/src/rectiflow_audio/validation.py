"""What a training looks at now and then: a few held-out mixtures, separated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from rectiflow.conditioning import TextEmbedding
from torch import Tensor, nn

from rectiflow_audio.frontend import SAMPLE_RATE, LogMel
from rectiflow_audio.metrics.distances import mel_log_spectral_distance, si_sdr
from rectiflow_audio.networks.unet import SeparationUNet
from rectiflow_audio.networks.vae import SpectrogramVae
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.settings import SeparationSettings
from rectiflow_audio.waveform import Masking, Waveform


class Mixtures(Protocol):
    """Held-out mixtures: a :class:`~rectiflow_audio.data.dataset.MixtureDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class SeparationValidation:
    """Separates held-out mixtures with the network in training, measures them, draws some.

    Goes into ``fit(..., evaluate=SeparationValidation(...))``. Pictures and sounds go into
    ``samples/step_<step>`` of the run folder.

    Parameters
    ----------
    vae : SpectrogramVae
        The autoencoder in use.
    mixtures : Mixtures
        With ``target``, ``mixture``, ``context``, ``context_mask``, ``null_context``, ``caption``.
    num : int
        How many, evenly spaced among all.
    steps : int
        Of Euler's method.
    pictures : int
        Of how many to keep sound and picture.
    seed : int
        Of the noise; every validation starts from the same.
    waveform : Waveform, optional
        :class:`~rectiflow_audio.waveform.Masking` if absent.
    """

    def __init__(
        self,
        vae: SpectrogramVae,
        mixtures: Mixtures,
        *,
        num: int = 16,
        steps: int = 10,
        pictures: int = 2,
        seed: int = 0,
        waveform: Waveform | None = None,
    ) -> None:
        if num < 1 or steps < 1:
            raise ValueError(f"num and steps must be at least 1, got {num} and {steps}.")
        self.vae, self.mixtures, self.num = vae, mixtures, num
        self.steps, self.pictures, self.seed = steps, pictures, seed
        self.waveform = waveform or Masking()

    def __call__(self, network: nn.Module, step: int, run_dir: Path) -> dict[str, float]:
        """Return mean ``si_sdr_improvement`` and ``mel_lsd``, and write the files."""
        assert isinstance(network, SeparationUNet)
        # Evenly spaced: clips of one class stand together.
        num, total = min(self.num, len(self.mixtures)), len(self.mixtures)
        items = [self.mixtures[i * total // num] for i in range(num)]
        seconds = len(items[0]["mixture"]) / SAMPLE_RATE
        settings = SeparationSettings(
            window_seconds=seconds, posterior_sample=False, has_vocoder=False
        )
        pipe = SeparationPipeline(network, self.vae, settings=settings)
        found = [self._separate(pipe, item).cpu() for item in items]
        targets = torch.stack([item["target"] for item in items])
        mixtures = torch.stack([item["mixture"] for item in items])
        estimates = torch.stack(found)
        log_mel = LogMel()
        wanted = log_mel(targets)
        result = {
            "si_sdr_improvement": float(
                (si_sdr(estimates, targets) - si_sdr(mixtures, targets)).mean()
            ),
            "mel_lsd": float(mel_log_spectral_distance(log_mel(estimates), wanted).mean()),
            "mel_lsd_mixture": float(mel_log_spectral_distance(log_mel(mixtures), wanted).mean()),
        }
        for i in range(min(self.pictures, len(items))):
            self._keep(Path(run_dir) / "samples" / f"step_{step:07d}", i, items[i], estimates[i])
        return result

    def _separate(self, pipe: SeparationPipeline, item: Any) -> Tensor:
        context = TextEmbedding(item["context"][None], item["context_mask"][None])
        null = TextEmbedding(item["null_context"][None], torch.ones_like(context.mask))
        request = pipe.encoded_request(
            [item["caption"]],
            context,
            null,
            steps=self.steps,
            seed=self.seed,
            waveform=self.waveform,
        )
        (piece,) = pipe.stream([item["mixture"][None]], SAMPLE_RATE, request)
        return piece[0, 0]

    def _keep(self, folder: Path, number: int, item: Any, estimate: Tensor) -> None:
        from rectiflow_audio.io import write_audio

        sounds = {"mixture": item["mixture"], "target": item["target"], "estimate": estimate}
        for name, wave in sounds.items():
            write_audio(folder / f"{number:02d}_{name}.wav", wave[None], SAMPLE_RATE)
