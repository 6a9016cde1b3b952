"""WAV, RF64 and AIFF: chunks of a name and a size, one of which holds the samples."""

from __future__ import annotations

import struct
from typing import BinaryIO

from rectiflow_audio.io.headers import Finding

_FORMS = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">"}  # byte order of the sizes
_SAMPLES = {b"data", b"SSND"}
_MOST = 0xFFFF_FFFF
_PLACEHOLDERS = ((0, 0), (0x7FFF_0000, 0x8000_0040), (0xFFFF_0000, _MOST))
"""Ranges of sizes that recorders write who do not know the length yet: none, or about as much as
31 or 32 bits hold, less a header."""
_LONGEST_FORMAT = 1 << 16  # bytes of a chunk "fmt "


def inspect(raw: BinaryIO, size: int) -> Finding | None:
    """Walk the chunks of a file of ``size`` bytes to the samples; None if it has no such chunk."""
    raw.seek(0)
    form, kind = struct.unpack("4s4x4s", raw.read(12).ljust(12, b"\0"))
    if form not in _FORMS:
        return None
    order = _FORMS[form]
    raw.seek(4)
    [whole] = struct.unpack(f"{order}I", raw.read(4).ljust(4, b"\0"))
    position, long_size, described = 12, None, b""
    while True:
        raw.seek(position)
        if len(head := raw.read(8)) < 8:
            return None
        name, told = struct.unpack(f"{order}4sI", head)
        position += 8
        if name in _SAMPLES:
            break
        if name == b"ds64" and len(sizes := raw.read(16)) == 16:
            _, long_size = struct.unpack("<QQ", sizes)
        if name == b"fmt " and told <= _LONGEST_FORMAT:
            described = head + raw.read(told + told % 2)
        position += told + told % 2
    if told == _MOST and long_size is not None:  # of a file too large for 32 bits
        told = long_size if 0 < long_size < 1 << 63 else _MOST
    left = size - position
    if _is_placeholder(told) and told != left:
        is_empty = told == 0 and _are_chunks(raw, position, size, order)
        return Finding() if is_empty else _whole(form, kind, described, left, position)
    if told > left:
        return Finding(promised=f"{position + told} bytes")
    end = position + told + told % 2
    if end >= size or _are_chunks(raw, end, size, order):
        return Finding()
    if (whole + 8 - size) % (_MOST + 1) == 0:  # the form's own size agrees with the file's
        return _whole(form, kind, described, left, position)
    remark = f"{size - end} bytes follow the end of the sound that its header tells; not read"
    return Finding(remark=remark)


def _is_placeholder(told: int) -> bool:
    return any(low <= told <= high for low, high in _PLACEHOLDERS)


def _are_chunks(raw: BinaryIO, position: int, size: int, order: str) -> bool:
    """Tell whether a place up to the end reads as chunks, not as samples."""
    while size - position >= 8:
        raw.seek(position)
        name, told = struct.unpack(f"{order}4sI", raw.read(8))
        if not all(32 <= byte < 127 for byte in name) or told > size - position - 8:
            return False
        position += 8 + told + told % 2
    return True


def _whole(form: bytes, kind: bytes, described: bytes, left: int, position: int) -> Finding:
    """Read on to the end of the file, under a header that says so."""
    if form == b"FORM" or len(described) < 24:  # the decoder finds out by itself, or refuses
        return Finding()
    order = _FORMS[form]
    if left > _MOST and order == "<":  # more than 32 bits tell
        [step] = struct.unpack_from("<H", described, 20)
        sizes = struct.pack("<QQQI", left, left, left // max(1, step), 0)
        long = b"ds64" + struct.pack("<I", len(sizes)) + sizes
        name, rest = b"RF64", kind + long + described + b"data"
    else:
        name, rest = b"RIFX" if form == b"RIFX" else b"RIFF", kind + described + b"data"
    told = struct.pack(f"{order}I", min(left, _MOST))
    whole = struct.pack(f"{order}I", min(len(rest) + 4 + left, _MOST))
    return Finding(head=name + whole + rest + told, skip=position)
