"""Files appear whole or not at all, and are read within bounds; the one place that does either.

::

    with whole_file(path) as part:      # for what writes to a path itself
        save_file(tensors, part)
    write_text(path, text)              # for what is at hand
    write_json(path, value)
    write_tensors(path, tensors)
    content = read_bounded(path)        # unfolds .gz, .bz2 and .xz, up to a bound
    value = read_json(path)

What is unfinished lies in a hidden folder ``.HOST-PID-N.partial`` beside the target. One whose
process was killed is removed when the next process writes to the same folder. The umask decides
the mode of every file. What the machine refuses (a full disk, no permission, a name too long)
becomes a :class:`StorageError`, what a file's content gets wrong a :class:`FileError`: each one
sentence to show to the user.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import itertools
import json
import lzma
import os
import platform
import re
import shutil
import stat
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

READ_LIMIT = 256 << 20
"""Bytes that a file of text may unfold to; ``RECTIFLOW_READ_LIMIT=2G`` raises it."""

LIMIT_VARIABLE = "RECTIFLOW_READ_LIMIT"

_FORGOTTEN_S = 86400.0  # partials of other machines, whose processes cannot be asked for
_PARTIAL = re.compile(r"\.([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-\d+\.partial")
_OS_ERROR = re.compile(r"os error (\d+)")  # how libraries written in Rust tell the errno
_PROBE = 1 << 16
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

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

    def __reduce__(self) -> tuple[type[FileError], tuple[Path, str, str, str]]:
        return type(self), (self.path, self.found, self.expected, self.hint)


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


@contextmanager
def staging(folder: str | Path) -> Iterator[Path]:
    """Give a folder of one's own inside ``folder``, which goes away whatever happens.

    Parameters
    ----------
    folder : str or Path
        Made if absent. What killed processes left in it is removed first.

    Raises
    ------
    StorageError
        When nothing can be written there.
    """
    folder = Path(folder)
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _sweep_once(folder)
        own = folder / f".{_HOST}-{os.getpid()}-{_PROCESS}-{next(_NUMBERS)}.partial"
        own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


@contextmanager
def whole_file(path: str | Path, *, sync: bool = True) -> Iterator[Path]:
    """Give a path to write to; the file has its own name when the block ends without error.

    Parameters
    ----------
    path : str or Path
        The file to be; its folder is made. What is there is replaced: whether it may be is
        :mod:`rectiflow.storage.folders`' matter. A link is followed.
    sync : bool, default True
        Wait until the disk has it, so that a power cut cannot leave an empty file. Off for what
        is cheap to make again.

    Raises
    ------
    StorageError
        When the machine refuses, whichever error the library that writes makes of it.
    """
    target = Path(path)
    with storing(target):
        _require_replaceable(target)
        if target.is_symlink():
            target = target.resolve()
        with staging(target.parent) as own:
            part = own / target.name
            part.touch()
            mode = part.stat().st_mode
            try:
                yield part
            except OSError:
                raise
            except Exception as error:
                raise _cause(error, own) or error from error
            # Some libraries put a file of mode 0600 in the place of the one they are given.
            part.chmod(mode & 0o777)
            if sync:
                _sync(part)
            os.replace(part, target)
            if sync:
                _sync(target.parent)


def _require_replaceable(path: Path) -> None:
    """Refuse a folder, a device or a pipe: renaming over a device would end it."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise FileError(
            path,
            "it is a folder" if stat.S_ISDIR(mode) else "it is a device or a pipe",
            "a file, or a name that is free",
            "Choose another name.",
        )


def _cause(error: Exception, own: Path) -> OSError | None:
    """Return the refusal behind a library's own error, asking the file system if need be."""
    told = _OS_ERROR.search(str(error))
    if told:
        return OSError(int(told[1]), str(error))
    try:
        with (own / "probe").open("wb") as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
        largest = max((each.stat().st_size for each in own.iterdir()), default=0)
        with (own / "probe").open("wb") as file:
            file.seek(largest)
            file.write(bytes(_PROBE))
    except OSError as refusal:
        return refusal
    return None


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # file systems that cannot, and folders on some of them
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES):
            raise
    finally:
        os.close(handle)


def _host() -> str:
    """Name the place where a process number means something: a machine, or a container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


_HOST = _host()
_PROCESS = uuid.uuid4().hex[:8]  # tells this process from an earlier one of the same number
_NUMBERS = itertools.count()
_swept: set[str] = set()  # a folder of many files is not listed again for each


def _sweep_once(folder: Path) -> None:
    key = os.path.realpath(folder)
    if key not in _swept:
        _swept.add(key)
        sweep(folder)


def sweep(folder: str | Path) -> None:
    """Remove what killed processes left unfinished in a folder."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if _PARTIAL.fullmatch(entry.name)]
    except PermissionError:  # one may write to a folder that one may not list
        return
    for entry in found:
        if _is_left(entry):
            shutil.rmtree(entry.path, ignore_errors=True)


