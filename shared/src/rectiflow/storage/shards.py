"""Prepared data on disk: shards of ragged named arrays with a manifest.

A folder holds ``manifest.json`` and ``shard-00000.safetensors``, ... A record is a dict of named
tensors. Arrays are concatenated along their first axis, beside ``<name>@offsets``; numbers
(tensors without axes) are stacked; the names of the records are the bytes of ``@names``. A shard
exists if and only if the manifest lists it, or the journal beside a manifest that is still being
written, so a killed writer leaves nothing half-written behind.

Longer than 400 lines because writer, reader and the manifest that binds them are one format.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rectiflow.storage.faults import FileError
from rectiflow.storage.files import write_tensors
from rectiflow.storage.folders import Claim, claim
from rectiflow.storage.journal import Journal
from rectiflow.storage.reading import digest_of_file, read_json

SCHEMA = 1
MANIFEST = "manifest.json"
MAKER = "shards"
"""Who the files of a folder of shards are recorded to belong to."""
MOST_OPEN = 64
"""Shards that all readers of a process keep mapped: a process may have 65,530 maps, by default."""

_OFFSETS = "@offsets"
_NAMES = "@names"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.safetensors")
_DAMAGE = (
    *(SafetensorError, ValueError, TypeError, KeyError, IndexError, RuntimeError),
    *(AttributeError, OverflowError, MemoryError),
)


class ShardError(ValueError):
    """A folder of shards is damaged, or is not one.

    Attributes
    ----------
    path : Path
        The folder or file.
    """

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = Path(path)


class ShardWriter:
    """Writes records to a folder; resumable at the last complete shard.

    Parameters
    ----------
    folder : Path or str
        New, empty, or written before with the same ``metadata``: then writing continues after
        its complete shards.
    metadata : mapping, optional
        Plain JSON that describes the data.
    shard_size : int, default 1024
        Records per shard.

    Attributes
    ----------
    written : int
        Records in complete shards.
    progress : dict
        Plain JSON written with each shard; where a resumed writer should continue.

    Notes
    -----
    The folder is locked from the first shard until the block ends, or the process. Bytes written
    are proportional to the records: shards are listed in a journal, see
    :mod:`rectiflow.storage.journal`.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with ShardWriter(folder, {"source": "example"}) as writer:
    ...     for n in (3, 5):
    ...         writer.add({"x": torch.zeros(n, 2), "n": torch.tensor(n)})
    >>> [record["x"].shape[0] for record in ShardReader(folder)]
    [3, 5]
    """

    def __init__(
        self,
        folder: Path | str,
        metadata: Mapping[str, Any] | None = None,
        *,
        shard_size: int = 1024,
    ) -> None:
        if shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {shard_size}.")
        self.folder, self.shard_size = Path(folder), shard_size
        self.folder.mkdir(parents=True, exist_ok=True)
        # Through JSON and back, so that what is compared on resume is what is stored.
        told = json.loads(json.dumps(dict(metadata or {})))
        self._journal = Journal(self.folder / MANIFEST)
        self._claim: Claim | None = None
        self._stack = ExitStack()
        if (self.folder / MANIFEST).exists():
            self._manifest = read_manifest(self.folder)
            _require_same(self.folder, self._manifest["metadata"], told)
        else:
            self._manifest = {
                "schema": SCHEMA,
                "records": 0,
                "arrays": {},
                "metadata": told,
                "progress": {},
                "shards": [],
            }
        self.progress: dict[str, Any] = copy.deepcopy(self._manifest["progress"])
        self._pending: list[dict[str, Tensor]] = []
        self._names: list[str] = []

    @property
    def written(self) -> int:
        """Return the number of records in complete shards."""
        return self._manifest["records"]

    @property
    def pending(self) -> int:
        """Return the number of records waiting for their shard to fill."""
        return len(self._pending)

    def add(self, record: Mapping[str, Tensor], name: str = "") -> None:
        """Take a record; a full shard is written at once.

        Parameters
        ----------
        record : mapping of str to Tensor
            The same names, dtypes and trailing shapes in every record.
        name : str
            An identifier, such as the file it came from.

        Raises
        ------
        ValueError
            When the record is unlike the earlier ones.
        """
        found = {key: _describe(value) for key, value in record.items()}
        expected = self._manifest["arrays"] or found
        if any(key.endswith(_OFFSETS) or key == _NAMES for key in found) or not found:
            raise ValueError(
                f"record has unusable names, got {sorted(found)}; expected at least one array and "
                f"no name ending in {_OFFSETS!r}."
            )
        if found != expected:
            raise ValueError(
                f"record is unlike the earlier ones, got {_only_in(found, expected)}; expected "
                f"{_only_in(expected, found)}. Every record needs the same names, dtypes and "
                "trailing shapes."
            )
        self._manifest["arrays"] = expected
        self._pending.append({key: value.detach().cpu() for key, value in record.items()})
        self._names.append(name)
        if len(self._pending) >= self.shard_size:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a shard, and list it together with ``progress``."""
        manifest = self._manifest
        if self._claim is None:
            # A manifest that is there was read by the constructor: it is one of ours.
            is_new = not (self.folder / MANIFEST).exists()
            own = claim(self.folder, MAKER, [MANIFEST] if is_new else ())
            self._claim = self._stack.enter_context(own)
        if not manifest["shards"]:  # the first tells which arrays there are
            self._journal.fold({**manifest, "progress": self.progress}, indent=1)
        if self._pending:
            shard = self._write_shard(self._claim)
            manifest["shards"].append(shard)
            manifest["records"] += len(self._pending)
            self._journal.append({"shard": shard, "progress": self.progress})
        elif manifest["shards"]:
            self._journal.append({"progress": self.progress})
        manifest["progress"] = copy.deepcopy(self.progress)
        self._pending, self._names = [], []

    def _write_shard(self, own: Claim) -> dict[str, Any]:
        file = f"shard-{len(self._manifest['shards']):05d}.safetensors"
        own.add([file])
        packed = _pack(self._pending)
        if any(self._names):
            told = [name.encode("utf-8", "backslashreplace") for name in self._names]
            packed[_NAMES] = torch.frombuffer(bytearray(b"".join(told)), dtype=torch.uint8)
            ends = itertools.accumulate(map(len, told), initial=0)
            packed[_NAMES + _OFFSETS] = torch.tensor(list(ends))
        write_tensors(self.folder / file, packed)
        return {
            "file": file,
            "records": len(self._pending),
            "bytes": (self.folder / file).stat().st_size,
            "sha256": digest_of_file(self.folder / file),
        }

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        """Write what is pending unless there was an error, and list all shards in the manifest."""
        with self._stack:
            if kind is None:
                self.flush()
            if self._journal.path.is_file():
                self._journal.fold(self._manifest, indent=1)
        self._claim = None


