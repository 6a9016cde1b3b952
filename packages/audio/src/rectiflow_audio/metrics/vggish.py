"""VGGish, the network of the Fréchet audio distance."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from rectiflow.storage.pretrained import load_strict
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

SAMPLE_RATE = 16_000
WINDOW, HOP, N_FFT = 400, 160, 512  # samples; 25 ms and 10 ms
BANDS, LOWEST, HIGHEST = 64, 125.0, 7500.0  # mel bands between Hz
OFFSET = 0.01  # under the logarithm
FRAMES = 96  # of one embedding, 0.96 s
SHORTEST = WINDOW + (FRAMES - 1) * HOP  # samples


class Vggish(nn.Module):
    """Embed sound: 128 numbers for each 0.96 s, without overlap.

    Parameters
    ----------
    channels : tuple of int
        Of the four groups of convolutions, which have 1, 1, 2 and 2.
    hidden, width : int
        Of the fully connected layers and of the embedding.

    Notes
    -----
    There is no activation and no PCA after the last layer, as in ``audioldm_eval``, with which
    the published figures of separation and generation were made. Fresh weights are random: use
    :meth:`load`.

    References
    ----------
    Hershey et al., "CNN Architectures for Large-Scale Audio Classification" (ICASSP 2017).
    """

    filters: Tensor
    window: Tensor

    def __init__(
        self,
        channels: tuple[int, int, int, int] = (64, 128, 256, 512),
        hidden: int = 4096,
        width: int = 128,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 1
        for after, depth in zip(channels, (1, 1, 2, 2), strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.embeddings = nn.Sequential(
            nn.Linear(before * (FRAMES // 16) * (BANDS // 16), hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, width),
        )
        self.register_buffer("filters", mel_filters(), persistent=False)
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the published weights from a file.

        Parameters
        ----------
        path : Path or str
            The file of torchvggish (``vggish-10086976.pth``) or of torchaudio
            (``vggish.pt``), or a safetensors file of the same names.

        Raises
        ------
        FileNotFoundError
            When there is no such file.
        CheckpointError
            When it holds other tensors.
        """
        tensors = {
            re.sub(r"^embedding\.", "embeddings.", name): value
            for name, value in load_tensors(path).items()
            if not name.startswith("pproc.")  # the PCA, which is not used
        }
        needed = ["features.0", "features.3", "features.6", "features.11", "embeddings.4"]
        missing = [name for n in needed if (name := f"{n}.weight") not in tensors]
        if missing:
            raise CheckpointError(
                path, f"is not VGGish, it lacks {', '.join(missing)}", missing=missing
            )
        *groups, last = (tensors[f"{name}.weight"].shape for name in needed)
        channels = tuple(shape[0] for shape in groups)
        assert len(channels) == 4
        made = cls(channels, hidden=last[1], width=last[0])
        load_strict(made, tensors, path)
        return made

    def log_mel(self, wave: Float[Tensor, " n"]) -> Float[Tensor, "frames bands"]:
        """Return the spectrogram of whole windows: nothing is padded or centred."""
        windows = wave.unfold(-1, WINDOW, HOP) * self.window
        magnitude = torch.fft.rfft(windows, N_FFT).abs()
        return (magnitude @ self.filters.T + OFFSET).log()

    def forward(self, wave: Float[Tensor, " n"]) -> Float[Tensor, "k d"]:
        """Embed a waveform at 16 kHz.

        Parameters
        ----------
        wave : Tensor, shape (n,)
            Full scale ±1. Less than 0.975 s is filled up with zeros; a rest at the end that is
            shorter than 0.96 s is left out.
        """
        wave = F.pad(wave.to(self.window), (0, max(0, SHORTEST - wave.shape[-1])))
        frames = self.log_mel(wave)
        examples = frames[: len(frames) // FRAMES * FRAMES].reshape(-1, 1, FRAMES, BANDS)
        features = self.features(examples)
        # The weights expect channels last, the order of the original in TensorFlow.
        return self.embeddings(features.permute(0, 2, 3, 1).flatten(1))


def mel_filters() -> Float[Tensor, "bands bins"]:
    """Build filters that are triangles over the mel scale itself, not over frequency."""
    mel = 1127 * torch.log1p(torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1).double() / 700)
    low, high = (1127 * math.log1p(hertz / 700) for hertz in (LOWEST, HIGHEST))
    edges = torch.linspace(low, high, BANDS + 2, dtype=torch.float64)[:, None]
    rising = (mel - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel) / (edges[2:] - edges[1:-1])
    filters = torch.minimum(rising, falling).clamp(min=0)
    filters[:, 0] = 0  # the constant is no sound
    return filters.float()
