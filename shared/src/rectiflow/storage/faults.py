"""What can be wrong with a file: the machine refuses it, or its content is another."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SAID = {
    errno.ENOSPC: ("the disk is full", "Free some space, or choose another folder."),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or choose another folder."),
    errno.EFBIG: ("the file grows beyond what is allowed here", "See `ulimit -f`."),
    errno.EROFS: ("the file system is read-only", "Choose another folder."),
    errno.EACCES: ("permission is denied", "Choose a place of yours, or change its mode."),
    errno.EPERM: ("permission is denied", "Choose a place of yours, or change its mode."),
    errno.ENAMETOOLONG: ("the name is too long", "File systems take 255 bytes; shorten it."),
    errno.ENOTDIR: ("a part of the path is a file, not a folder", "Check the path."),
    errno.EISDIR: ("it is a folder, expected a file", "Check the path."),
    errno.EEXIST: ("it exists already", "Choose another name."),
    errno.ENOENT: ("there is no such file or folder", "Check the path."),
    errno.ELOOP: ("its links lead in a circle", "Check the path."),
    errno.EMFILE: ("too many files are open", "Raise `ulimit -n`."),
    errno.ENFILE: ("too many files are open", "Close other programs."),
    errno.EIO: ("the device fails", "Check the disk."),
    errno.ENOMEM: ("memory is used up", "Close other programs."),
    errno.EINVAL: ("the name is not a usable one", "Check the path."),
}


class StorageError(OSError):
    """The machine cannot read or write a file: one sentence, with the ``errno`` behind it."""


class FileError(ValueError):
    """A file is not what it should be.

    Parameters
    ----------
    path : str or Path
        The file.
    found : str
        What is in it, as a clause ("it ends at byte 512").
    expected : str
        What was needed.
    hint : str
        What to do about it, a sentence.
    """

    def __init__(self, path: str | Path, found: str, expected: str, hint: str) -> None:
        super().__init__(f"{path}: {found}; expected {expected}. {hint}")
        self.path, self.found, self.expected, self.hint = Path(path), found, expected, hint

    @property
    def reason(self) -> str:
        """What was found and what was expected, without the path: a cell of a table."""
        return f"{self.found}; expected {self.expected}"

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str, str, str]]:
        return type(self), (self.path, self.found, self.expected, self.hint)


class CheckpointError(ValueError):
    """A file of weights is not what it should be.

    Attributes
    ----------
    path : Path
        The file or folder.
    missing : list of str
        Tensors the model has and the file lacks.
    unexpected : list of str
        Tensors the file has and the model lacks.
    """

    def __init__(
        self,
        path: Path | str,
        problem: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{path}: {problem}.")
        self.path = Path(path)
        self.missing, self.unexpected = list(missing), list(unexpected)


def said(error: OSError) -> str | None:
    """Return what to tell a user whose machine refuses something; None if it may be our fault.

    Examples
    --------
    >>> said(OSError(errno.ENOSPC, "No space left on device", "a.pdb"))
    'a.pdb: the disk is full. Free some space, or choose another folder.'
    """
    if isinstance(error, StorageError):
        return str(error)
    if error.errno not in _SAID:
        return None
    found, hint = _SAID[error.errno]
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if len(where) > 120:
        where = f"{where[:60]}...{where[-40:]}"
    return f"{where}: {found}. {hint}" if where else f"{found[0].upper()}{found[1:]}. {hint}"


@contextmanager
def storing(path: str | Path) -> Iterator[None]:
    """Turn an OSError about ``path`` into a StorageError that says what is wrong."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise _refused(error, path) from error


def _refused(error: OSError, path: str | Path) -> OSError:
    named = error.filename if isinstance(error.filename, str) else None
    where = str(path) if named is None or ".partial" in named else named
    text = said(OSError(error.errno, "", where))
    if text is None:
        return error
    told = StorageError(text)
    told.errno = error.errno
    return told
