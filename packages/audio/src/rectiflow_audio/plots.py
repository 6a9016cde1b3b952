"""Pictures of sounds and of trainings, as matplotlib figures.

Figures are made without pyplot: nothing opens a window and nothing has to be closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rectiflow.figures import new_figure
from torch import Tensor

from rectiflow_audio.frontend import LogMel, MelConfig

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

RANGE = 9.0  # natural logarithms shown below the loudest, 78 dB


def log_mel_picture(
    log_mel: Float[Tensor, "frames mels"],
    config: MelConfig | None = None,
    *,
    title: str = "Log-mel",
) -> Figure:
    """Picture of a log-mel spectrogram over seconds and Hz.

    Parameters
    ----------
    log_mel : Tensor, shape (frames, n_mels)
        Natural logarithm of magnitudes.
    config : MelConfig, optional
        What it was made with; the released front end if absent.
    title : str
        Above the axes.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    config = config or MelConfig()
    if log_mel.ndim != 2 or log_mel.shape[-1] != config.n_mels:
        raise ValueError(
            f"log_mel must have shape (frames, {config.n_mels}), got {tuple(log_mel.shape)}; "
            "expected the spectrogram of one sound. Pass log_mel[0]."
        )
    figure = new_figure(6, 2.8)
    axes = figure.add_subplot()
    image = _spectrogram(axes, log_mel, config, float(log_mel.max()))
    axes.set(title=title, xlabel="seconds")
    figure.colorbar(image, ax=axes, label="ln magnitude", fraction=0.05)
    return figure


def separation_figure(
    mixture: Float[Tensor, " n"],
    estimate: Float[Tensor, " n"],
    target: Float[Tensor, " n"] | None = None,
    *,
    query: str = "",
    log_mel: LogMel | None = None,
) -> Figure:
    """Spectrograms of mixture, estimate and target below one another, in one scale of colours.

    Parameters
    ----------
    mixture, estimate : Tensor, shape (n,)
        Waveforms in one level.
    target : Tensor, shape (n,), optional
        Left out where there is no reference.
    query : str
        What was asked for, as the title.
    log_mel : LogMel, optional
        The front end; the released one if absent.
    """
    front_end = log_mel or LogMel()
    waves = {"mixture": mixture, "estimate": estimate}
    if target is not None:
        waves["target"] = target
    pictures = {name: front_end(wave.detach().float().cpu()) for name, wave in waves.items()}
    loudest = float(pictures["mixture"].max())
    figure = new_figure(6, 0.6 + 1.7 * len(pictures))
    rows = figure.subplots(len(pictures), 1, sharex=True)
    for axes, (name, picture) in zip(rows, pictures.items(), strict=True):
        image = _spectrogram(axes, picture, front_end.config, loudest)
        axes.set_title(name, loc="left", fontsize="small")
    rows[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(rows), label="ln magnitude", fraction=0.05)
    if query:
        figure.suptitle(query)
    return figure


def _spectrogram(axes: Axes, log_mel: Tensor, config: MelConfig, loudest: float) -> QuadMesh:
    """Draw one spectrogram, low bands below."""
    from librosa.display import specshow

    image = specshow(
        log_mel.detach().float().cpu().numpy().T,
        x_axis="time",
        y_axis="mel",
        sr=config.sample_rate,
        hop_length=config.hop,
        fmin=config.fmin,
        fmax=config.fmax,
        ax=axes,
        cmap="magma",
        vmin=loudest - RANGE,
        vmax=loudest,
    )
    axes.set(xlabel="", ylabel="Hz")
    return image
