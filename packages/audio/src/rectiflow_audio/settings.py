"""What a checkpoint is to be used with."""

from __future__ import annotations

from dataclasses import dataclass

from rectiflow_audio.flow import SIGMA_MIN
from rectiflow_audio.waveform import MASK_EXPONENT, MASK_HEADROOM

_RANGES = {
    "window_seconds": (0.1, 600.0),
    "steps": (1, 10_000),
    "sigma_min": (0.0, 0.5),
    "guidance": (0.0, 100.0),
    "mask_exponent": (0.01, 100.0),
    "mask_headroom": (0.0, 100.0),
}
"""Of settings, beyond which a checkpoint is damaged or asks for more memory than there is."""


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
    guidance : float
        Weight of guidance, unless told otherwise; 1 is none, as published.
    mask_exponent : float
        Of masking, unless told otherwise: below 1 where soft sounds are guessed too low, as a mean
        of compressed magnitudes is.
    mask_headroom : float
        Of masking, unless told otherwise: about the error of a generated log-mel.
    """

    text_encoder: str = "google/flan-t5-large"
    window_seconds: float = 10.24
    steps: int = 20
    posterior_sample: bool = True
    has_vocoder: bool = True
    sigma_min: float = SIGMA_MIN
    guidance: float = 1.0
    mask_exponent: float = MASK_EXPONENT
    mask_headroom: float = MASK_HEADROOM

    def __post_init__(self) -> None:
        if not isinstance(self.text_encoder, str) or not self.text_encoder:
            raise ValueError(f"text_encoder must be a name, got {self.text_encoder!r}.")
        for name in ("posterior_sample", "has_vocoder"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}.")
        for name, (low, high) in _RANGES.items():
            value, kinds = getattr(self, name), int if name == "steps" else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise ValueError(f"{name} must lie in {low:g} to {high:g}, got {value!r}.")
