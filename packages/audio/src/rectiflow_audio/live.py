"""Separation of sound that is still being recorded, block by block, with a bounded delay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline
    from rectiflow_audio.request import Request

FADE = 0.03
"""Seconds over which one block's estimate passes into the next."""


class Listener:
    """Separates blocks of a live sound, each within the window that ends with it.

    The networks hear the last window whole and the newest part of the estimate is kept, so that a
    sample is known after its block and one fade. What comes out is as long as what went in, and
    lies where it lay.

    Parameters
    ----------
    pipe : SeparationPipeline
    request : Request
        From its ``request``.
    sample_rate, channels : int
        Of the sound.
    block : float
        Seconds of a block; shorter blocks delay less and cost more.

    Raises
    ------
    ValueError
        When a block is longer than what the weights hear at once, or shorter than two fades; when
        waves are made without the mixture's phase, which would not fit together.
    """

    def __init__(
        self,
        pipe: SeparationPipeline,
        request: Request,
        sample_rate: int,
        channels: int = 1,
        block: float = 0.5,
    ) -> None:
        window = pipe.settings.window_seconds
        if not 2 * FADE <= block <= window - FADE:
            raise ValueError(
                f"a block must last {2 * FADE:g} to {window - FADE:g} s with these weights, got "
                f"{block:g}."
            )
        if not request.waveform.keeps_phase:
            raise ValueError(
                f"blocks only fit together where estimates keep the mixture's phase, got "
                f"{request.waveform!r}; expected Masking()."
            )
        self.separator = pipe.separator(request, sample_rate)
        self.block, self.fade = round(block * sample_rate), round(FADE * sample_rate)
        self.heard = torch.zeros(channels, pipe.windows(sample_rate).length)
        self.kinds = len(request.queries) + request.residual
        self.end: Tensor | None = None
        self.rise = torch.linspace(0, 1, self.fade + 2)[1:-1]

    @property
    def delay(self) -> int:
        """Return how many samples after its entry a sample is known, computing aside."""
        return self.block + self.fade

    def push(self, block: Tensor) -> Tensor:
        """Take in a block (channels, n) and return what is known now (queries, channels, m).

        The last block may be shorter; the first returns a fade less than it is given.
        """
        count = block.shape[-1]
        self.heard = torch.cat([self.heard, block], dim=-1)[:, -self.heard.shape[-1] :]
        found = self.separator.separate(self.heard[None])[0][..., -(count + self.fade) :]
        begin, rest = found[..., : self.fade], found[..., self.fade :]
        if self.end is None:
            known = rest  # what lies before the sound is nothing
        else:
            known = torch.cat([torch.lerp(self.end, begin, self.rise), rest], dim=-1)
        self.end = known[..., max(known.shape[-1] - self.fade, 0) :]
        return known[..., : max(known.shape[-1] - self.fade, 0)]

    def flush(self) -> Tensor:
        """Return what is left at the end."""
        if self.end is None:
            return torch.zeros(self.kinds, len(self.heard), 0)
        end, self.end = self.end, None
        return end
