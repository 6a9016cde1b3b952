"""Files appear whole or not at all; the one place that writes them.

::

    with whole_file(path) as part:      # for what writes to a path itself
        save_file(tensors, part)
    write_text(path, text)              # for what is at hand
    write_json(path, value)
    write_tensors(path, tensors)

What is unfinished lies in a hidden folder ``.HOST-PID-PROCESS-N.partial`` beside the target. One
whose process was killed is removed when the next process writes to the same folder. The umask
decides the mode of every file. What the machine refuses (a full disk, no permission, a name too
long) becomes a :class:`~rectiflow.storage.faults.StorageError`: one sentence to show to the user.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.storage.faults import FileError, storing

if TYPE_CHECKING:
    from torch import Tensor

_FORGOTTEN_S = 86400.0  # partials of other machines, whose processes cannot be asked for
_PARTIAL = re.compile(r"\.([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-\d+\.partial")
_OS_ERROR = re.compile(r"os error (\d+)")  # how libraries written in Rust tell the errno
_PROBE = 1 << 16


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
    """Write UTF-8; bytes of file names that are no text become escapes, such as for ``0xE9``."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON document and a line end."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_table(
    path: str | Path, columns: Iterable[str], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write a CSV file in UTF-8; None becomes an empty cell."""
    with (
        whole_file(path) as part,
        part.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.DictWriter(file, list(columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


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
