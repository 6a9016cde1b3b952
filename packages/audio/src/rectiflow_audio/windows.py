"""Sounds of any length through a network that takes one window, in bounded memory.

Windows overlap. At each side of a seam the outermost samples, which a network has heard too little
around, are thrown away, and neighbours are cross-faded where both are good::

    window i    |== margin ==|---- kept ----|= fade =|== margin ==|
    window i+1                |== margin ==|= fade =|---- kept ----|= fade =|== margin ==|

The fade is linear, since both windows hold the same sound, and its weights sum to one: a network
that changes nothing returns the input bit for bit, and sources that sum to the mixture still do.
Waveforms of a vocoder agree in sound but not in phase; they are faded with ``keep_level``. A sound
no longer than a window is one window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from rectiflow_audio.frontend import WINDOW_SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jaxtyping import Float
    from torch import Tensor

_TINY = 1e-12  # power of silence


_GATE_FADE = 0.01
"""Seconds over which a span fades in and out."""


@dataclass(frozen=True)
class Windows:
    """How a long sound is cut.

    Parameters
    ----------
    length : int, default 163840
        Samples of a window, 10.24 s at 16 kHz.
    margin : int, default 10240
        Samples thrown away at each end of a window that is not an end of the sound, 0.64 s.
    fade : int, default 10240
        Samples over which neighbours are cross-faded, 0.64 s.

    Raises
    ------
    ValueError
        If they leave no room to step forward.
    """

    length: int = WINDOW_SAMPLES
    margin: int = 10_240
    fade: int = 10_240

    def __post_init__(self) -> None:
        if self.margin < 0 or self.fade < 1 or self.hop < 1:
            raise ValueError(
                f"a window must be longer than two margins and a fade, got length {self.length}, "
                f"margin {self.margin}, fade {self.fade}; expected margin >= 0, fade >= 1 and "
                "length > 2 margin + fade. Shorten the margin or the fade."
            )

    @property
    def hop(self) -> int:
        """Samples from window to window."""
        return self.length - 2 * self.margin - self.fade

    def starts(self, samples: int) -> list[int]:
        """Where the windows of a sound begin; the last one is moved back to end with it.

        >>> Windows(length=10, margin=2, fade=1).starts(17)
        [0, 5, 7]
        """
        last = max(0, samples - self.length)
        return [*range(0, last, self.hop), last]

    def seams(self, samples: int) -> list[int]:
        """Where cross-fades begin, one less than there are windows."""
        return [i * self.hop + self.margin for i in range(1, len(self.starts(samples)))]


@dataclass(frozen=True)
class Window:
    """One piece of a sound.

    Attributes
    ----------
    wave : Tensor, shape (..., length)
        The samples; of a sound shorter than a window, padded with zeros.
    index, start : int
        Which window it is, and its first sample's place in the sound.
    samples : int
        How many samples are not padding.
    is_last : bool
        Whether the sound ends with it.
    """

    wave: Tensor
    index: int
    start: int
    samples: int
    is_last: bool


def split(blocks: Iterable[Float[Tensor, "*c m"]], windows: Windows) -> Iterator[Window]:
    """Cut a sound that arrives in pieces into overlapping windows.

    Parameters
    ----------
    blocks : iterable of Tensor, shape (..., m)
        Consecutive pieces of any lengths; their total need not be known. A whole sound is a list
        of one.
    windows : Windows
        The sizes.

    Yields
    ------
    Window
        In order; a piece is held no longer than the windows that need it.
    """
    held, start, index = None, 0, 0  # `held` begins at sample `start`
    for block in blocks:
        held = block if held is None else torch.cat([held, block], -1)
        while start + held.shape[-1] - index * windows.hop > windows.length:
            begin = index * windows.hop
            wave = held[..., begin - start : begin - start + windows.length]
            yield Window(wave, index, begin, windows.length, is_last=False)
            held, start, index = held[..., begin - start :], begin, index + 1
    if held is None or not held.shape[-1]:
        return
    samples = min(start + held.shape[-1], windows.length)
    wave = F.pad(held[..., -samples:], (0, windows.length - samples))
    yield Window(wave, index, start + held.shape[-1] - samples, samples, is_last=True)


def overlap_add(
    pieces: Iterable[Window], windows: Windows, *, keep_level: bool = False
) -> Iterator[Float[Tensor, "*c m"]]:
    """Join windows that went through a network.

    Parameters
    ----------
    pieces : iterable of Window
        From :func:`split` with ``wave`` replaced, in order. Only the last dimension must be as it
        was: a window of two channels may come back as five sources of two channels.
    windows : Windows
        The sizes used to split.
    keep_level : bool
        Make up for the dip of a fade between waveforms whose phases differ, as a vocoder's do.
        With it, sources no longer sum exactly to the mixture within fades.

    Yields
    ------
    Tensor, shape (..., m)
        Consecutive pieces, together as long as the sound.

    Raises
    ------
    ValueError
        If a network changed the length of a window.
    """
    tail: Tensor | None = None  # the previous window's side of the coming fade
    for piece in pieces:
        wave = piece.wave
        if wave.shape[-1] != windows.length:
            raise ValueError(
                f"a window came back with another length, got {wave.shape[-1]} samples; expected "
                f"{windows.length}. Cut or pad what the network returns."
            )
        seam = piece.index * windows.hop + windows.margin if piece.index else 0
        begin = seam - piece.start
        end = piece.samples if piece.is_last else windows.hop + windows.margin
        kept = wave[..., begin:end]
        if tail is not None:
            faded = _cross_fade(tail, kept[..., : windows.fade], keep_level)
            kept = torch.cat([faded, kept[..., windows.fade :]], -1)
        tail = wave[..., end : end + windows.fade].clone()
        yield kept


def gate_of(
    start: int, samples: int, sample_rate: int, when: tuple[float, float]
) -> Float[Tensor, " m"]:
    """Return 1 inside of a span of seconds and 0 outside, with fades of 10 ms inside its ends."""
    at = torch.arange(start, start + samples, dtype=torch.float64)
    begin, end = (second * sample_rate for second in when)
    fade = min(_GATE_FADE * sample_rate, (end - begin) / 2)
    return (torch.minimum(at - begin, end - 1 - at) / fade).clamp(0, 1).float()


def within(
    pieces: Iterable[Float[Tensor, "k c m"]],
    blocks: Iterable[Float[Tensor, "c m"]],
    sample_rate: int,
    when: tuple[float, float],
    *,
    residual: bool,
) -> Iterator[Float[Tensor, "k c m"]]:
    """Silence estimates outside of a span; what they lose there goes to the residual, the last.

    Outside, the residual is the sound itself, whose ``blocks`` come along.
    """
    source, held, start = iter(blocks), None, 0
    for piece in pieces:
        size = piece.shape[-1]
        while held is None or held.shape[-1] < size:
            block = next(source)
            held = block if held is None else torch.cat([held, block], -1)
        mixture, held = held[..., :size], held[..., size:]
        gate = gate_of(start, size, sample_rate, when).to(piece)
        start += size
        if not residual:
            yield piece * gate
            continue
        estimates = piece[:-1] * gate
        rest = piece[-1] + (piece[:-1] * (1 - gate)).sum(0)
        rest = torch.where(gate > 0, rest, mixture.to(piece))
        yield torch.cat([estimates, rest[None]])


def in_windows(
    process: Callable[[Tensor], Tensor],
    blocks: Iterable[Float[Tensor, "*c m"]],
    windows: Windows | None = None,
    *,
    keep_level: bool = False,
) -> Iterator[Float[Tensor, "*d m"]]:
    """Send a sound through a network window by window.

    Parameters
    ----------
    process : callable
        Takes a tensor of shape (..., length) and returns one whose last dimension is as long.
        Deterministic networks must use the same noise in each window, or sources drift.
    blocks : iterable of Tensor, shape (..., m)
        Consecutive pieces of the sound; a whole one is a list of one.
    windows : Windows, optional
        10.24 s with margins and fades of 0.64 s if absent.
    keep_level : bool
        As in :func:`overlap_add`; for vocoders.

    Yields
    ------
    Tensor, shape (..., m)
        Consecutive pieces of the result, together as long as the sound.
    """
    windows = windows or Windows()
    pieces = (replace(piece, wave=process(piece.wave)) for piece in split(blocks, windows))
    yield from overlap_add(pieces, windows, keep_level=keep_level)


def _cross_fade(old: Tensor, new: Tensor, keep_level: bool) -> Tensor:
    r"""Go from one waveform to another.

    With weights ``a + b = 1`` the power of the sum is that of its parts times ``1 - 2 a b d``,
    where ``d`` is 0 for equal waveforms and 1 for unrelated ones.
    """
    size = new.shape[-1]
    rise = torch.arange(1, size + 1, device=new.device, dtype=new.dtype) / (size + 1)
    faded = torch.lerp(old, new, rise)
    if not keep_level:
        return faded
    power = (old.square() + new.square()).sum(-1, keepdim=True)
    unlike = (old - new).square().sum(-1, keepdim=True) / power.clamp(min=_TINY)
    return faded * (1 - 2 * rise * (1 - rise) * unlike.clamp(max=1)).rsqrt()
