"""CLAP, which embeds sounds and their descriptions in one space."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from rectiflow_audio.frontend import SAMPLE_RATE, resample

if TYPE_CHECKING:
    from jaxtyping import Float

CLAP_NAME = "laion/clap-htsat-unfused"


def clap_score(a: Float[Tensor, "*b d"], b: Float[Tensor, "*b d"]) -> Float[Tensor, " *b"]:
    """Return the cosine of embeddings: of query and estimate CLAPScore, of two sounds CLAPScoreA.

    Published values are sometimes multiplied by 100; these are not.

    References
    ----------
    Xiao et al., "A Reference-free Metric for Language-Queried Audio Source Separation using
    Contrastive Language-Audio Pretraining" (2024).
    """
    return F.cosine_similarity(a, b, dim=-1)


class Clap:
    """A frozen CLAP model with its tokeniser and its own front end.

    Parameters
    ----------
    model, processor : ClapModel and ClapProcessor of transformers
        Of an unfused model.

    Raises
    ------
    ValueError
        If the model fuses several crops of a long sound, which are drawn at random.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        if model.config.audio_config.enable_fusion:
            raise ValueError(
                "the CLAP model fuses random crops, got enable_fusion=True; expected an unfused "
                f"one. Use {CLAP_NAME}."
            )
        self.model = model.eval().requires_grad_(False)
        self.processor = processor

    @classmethod
    def load(
        cls, name_or_path: Path | str = CLAP_NAME, *, device: torch.device | str = "cpu"
    ) -> Self:
        """Load a folder, or a name on the Hugging Face hub from the user's cache.

        Raises
        ------
        FileNotFoundError
            When there is no such model.
        """
        from transformers import ClapModel, ClapProcessor

        source = str(name_or_path)
        try:
            model: Any = ClapModel.from_pretrained(source, dtype=torch.float32)
            processor = ClapProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise FileNotFoundError(
                f"no CLAP model at {source!r} ({str(error).strip().splitlines()[0]}); expected a "
                "folder or owner/name on the hub. Download it once, or give its folder."
            ) from error
        return cls(model.to(device), processor)

    @property
    def device(self) -> torch.device:
        """Where the model runs and its embeddings lie."""
        return next(self.model.parameters()).device

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Float[Tensor, "b d"]:
        """Embed descriptions; unit length."""
        words = self.processor.tokenizer(
            list(texts), padding=True, truncation=True, return_tensors="pt"
        ).to(self.device)
        return self.model.get_text_features(
            input_ids=words["input_ids"], attention_mask=words["attention_mask"]
        ).pooler_output

    @torch.no_grad()
    def audio(
        self, waves: Sequence[Float[Tensor, " n"]], sample_rate: int = SAMPLE_RATE
    ) -> Float[Tensor, "b d"]:
        """Embed sounds; unit length.

        Parameters
        ----------
        waves : sequence of Tensor, shape (n,)
            Of any lengths. Shorter than the model's window, 10 s, they are repeated; of longer
            ones as many windows as fit are spread evenly and their embeddings averaged, where the
            model's own front end would draw one at random.
        sample_rate : int
            Hz.
        """
        return torch.stack([self._embed(wave, sample_rate) for wave in waves])

    def _embed(self, wave: Tensor, sample_rate: int) -> Float[Tensor, " d"]:
        extract = self.processor.feature_extractor
        wave = resample(wave.detach().float().cpu(), sample_rate, extract.sampling_rate)
        windows = evenly_spread(wave, extract.nb_max_samples)
        features = extract(
            [window.numpy() for window in windows],
            sampling_rate=extract.sampling_rate,
            truncation="rand_trunc",  # one spectrogram a window; no window is long enough to be cut
            return_tensors="pt",
        )["input_features"]
        found = self.model.get_audio_features(
            input_features=features.to(self.device, torch.float32)
        ).pooler_output
        return F.normalize(found.mean(0), dim=-1)


def evenly_spread(wave: Float[Tensor, " n"], size: int) -> list[Tensor]:
    """Return the windows of a size that fit into a waveform, from end to end or centred if one."""
    spare = len(wave) - size
    if spare <= 0:
        return [wave]
    count = len(wave) // size
    starts = [spare // 2] if count == 1 else [round(i * spare / (count - 1)) for i in range(count)]
    return [wave[start : start + size] for start in starts]
