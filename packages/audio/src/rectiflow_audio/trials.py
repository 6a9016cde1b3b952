"""Requests that are made up, to tell what true ones will take: :mod:`rectiflow.costs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow import inverse
from rectiflow.costs import Load

from rectiflow_audio.frontend import SAMPLE_RATE
from rectiflow_audio.repair import Band, Clip, Damage, Gaps, Repairer
from rectiflow_audio.replacement import Replacer

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline


def separate_windows(pipe: SeparationPipeline, load: Load) -> None:
    """Separate noise of as many windows as there are rows."""
    windows = pipe.windows(SAMPLE_RATE)
    length = windows.length + (load.rows - 1) * windows.hop
    wave = 0.1 * torch.randn(1, length, generator=torch.Generator().manual_seed(0))
    null = pipe.text.null(1)
    request = pipe.encoded_request(["noise"], null, null, steps=load.calls)
    list(pipe.stream([wave], SAMPLE_RATE, request))


def edit_window(pipe: SeparationPipeline, part: str, load: Load) -> None:
    """Repair a window as ``"Clip Posterior"`` says, or ``"Replace"`` a sound in it.

    Tokens are thousands of samples a second.
    """
    kind, _, method = part.partition(" ")
    rate, seconds = 1000 * load.tokens, pipe.settings.window_seconds
    drawn = np.random.default_rng(0).standard_normal((1, round(seconds * rate)), np.float32)
    wave = np.clip(0.3 * drawn, -0.5, 0.5)
    if kind == "Replace":
        Replacer(pipe, "noise", "rain", load.calls)(wave, rate)
        return
    gap = (0.4 * seconds, 0.5 * seconds)
    damages: dict[str, Damage] = {"Clip": Clip(0.5), "Gaps": Gaps((gap,)), "Band": Band(2000.0)}
    led = getattr(inverse, method)()
    Repairer(pipe, damages[kind], "noise", load.calls, method=led)(wave, rate)