class ShardReader:
    """Reads records by index from memory-mapped shards.

    Parameters
    ----------
    folder : Path or str
        Written by :class:`ShardWriter`.
    verify : bool, default False
        Compare every shard with its SHA-256 first. File sizes are always compared.

    Attributes
    ----------
    metadata, progress : dict
        As the writer left them.

    Raises
    ------
    FileNotFoundError
        When the folder has no manifest.
    ShardError
        When the manifest is of another version, or a shard is absent, truncated or changed.
    """

    def __init__(self, folder: Path | str, *, verify: bool = False) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        self.metadata: dict[str, Any] = manifest["metadata"]
        self.progress: dict[str, Any] = manifest["progress"]
        self.arrays: dict[str, dict[str, Any]] = manifest["arrays"]
        shards = manifest["shards"]
        self._files = [shard["file"] for shard in shards]
        counts = [shard["records"] for shard in shards]
        self._starts = np.array(list(itertools.accumulate(counts, initial=0)))
        # Those of folders that were written before names went into the shards.
        self._names = {i: shard["names"] for i, shard in enumerate(shards) if "names" in shard}
        for shard in shards:
            _check_shard(self.folder, shard, verify=verify)
        self._number = next(_READERS)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return record ``index``; negative indices count from the end."""
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"record {index} does not exist; the folder has {len(self)}.")
        shard = int(np.searchsorted(self._starts, position, "right")) - 1
        row = position - int(self._starts[shard])
        file = self._open(shard)
        with _readable(self.folder / self._files[shard]):
            return {name: self._read(file, name, row) for name in self.arrays}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[index] for index in range(len(self)))

    @property
    def names(self) -> list[str]:
        """Return the identifier of each record; empty strings where none was given."""
        return [name for shard in range(len(self._files)) for name in self._names_of(shard)]

    def _names_of(self, shard: int) -> list[str]:
        records = int(self._starts[shard + 1] - self._starts[shard])
        if shard in self._names:
            return self._names[shard]
        with _readable(self.folder / self._files[shard]):
            file = self._open(shard)
            if _NAMES not in file.keys():  # noqa: SIM118 (not a dict)
                return [""] * records
            whole = file.get_tensor(_NAMES).numpy().tobytes()
            ends = file.get_tensor(_NAMES + _OFFSETS).tolist()
            if len(ends) != records + 1 or sorted(ends) != ends:
                raise ValueError("offsets of names do not go up")
            return [whole[a:b].decode() for a, b in itertools.pairwise(ends)]

    def column(self, name: str) -> Tensor:
        """Return one number per record, shape ``(records,)``.

        Raises
        ------
        KeyError
            When no number has this name.
        """
        if name not in self.arrays or self.arrays[name]["ragged"]:
            numbers = sorted(key for key, told in self.arrays.items() if not told["ragged"])
            raise KeyError(f"records have no number {name!r}, got {numbers}.")
        parts = self._tensors(name)
        return torch.cat(parts) if parts else torch.empty(0)

    def lengths(self, name: str) -> Tensor:
        """Return the length of an array's first axis per record, shape ``(records,)``.

        Raises
        ------
        KeyError
            When no array has this name.
        """
        if name not in self.arrays or not self.arrays[name]["ragged"]:
            arrays = sorted(key for key, told in self.arrays.items() if told["ragged"])
            raise KeyError(f"records have no array {name!r}, got {arrays}.")
        parts = [offsets.diff() for offsets in self._tensors(name + _OFFSETS)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def _tensors(self, name: str) -> list[Tensor]:
        """Return one tensor of every shard whole, its first axis as long as the manifest tells."""
        found: list[Tensor] = []
        for number, records in enumerate(np.diff(self._starts).tolist()):
            with _readable(self.folder / self._files[number]):
                # A copy: what shows the map would keep it open.
                found.append(self._open(number).get_tensor(name).clone())
                expected = records + name.endswith(_OFFSETS)
                if found[-1].shape != (expected,):
                    raise ValueError(f"{name} has shape {tuple(found[-1].shape)}")
        return found

    def _open(self, shard: int) -> Any:
        key = (self._number, shard)
        if key not in _OPEN:
            path = self.folder / self._files[shard]
            with _readable(path):
                _OPEN[key] = safe_open(path, framework="pt")
            if len(_OPEN) > MOST_OPEN:
                _OPEN.popitem(last=False)
        _OPEN.move_to_end(key)
        return _OPEN[key]

    def _read(self, file: Any, name: str, row: int) -> Tensor:
        if not self.arrays[name]["ragged"]:
            return file.get_slice(name)[row : row + 1][0]
        start, stop = file.get_slice(name + _OFFSETS)[row : row + 2].tolist()
        if not 0 <= start <= stop:
            raise ValueError(f"offsets of {name} do not go up")
        return file.get_slice(name)[start:stop]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Open files do not travel to worker processes; each opens its own.
        self.__dict__ |= {**state, "_number": next(_READERS)}


_READERS = itertools.count()
_OPEN: OrderedDict[tuple[int, int], Any] = OrderedDict()  # by reader and shard, latest last


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """Return the manifest of a folder of shards, what its journal adds included.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ShardError
        When it is not readable or of another version.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no {MANIFEST}; expected a folder of prepared data. Make one with "
            "`prepare`."
        )
    try:
        manifest = read_json(path)
        entries = Journal(path).entries()
    except FileError as error:
        raise ShardError(
            path, f"is not a manifest of shards: {error.found}. Prepare again."
        ) from error
    if manifest.get("schema") != SCHEMA:
        raise ShardError(
            path,
            f"has schema version {manifest.get('schema')!r}, expected {SCHEMA}. Prepare the data "
            "again.",
        )
    try:
        # What the manifest lists already, a writer has folded into it that was killed just then.
        listed = {shard["file"] for shard in manifest["shards"]} if entries else set()
        for entry in entries:
            shard = entry.get("shard")
            if shard is not None and shard["file"] not in listed:
                manifest["shards"].append(shard)
                manifest["records"] += shard["records"]
            manifest["progress"] = entry["progress"]
        _require_manifest(manifest)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ShardError(path, f"is damaged ({error!r}). Prepare again.") from error
    return manifest


