"""Pairs that mean nothing, for trials of a reflow training."""

from __future__ import annotations

from pathlib import Path

import torch
from rectiflow.randomness import counter_generator
from rectiflow.rectify import Pair, generate_pairs


def synthetic_pairs(
    out: Path | str,
    *,
    num: int,
    channels: int = 8,
    frames: int = 8,
    mels: int = 16,
    width: int = 384,
    seed: int = 0,
) -> Path:
    """Make a folder of pairs that mean nothing, for trials of the training.

    Parameters
    ----------
    out : Path or str
        The folder.
    num : int
        How many.
    channels, frames, mels : int
        Shape of the latents; those of an autoencoder with three levels are a quarter of the
        log-mel.
    width : int
        Channels of the query's states, of which there is one.
    seed : int
        With the number of a pair, fixes it.

    Returns
    -------
    Path
        The folder.
    """

    def sample(indices: list[int]) -> list[Pair]:
        pairs = []
        for i in indices:
            generator = counter_generator("synthetic pair", seed, i)
            x0, x1, mixture = torch.randn(3, channels, frames, mels, generator=generator)
            cond = {
                "mixture": mixture,
                "context": torch.randn(1, width, generator=generator),
                "context_mask": torch.ones(1),
            }
            pairs.append(Pair(index=i, x0=x0, x1=x1, cond=cond))
        return pairs

    generate_pairs(sample, out, num=num, batch=num, seed=seed, progress=False)
    return Path(out)
