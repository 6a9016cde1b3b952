"""The clip of one row of a list: accepted, or refused with a reason."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import torch
from rectiflow.storage.preparation import Judged

from rectiflow_audio.data.captions import Entry
from rectiflow_audio.data.prepared import pack_wave
from rectiflow_audio.data.tables import find_file, is_file
from rectiflow_audio.frontend import SAMPLE_RATE, resample

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Channel = Literal["mean", "first"]
"""How channels become one."""

_SILENT = 1e-4  # -80 dBFS: three steps of 16 bits, dither and nothing else

_SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "val": "valid",
    "validation": "valid",
    "dev": "valid",
    "test": "test",
    "eval": "test",
    "evaluation": "test",
}


def read_clip(path: Path, channel: Channel = "mean") -> tuple[Tensor, dict[str, Any]]:
    """Read a file as one channel at 16 kHz.

    Parameters
    ----------
    path : Path
        A sound file.
    channel : str
        ``"mean"`` or ``"first"``.

    Returns
    -------
    Tensor, shape (n,)
        float32.
    dict
        ``seconds``, and ``sample_rate`` and ``channels`` of the file.

    Raises
    ------
    ValueError
        If :func:`rectiflow_audio.io.read_audio` refuses it, or it is silent.
    """
    from rectiflow_audio.io import read_audio

    audio = read_audio(path)
    mono = torch.from_numpy(audio.mono(channel)).clone()
    if float((mono - mono.mean()).abs().max()) < _SILENT:
        raise ValueError("silent: every sample is more than 80 dB below full scale")
    wave = resample(mono, audio.sample_rate, SAMPLE_RATE)
    told = {
        "seconds": f"{wave.shape[-1] / SAMPLE_RATE:.4f}",
        "sample_rate": audio.sample_rate,
        "channels": audio.channels,
    }
    return wave, told


def clip_of(entry: Entry, root: Path, channel: Channel) -> Judged:
    """Read the file of one row of a list; never raises on a bad file.

    Parameters
    ----------
    entry : Entry
        The row.
    root : Path
        Folder that file names are given relative to.
    channel : str
        ``"mean"`` or ``"first"``.

    Returns
    -------
    Judged
        The clip, or a refusal with ``file``, ``line`` and ``reason``.
    """
    try:
        return Judged(accepted=[_judge(entry, root, channel)])
    except (ValueError, OSError) as error:
        return Judged(refused=[_refusal(entry, str(getattr(error, "reason", error)))])
    except Exception as error:
        # One odd file must not end a preparation of thousands.
        log.exception("%s could not be prepared", entry.file)
        reason = f"unforeseen {type(error).__name__}: {error}"
        return Judged(refused=[_refusal(entry, reason)])


def _judge(entry: Entry, root: Path, channel: Channel) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Record and row of one listed file; ValueError says why it has none."""
    if not entry.file:
        _refuse("no file is named")
    if not entry.caption:
        _refuse("no caption")
    if entry.split and entry.split.lower() not in _SPLIT_NAMES:
        _refuse(f"unknown split {entry.split!r}, expected train, valid or test")
    path = find_file(root, entry.file)
    if not is_file(path):
        _refuse("there is no such file")
    wave, told = read_clip(path, channel)
    record = pack_wave(wave)
    row = {
        "name": Path(entry.file).stem,
        "source": entry.file,
        "label": entry.label,
        "caption": entry.caption,
        "split": _SPLIT_NAMES.get(entry.split.lower(), ""),
        **told,
        "line": entry.line,
        "samples": hashlib.sha256(record["wave"].numpy().tobytes()).hexdigest(),
    }
    return record, row


def _refuse(reason: str) -> NoReturn:
    raise ValueError(reason)


def _refusal(entry: Entry, reason: str) -> dict[str, Any]:
    return {"file": entry.file, "line": entry.line, "reason": " ".join(reason.split())}
