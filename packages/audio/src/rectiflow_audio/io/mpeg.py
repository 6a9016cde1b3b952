"""MP3: frames without a header of the whole, whose number must be counted.

The decoder takes the number from the tag in the first frame ("Xing" or "Info") or, where there is
none, guesses it from the first frame's size, and stops there. Here frames are counted: one file
that was cut is told from one that never had a tag, and the latter gets one.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import BinaryIO

from rectiflow_audio.io.headers import Finding

_KBPS = {  # by version and layer: MPEG 1, and MPEG 2 with 2.5
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)  # Hz, of MPEG 1; halved in 2, quartered in 2.5
_SLOTS = {(1, 1): 48, (1, 2): 144, (1, 3): 144, (2, 1): 48, (2, 2): 144, (2, 3): 72}
_HEAD = 4  # bytes of a frame's header
_TAG_AT = {(1, 2): 32, (1, 1): 17, (2, 2): 17, (2, 1): 9}  # by version and channels, after it


@dataclass(frozen=True)
class _Frame:
    """What a frame's header tells."""

    version: int
    layer: int
    hertz: int
    channels: int
    size: int  # bytes

    @property
    def samples(self) -> int:
        """Samples of each channel, of layer 3."""
        return 1152 if self.version == 1 else 576

    def is_like(self, other: _Frame) -> bool:
        """Whether both may be of one stream; bit rates vary, and so may joint stereo."""
        mine, others = (self.version, self.layer, self.hertz), (other.version, other.layer)
        return mine == (*others, other.hertz)


def inspect(raw: BinaryIO, size: int) -> Finding | None:
    """Count the frames of a file of ``size`` bytes; None if it is no MP3."""
    raw.seek(0)
    head = raw.read(_HEAD)
    if head[:3] != b"ID3" and _frame(head) is None:
        return None
    with mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _inspect(data, size)


def _inspect(data: mmap.mmap, size: int) -> Finding | None:
    start = _next_frame(data, 0, None)
    if start is None:
        return None
    first = _frame(data[start : start + _HEAD])
    if first is None or first.layer != 3:
        return Finding()
    announced = _announced(data, start, first)
    begin = start if announced is None else start + first.size
    found, is_cut = _count(data, begin, first)
    if announced is not None:
        # A few encoders count the frame of the tag as well.
        if found < announced - 1 or (is_cut and found < announced):
            return Finding(promised=f"{announced} frames, of which {found} are there")
        if found <= announced + 1:
            return Finding()
    remark = "its last frame is cut" if is_cut else ""
    if announced is not None:
        remark = f"{found - announced} frames follow the end that it tells; they are read too"
    head = data[start : start + _HEAD]
    return Finding("", _head(head, first, found), begin, found * first.samples, remark)


def _frame(head: bytes) -> _Frame | None:
    """Read the header of a frame; None if it is none, or of a free bit rate."""
    if len(head) < _HEAD or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    kind, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    rate, hertz = head[2] >> 4, head[2] >> 2 & 3
    if kind == 1 or layer == 4 or rate in (0, 15) or hertz == 3:
        return None
    version = 1 if kind == 3 else 2
    frequency = _RATES[hertz] // {3: 1, 2: 2, 0: 4}[kind]
    padding = (head[2] >> 1 & 1) * (4 if layer == 1 else 1)
    slots = _SLOTS[version, layer] * _KBPS[version, layer][rate] * 1000 // frequency
    size = (slots // 4 * 4 if layer == 1 else slots) + padding
    return _Frame(version, layer, frequency, 1 if head[3] >> 6 == 3 else 2, size)


def _next_frame(data: mmap.mmap, position: int, like: _Frame | None) -> int | None:
    """Find the next frame that another one, or the end of the file, follows."""
    while True:
        if data[position : position + 3] == b"ID3":
            position += _tag_size(data, position)
            continue
        position = data.find(b"\xff", position)
        if position < 0:
            return None
        frame = _frame(data[position : position + _HEAD])
        if frame is not None and (like is None or frame.is_like(like)):
            after = position + frame.size
            follower = _frame(data[after : after + _HEAD])
            if after == len(data) or (follower is not None and follower.is_like(frame)):
                return position
        position += 1


def _tag_size(data: mmap.mmap, position: int) -> int:
    """Return the bytes of an ID3 tag, of which there may be several, with pictures of any size."""
    head = data[position : position + 10].ljust(10, b"\0")
    size = 0
    for byte in head[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size + (10 if head[5] & 0x10 else 0)


def _announced(data: mmap.mmap, start: int, frame: _Frame) -> int | None:
    """Return the number of frames that the tag in a first frame tells, if it does."""
    at = start + _HEAD + _TAG_AT[frame.version, frame.channels]
    if data[at : at + 4] in (b"Xing", b"Info"):
        flags, count = struct.unpack(">II", data[at + 4 : at + 12].ljust(8, b"\0"))
        return count if flags & 1 else None
    at = start + _HEAD + 32
    if data[at : at + 4] == b"VBRI":
        [count] = struct.unpack(">I", data[at + 14 : at + 18].ljust(4, b"\0"))
        return int(count)
    return None


def _count(data: mmap.mmap, position: int, like: _Frame) -> tuple[int, bool]:
    """Count the whole frames from a place on, and tell whether the last one is cut."""
    count = 0
    while position < len(data):
        frame = _frame(data[position : position + _HEAD])
        if frame is None or not frame.is_like(like):  # a tag, or damage
            found = _next_frame(data, position, like)
            if found is None:
                return count, False
            position = found
            continue
        if position + frame.size > len(data):
            return count, True
        position += frame.size
        count += 1
    return count, False


def _head(head: bytes, frame: _Frame, count: int) -> bytes:
    """Make a frame that tells the number of frames, and a silent one.

    Decoders take an encoder's delay off the beginning where there is a tag; the second frame gives
    it to them.
    """
    side = bytes(_TAG_AT[frame.version, frame.channels])
    made = b""
    for content in (side + b"Info" + struct.pack(">II", 1, count + 1), side):
        # Without checksum and padding, at a bit rate whose frame has room.
        rates = (rate << 4 | head[2] & 0x0C for rate in range(1, 15))
        headers = (bytes([head[0], head[1] | 1, rate, head[3]]) for rate in rates)
        fitting = ((h, f) for h in headers if (f := _frame(h)) and f.size >= _HEAD + len(content))
        header, one = next(fitting)
        made += (header + content).ljust(one.size, b"\0")
    return made
