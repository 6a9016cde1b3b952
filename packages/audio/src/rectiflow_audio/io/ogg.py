"""Ogg: pages, of which the last one ends the file."""

from __future__ import annotations

from typing import BinaryIO

from rectiflow_audio.io.headers import Finding

_HEADER = 27  # bytes of a page before its table of segments
_SERIAL = slice(14, 18)  # which stream a page belongs to
_TAIL = 1 << 17  # two pages of the largest size, 65,307 bytes


def inspect(raw: BinaryIO, size: int) -> Finding | None:
    """Find where the last page must end, and whether it is of the stream that begins the file."""
    raw.seek(0)
    first = raw.read(_HEADER)
    if first[:4] != b"OggS":
        return None
    start = max(0, size - _TAIL)
    raw.seek(start)
    tail = raw.read()
    page = tail.rfind(b"OggS")
    header = tail[page : page + _HEADER]
    if page < 0 or len(header) < _HEADER:
        return Finding(promised=f"{size + 1} bytes")
    segments = header[-1]
    table = tail[page + _HEADER : page + _HEADER + segments]
    end = start + page + _HEADER + segments + sum(table)
    if end > size:
        return Finding(promised=f"{end} bytes")
    if header[_SERIAL] != first[_SERIAL]:
        return Finding(remark="it holds several streams; only the first is read")
    return Finding()
