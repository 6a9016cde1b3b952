"""Whose a file is: nothing is written over that the same command did not make.

::

    with claim(out, "protein samples", ["result.json", "sample_0.pdb"], inputs=paths) as own:
        ...                                   # write, by rectiflow.storage.files
        own.add(["sample_1.pdb"])             # names that are known later

    with claim_file(path, inputs=[recording]):  # one file in a folder of the user's
        ...

A folder is ours when its own record says so: ``.rectiflow``, one line per claim with who makes
which names. A name that exists and is not in the record, or is another maker's, is refused before
anything is computed; ``overwrite=True`` (``--overwrite``) is the only way past, and nothing is a
way past for an input. A maker tells apart what must not replace each other: the verb, and where
results are named after their inputs the input (``"audio sounds of rec/rain.wav"``).

While it is claimed a folder is locked against other processes by ``flock`` on the record, which
the system releases with the process, however it ends. Workers of one job share a folder under
different ``shard=(i, n)``. On file systems without locks a warning is logged and nothing is locked.
Claims of one thread may be nested: a verb claims what its library functions claim again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from rectiflow.storage.faults import storing
from rectiflow.storage.files import sweep

log = logging.getLogger(__name__)

RECORD = ".rectiflow"
"""Hidden file of a folder of ours: its record and its lock."""

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
_BUSY = (errno.EWOULDBLOCK, errno.EACCES)
_NAMED = 3


class TakenError(FileExistsError):
    """Something is there that may not be replaced: somebody else's file, an input, a used name."""


class InUseError(FileExistsError):
    """Another process is writing to the folder."""


class Claim:
    """A folder that this process may write to, and nobody else meanwhile.

    Attributes
    ----------
    folder : Path
    maker : str
    """

    def __init__(
        self, folder: Path, maker: str, inputs: Iterable[str | Path], overwrite: bool, lock: _Lock
    ) -> None:
        self.folder, self.maker, self._overwrite, self._lock = folder, maker, overwrite, lock
        sources = {_identity(Path(path)): Path(path) for path in inputs}
        self._inputs = {found: path for found, path in sources.items() if found is not None}

    def add(self, names: Iterable[str], maker: str | None = None) -> None:
        """Claim further names.

        Parameters
        ----------
        names : iterable of str
            Files and folders that are going to be written, relative to the folder.
        maker : str, optional
            Another maker than the claim's.

        Raises
        ------
        TakenError
            When one exists and is not this maker's, or two would be the same file.
        """
        maker, wanted = self.maker if maker is None else maker, list(names)
        self._require_apart(wanted)
        there = [name for name in wanted if os.path.lexists(self.folder / name)]
        # What is not there is nobody's: the record of a large folder is not read for each file.
        makers = makers_of(self.folder) if there else {}
        for name in there:
            found = _identity(self.folder / name)
            if found is not None and found in self._inputs:
                raise TakenError(
                    f"{self.folder / name} would be replaced and is the input "
                    f"{self._inputs[found]}; expected another place for results. Choose one with "
                    "-o."
                )
        foreign = [name for name in there if makers.get(name) != maker]
        folders = [n for n in foreign if n not in makers and (self.folder / n).is_dir()]
        if folders or (foreign and not self._overwrite):
            raise TakenError(_refusal(self.folder, folders or foreign, makers, bool(folders)))
        if self._overwrite:
            for name in there:
                _remove(self.folder / name)
        self._lock.append(maker, [name for name in wanted if makers.get(name) != maker])

    def _require_apart(self, names: list[str]) -> None:
        fold = _same_when_folded if self._lock.folds_case else str
        (name, times), *_ = [*Counter(map(fold, names)).most_common(1), ("", 0)]
        if times > 1:
            raise TakenError(
                f"{self.folder}: {times} results would be named {name}; expected a name for each. "
                "Rename the inputs or queries, or write them to different folders."
            )