def _require_manifest(manifest: Mapping[str, Any]) -> None:
    """Raise one of the errors of a wrong value unless all is there that readers rely on."""
    total = 0
    for shard in manifest["shards"]:
        records, names = shard["records"], shard.get("names")
        is_counted = type(records) is int and type(shard["bytes"]) is int and records > 0
        if not is_counted or not _SHARD_NAME.fullmatch(shard["file"]):
            raise ValueError(f"shard {shard['file']!r}")
        if names is not None and (len(names) != records or not all(map(_is_text, names))):
            raise ValueError(f"names of {shard['file']}")
        total += records
    for name, told in manifest["arrays"].items():
        if type(told["ragged"]) is not bool or not hasattr(torch, told["dtype"]):
            raise ValueError(f"array {name!r}")
        if not all(type(size) is int and size >= 0 for size in told["shape"]):
            raise ValueError(f"shape of array {name!r}")
    settings = (manifest["metadata"], manifest["progress"])
    if manifest["records"] != total or not all(isinstance(each, dict) for each in settings):
        raise ValueError(f"{manifest['records']!r} records")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise on damaged content into a ShardError."""
    try:
        yield
    except ShardError:
        raise
    except (*_DAMAGE, OSError) as error:
        raise ShardError(path, f"is damaged ({error}). Copy it again, or prepare again.") from error


def _pack(records: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join records: numbers stacked, arrays concatenated with offsets."""
    packed: dict[str, Tensor] = {}
    for name in records[0]:
        values = [record[name] for record in records]
        if values[0].ndim == 0:
            packed[name] = torch.stack(values)
            continue
        lengths = [value.shape[0] for value in values]
        packed[name] = torch.cat(values).contiguous()
        packed[name + _OFFSETS] = torch.tensor(list(itertools.accumulate(lengths, initial=0)))
    return packed