def _is_left(entry: os.DirEntry[str]) -> bool:
    host, pid, process = _PARTIAL.fullmatch(entry.name).groups()  # type: ignore[union-attr]
    if host != _HOST:
        try:
            return time.time() - entry.stat(follow_symlinks=False).st_mtime > _FORGOTTEN_S
        except OSError:
            return False
    if int(pid) == os.getpid():
        return process != _PROCESS
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False


def write_bytes(path: str | Path, content: bytes, *, sync: bool = True) -> None:
    """Write a file, whole or not at all; see :func:`whole_file`."""
    with whole_file(path, sync=sync) as part:
        part.write_bytes(content)


def write_text(path: str | Path, text: str) -> None:
    r"""Write UTF-8; bytes of file names that are no text become ``\udcXX`` escapes."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON document and a line end."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_tensors(
    path: str | Path,
    tensors: Mapping[str, Tensor],
    metadata: dict[str, str] | None = None,
    *,
    sync: bool = True,
) -> None:
    """Write named tensors as safetensors, from wherever they are."""
    from safetensors.torch import save_file

    with whole_file(path, sync=sync) as part:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part, metadata)


def read_bounded(path: str | Path, *, limit: int | None = None) -> bytes:
    """Read a file of text, unfolding gzip, bzip2 or xz by its first bytes.

    Parameters
    ----------
    path : str or Path
        The file.
    limit : int, optional
        Most bytes to unfold to; by default :func:`read_limit`. Memory stays within it, whatever
        the file holds.

    Raises
    ------
    StorageError
        When it cannot be read.
    FileError
        When it is larger, or its compression is damaged.
    """
    bound = read_limit() if limit is None else limit
    with storing(path), Path(path).open("rb") as file:
        head = file.peek(6)[:6]  # not read(): a pipe cannot go back
        unfold = next((way for magic, way in _UNFOLDING.items() if head.startswith(magic)), None)
        try:
            content = (file if unfold is None else unfold(file)).read(bound + 1)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError) as error:
            raise FileError(
                path,
                f"its compression is damaged or cut short ({error})",
                "a whole file",
                "Fetch it again.",
            ) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise FileError(  # bzip2's word for damage
                path, f"its compression is damaged ({error})", "a whole file", "Fetch it again."
            ) from error
    if len(content) > bound:
        raise FileError(
            path,
            f"it holds more than {size_text(bound)}" + ("" if unfold is None else " when unfolded"),
            f"at most {size_text(bound)}",
            f"If it is what you mean, raise the bound: {LIMIT_VARIABLE}=4G.",
        )
    return content


def _gunzip(file: BinaryIO) -> gzip.GzipFile:
    return gzip.GzipFile(fileobj=file)


_UNFOLDING: dict[bytes, Any] = {
    b"\x1f\x8b": _gunzip,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}


def read_limit() -> int:
    """Return the bound of :func:`read_bounded`: 256 MiB, or what the environment says.

    Raises
    ------
    ValueError
        When ``RECTIFLOW_READ_LIMIT`` is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "")
    if not text:
        return READ_LIMIT
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise ValueError(f"{LIMIT_VARIABLE} is no size, got {text!r}; expected such as 512M or 4G.")
    return int(found[1]) * _UNITS[found[2].upper()]


def size_text(size: float) -> str:
    """Return a number of bytes for people.

    Examples
    --------
    >>> size_text(256 << 20)
    '256 MiB'
    """
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"


def read_text(path: str | Path, *, limit: int | None = None) -> str:
    """Read UTF-8 with or without a byte-order mark, within the bound of :func:`read_bounded`.

    Raises
    ------
    StorageError, FileError
        As :func:`read_bounded`, and FileError when it is not UTF-8.
    """
    try:
        return read_bounded(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            path,
            f"byte {error.start} is not UTF-8",
            "text in UTF-8",
            "Convert it, such as with `iconv -t UTF-8`.",
        ) from error


def read_json(path: str | Path, *, hint: str = "Make it again.") -> dict[str, Any]:
    """Read a JSON document that is an object.

    Raises
    ------
    StorageError, FileError
        As :func:`read_text`, and FileError when it is anything else.
    """
    try:
        value = json.loads(read_text(path))
    except FileError:
        raise
    except (ValueError, RecursionError) as error:
        raise FileError(path, f"it is no JSON ({error})", "a JSON object", hint) from error
    if not isinstance(value, dict):
        raise FileError(path, f"it holds a {type(value).__name__}", "a JSON object", hint)
    return value


def digest_of_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content: what tells a changed input from an untouched one."""
    with storing(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