@contextmanager
def claim(
    folder: str | Path,
    maker: str,
    names: Iterable[str] = (),
    *,
    inputs: Iterable[str | Path] = (),
    overwrite: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Claim]:
    """Lock a folder, and make sure that nothing but this maker's is replaced in it.

    Parameters
    ----------
    folder : str or Path
        Made if absent, and removed again if nothing came into it.
    maker : str
        Who writes: claims of the same maker may replace each other's files.
    names : iterable of str
        What is going to be written at the top of the folder or below: files and folders.
    inputs : iterable of str or Path
        Files that are read and must not be replaced.
    overwrite : bool, default False
        Remove what this maker left there, and what is there of these names, whoever made it.
        Folders that the record does not name stay, and are refused.
    shard : (int, int), default (0, 1)
        ``(i, n)`` of a job that n processes share. Shards lock each other out no more than
        needed; one with ``n = 1`` has the folder alone.

    Raises
    ------
    TakenError
        When a name exists and is not this maker's.
    InUseError
        When another process has the folder.
    StorageError
        When nothing can be written there.
    """
    folder = Path(folder)
    with storing(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    lock = _Lock.of(folder.resolve(), shard)
    try:
        if shard == (0, 1):
            sweep(folder)
        own = Claim(folder, maker, inputs, overwrite, lock)
        earlier = makers_of(folder) if overwrite and shard == (0, 1) else {}
        wanted = list(names)
        own.add(wanted)
        for name in earlier:
            if earlier[name] == maker and name not in wanted and os.path.lexists(folder / name):
                _remove(folder / name)
        yield own
    finally:
        lock.release(remove_folder=made)


@contextmanager
def claim_file(
    path: str | Path, *, inputs: Iterable[str | Path] = (), overwrite: bool = False
) -> Iterator[None]:
    """Make sure that one file, in a folder that is not ours, is free to be written.

    Raises
    ------
    TakenError
        When it exists and ``overwrite`` is false, or is one of the inputs.
    """
    target = Path(path)
    there = _identity(target)
    if there is not None and there in {_identity(Path(each)) for each in inputs}:
        raise TakenError(f"{target} is an input; expected another place for the result.")
    if os.path.lexists(target) and not overwrite:
        raise TakenError(
            f"{target} exists; expected a name that is free. Choose another, or add --overwrite "
            "to replace it."
        )
    yield


def places(
    folder: str | Path, out: str | Path, expected: str, *, or_file: bool = False
) -> tuple[Path, Path]:
    """Return both as whole paths, where ``folder`` is there and ``out`` not inside it.

    Parameters
    ----------
    folder, out : str or Path
        What is read, which nothing is written into, and what is written.
    expected : str
        What is read, such as ``"meshes"``.
    or_file : bool
        Whether ``folder`` may be a file.

    Raises
    ------
    FileNotFoundError, ValueError
        When one is not so.
    """
    folder, out = Path(folder).resolve(), Path(out).resolve()
    if not (folder.exists() if or_file else folder.is_dir()):
        what = f"no {folder}" if or_file else f"no folder {folder}"
        raise FileNotFoundError(f"there is {what}; expected {expected}. Check the path.")
    if folder.is_dir() and (out == folder or out.is_relative_to(folder)):
        raise ValueError(
            f"out must not lie inside the input folder, got {out}; expected a place outside "
            f"{folder}, which is only read."
        )
    return folder, out


def makers_of(folder: str | Path) -> dict[str, str]:
    """Return who made which names of a folder, by its records; empty where there are none."""
    makers: dict[str, str] = {}
    for record in sorted(Path(folder).glob(f"{RECORD}*")):
        if not record.is_file():
            continue
        # A line that a kill cut short is of a claim that has written nothing.
        for line in record.read_bytes().splitlines():
            try:
                told = json.loads(line)
                makers |= dict.fromkeys(map(str, told["names"]), str(told["maker"]))
            except (ValueError, TypeError, KeyError, RecursionError):
                continue
    return makers


def _refusal(folder: Path, names: list[str], makers: dict[str, str], folders: bool) -> str:
    listed = ", ".join(names[:_NAMED])
    listed += f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    owner = makers.get(names[0])
    found = "which this command did not make" if owner is None else f"made as {owner}"
    way = "Choose another." if folders else "Choose another, or add --overwrite to replace them."
    return f"{folder} holds {listed}, {found}; expected a new folder, or one of its own. {way}"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _same_when_folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _remove(path: Path) -> None:
    with storing(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


class _Lock:
    """The record of a folder, open and locked; shared by nested claims of a thread."""

    held: ClassVar[dict[tuple[object, ...], _Lock]] = {}

    @classmethod
    def of(cls, folder: Path, shard: tuple[int, int]) -> _Lock:
        key = (folder, shard, os.getpid(), threading.get_ident())
        found = cls.held.get(key)
        if found is None:
            found = cls.held[key] = cls(folder, shard)
            found._key = key
        found._depth += 1
        return found

    def __init__(self, folder: Path, shard: tuple[int, int]) -> None:
        self.folder, self._depth = folder, 0
        self._key: tuple[object, ...] = ()
        part, parts = shard
        own = RECORD if parts == 1 else f"{RECORD}-{part}-of-{parts}"
        self._handles: list[int] = []
        try:
            with storing(folder):
                if parts > 1:
                    self._open(RECORD, fcntl.LOCK_SH)
                self._open(own, fcntl.LOCK_EX)
        except BaseException:
            self._close()
            raise
        # The record's own name tells whether the file system tells "a" from "A".
        self.folds_case = (folder / RECORD.upper()).exists()

    def _open(self, name: str, kind: int) -> None:
        path = self.folder / name
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            self._handles.append(handle)
            try:
                fcntl.flock(handle, kind | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in _BUSY:
                    raise InUseError(
                        f"{self.folder} is in use by another process; expected a folder of one's "
                        "own. Wait for it, or choose another."
                    ) from error
                if error.errno not in _NO_LOCKS:
                    raise
                log.warning("%s: this file system has no locks; do not start a second", path)
            # A claim that came to nothing may have removed the file between the two calls.
            if _identity(path) == (os.fstat(handle).st_dev, os.fstat(handle).st_ino):
                return
            os.close(self._handles.pop())

    def append(self, maker: str, names: list[str]) -> None:
        if not names:
            return
        line = json.dumps({"maker": maker, "names": names}).encode() + b"\n"
        handle = self._handles[-1]
        with storing(self.folder):
            size = os.fstat(handle).st_size
            # A line that a kill cut short must not swallow this one.
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line
            written = 0
            while written < len(line):
                written += os.write(handle, line[written:])
            os.fsync(handle)

    def release(self, *, remove_folder: bool) -> None:
        self._depth -= 1
        if self._depth or not self._handles:  # let go of in a forked child
            return
        del self.held[self._key]
        try:
            left = os.listdir(self.folder)
            is_alone = len(self._handles) == 1
            if is_alone and all(name.startswith(RECORD) for name in left):
                for name in left:
                    (self.folder / name).unlink()
                if remove_folder:
                    self.folder.rmdir()
        except OSError:
            log.debug("%s is left as it is", self.folder)
        self._close()

    def _close(self) -> None:
        for handle in self._handles:
            os.close(handle)
        self._handles = []


def _close_in_child() -> None:
    """Let go in a forked child: a worker that outlives its parent must not keep the lock."""
    for lock in _Lock.held.values():
        lock._close()
    _Lock.held.clear()


os.register_at_fork(after_in_child=_close_in_child)