def _describe(value: Tensor) -> dict[str, Any]:
    """Return what all records must share of an array."""
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "ragged": value.ndim > 0,
        "shape": list(value.shape[1:]),
    }


def _only_in(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of ``a`` that ``b`` lacks or has otherwise, in few words."""
    return {
        key: f"{told['dtype']} {'(n' if told['ragged'] else '('}"
        + "".join(f", {size}" for size in told["shape"])
        + ")"
        for key, told in a.items()
        if b.get(key) != told
    }


def _require_same(folder: Path, stored: Mapping[str, Any], told: Mapping[str, Any]) -> None:
    if stored == told:
        return
    differing = sorted(
        key for key in stored.keys() | told.keys() if stored.get(key) != told.get(key)
    )
    key = differing[0]
    raise ShardError(
        folder,
        f"was begun with other settings: {key} is {stored.get(key)!r} there, got "
        f"{told.get(key)!r} now ({len(differing)} differ: {differing}). Use the same settings to "
        "resume, or a new folder.",
    )


def _check_shard(folder: Path, shard: Mapping[str, Any], *, verify: bool) -> None:
    path = folder / shard["file"]
    if not path.is_file():
        raise ShardError(path, "is listed in the manifest but absent. Copy the folder again.")
    size = path.stat().st_size
    if size != shard["bytes"]:
        raise ShardError(
            path, f"has {size} bytes, expected {shard['bytes']}; it is truncated. Copy it again."
        )
    if verify and digest_of_file(path) != shard["sha256"]:
        raise ShardError(path, "does not have the SHA-256 of the manifest. Copy it again.")
