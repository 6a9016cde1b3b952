"""TFRecord files as MeshGraphNets' data are published: records with checksums, arrays as bytes.

A record is its length, a checksum of that, the bytes and a checksum of these. The bytes are a
``tf.train.Example``: names with raw little-endian arrays, whose shapes and types stand in
``meta.json`` beside the file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_json

if TYPE_CHECKING:
    from jaxtyping import UInt32

META = "meta.json"
_LANES = 1024  # stretches of a record whose checksums are taken side by side
_DTYPES = ("int32", "int64", "float32", "float64")


def read_tfrecord(path: Path) -> Iterator[dict[str, np.ndarray]]:
    """Yield the arrays of each trajectory by name, and ``time`` where ``meta.json`` has a step.

    Raises
    ------
    FileError
        If there is no ``meta.json``, or the file is cut short, damaged or of another form.
    """
    if not (path.parent / META).is_file():
        raise FileError(
            path,
            f"it is a TFRecord file without the {META} that tells its shapes",
            f"{META} beside it",
            "Copy that of the data set there.",
        )
    meta = read_json(path.parent / META)
    try:
        features: Mapping[str, Any] = dict(meta["features"])
        told = {name: (str(each["dtype"]), tuple(each["shape"])) for name, each in features.items()}
        if bad := [name for name, (dtype, _) in told.items() if dtype not in _DTYPES]:
            raise ValueError(f"the types of {', '.join(bad)} are none of {', '.join(_DTYPES)}")
        step = None if meta.get("dt") is None else float(meta["dt"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileError(
            path.parent / META, f"it does not describe a TFRecord file ({error})",
            "features with dtype and shape", "Copy that of the data set again.",
        ) from error  # fmt: skip
    for record in records(path):
        try:
            found = dict(_features(record))
            arrays = {
                name: np.frombuffer(found[name], np.dtype(dtype).newbyteorder("<")).reshape(shape)
                for name, (dtype, shape) in told.items()
            }
        except (KeyError, ValueError, IndexError) as error:
            raise FileError(
                path, f"a record of this TFRecord file has not the arrays of {META} ({error})",
                f"{', '.join(told)}", "Copy file and description again.",
            ) from error  # fmt: skip
        if step is not None:
            arrays["time"] = step * np.arange(max(len(array) for array in arrays.values()))
        yield arrays


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of a file, their checksums verified.

    Raises
    ------
    FileError
        If it is cut short or damaged.
    """
    left = path.stat().st_size
    with path.open("rb") as file:
        while head := file.read(12):
            length, check = struct.unpack("<QI", head) if len(head) == 12 else (0, -1)
            left -= 16 + length
            if left < 0 or masked(head[:8]) != check:
                raise _damaged(path)
            data, tail = file.read(length), file.read(4)
            if masked(data) != struct.unpack("<I", tail)[0]:
                raise _damaged(path)
            yield data


def _damaged(path: Path) -> FileError:
    return FileError(
        path,
        "this TFRecord file is cut short (truncated) or damaged: a checksum does not fit",
        "a whole file",
        "Copy it again.",
    )


def _features(example: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each feature of a ``tf.train.Example``."""
    for features in _fields(example, 1):
        for entry in _fields(features, 1):
            [name], [feature] = _fields(entry, 1), _fields(entry, 2)
            values = [value for each in _fields(feature, 1) for value in _fields(each, 1)]
            if len(values) != 1:
                raise ValueError(f"{name.decode()} is not one array of bytes")
            yield name.decode(), values[0]


def _fields(message: bytes, wanted: int) -> list[bytes]:
    """Return the fields of a number in a message of protocol buffers; all have a length here."""
    found, at = [], 0
    while at < len(message):
        key, at = _varint(message, at)
        length, at = _varint(message, at)
        if key & 7 != 2 or at + length > len(message):
            raise ValueError("a message of another form")
        if key >> 3 == wanted:
            found.append(message[at : at + length])
        at += length
    return found


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            return value, at


def masked(data: bytes) -> int:
    """Return the checksum of a record, as it is stored."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Return the cyclic redundancy check of Castagnoli, 32 bits.

    The check is linear: stretches go side by side, that of two after each other is the first moved
    on by the zeros that the second is long, plus the second; and so is the start, all ones.

    Examples
    --------
    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    lanes = _LANES if len(data) > 64 * _LANES else 1
    width = -(-len(data) // lanes)
    rows = np.frombuffer(data.rjust(lanes * width, b"\0"), np.uint8).reshape(lanes, width)
    state = np.zeros(lanes, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        state = _TABLE[(state ^ column) & 255] ^ state >> 8
    moved = _power(_BYTE, width)
    while len(state) > 1:
        state = _apply(moved, state[::2]) ^ state[1::2]
        moved = _apply(moved, moved)
    start = _apply(_power(_BYTE, len(data)), np.array([0xFFFFFFFF], np.uint32))
    return int((state ^ start)[0]) ^ 0xFFFFFFFF


def _apply(columns: UInt32[np.ndarray, " 32"], values: UInt32[np.ndarray, " n"]) -> np.ndarray:
    """Multiply bit vectors by a matrix, both over the field of two numbers."""
    out = np.zeros_like(values)
    for i, column in enumerate(columns):
        out ^= np.where(values >> np.uint32(i) & 1, column, np.uint32(0)).astype(np.uint32)
    return out


def _power(columns: UInt32[np.ndarray, " 32"], exponent: int) -> UInt32[np.ndarray, " 32"]:
    found = _BITS
    while exponent:
        if exponent & 1:
            found = _apply(columns, found)
        columns, exponent = _apply(columns, columns), exponent >> 1
    return found


def _table() -> UInt32[np.ndarray, " 256"]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(0x82F63B78), table >> 1)
    return table.astype(np.uint32)


_TABLE = _table()
_BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)
_BYTE = _TABLE[_BITS & 255] ^ _BITS >> 8
"""What a zero byte does to each bit of a check."""
