"""What a file's own header promises, and what is there.

Each family of formats inspects the bytes before libsndfile decodes them, which believes any header
and returns as much as it finds.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Finding:
    """What was found out about a file.

    Attributes
    ----------
    promised : str
        What its header promises and the file lacks ("64044 bytes"); empty if it is whole.
    head : bytes
        What the decoder is to read instead of the first ``skip`` bytes, a header that is right;
        empty if the file is read as it is.
    skip : int
    samples : int, optional
        Length of each channel, where the decoder counts some from before the beginning.
    remark : str
        What a user should know though the file is read, a clause.
    """

    promised: str = ""
    head: bytes = b""
    skip: int = 0
    samples: int | None = None
    remark: str = ""


class Spliced(io.RawIOBase):
    """A file whose first bytes are replaced by others.

    Parameters
    ----------
    raw : file
        Open for reading, and closed by its owner.
    head : bytes
        The new beginning.
    skip : int
        How many bytes of ``raw`` it stands for.
    """

    def __init__(self, raw: BinaryIO, head: bytes, skip: int) -> None:
        self._raw, self._head, self._skip, self._at = raw, head, skip, 0
        self._size = raw.seek(0, io.SEEK_END) - skip + len(head)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place in the spliced file."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place in the spliced file."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer from the current place."""
        view = memoryview(buffer).cast("B")
        head = self._head[self._at : self._at + len(view)]
        view[: len(head)] = head
        count = len(head)
        if count < len(view):
            self._raw.seek(self._at + count - len(self._head) + self._skip)
            count += self._raw.readinto(view[count:])  # type: ignore[attr-defined]
        self._at += count
        return count
