"""Torch archives read without looking up, let alone calling, anything that they name."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rectiflow.storage.faults import CheckpointError


def is_archive(path: Path | str) -> bool:
    """Tell whether a file is a zip, also one whose end is damaged."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return True


def require_archive(path: Path | str) -> None:
    """Refuse a zip that torch did not write, before anything in it is unfolded.

    torch stores every member as it is; a compressed one could unfold to any size.

    Raises
    ------
    CheckpointError
        When it has a compressed member, or one that tells to be longer than the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                    raise CheckpointError(
                        path, f"has a compressed member {info.filename!r}, which torch never writes"
                    )
                if info.file_size > Path(path).stat().st_size:
                    raise CheckpointError(
                        path, f"has a member {info.filename!r} longer than itself"
                    )
    except (zipfile.BadZipFile, RuntimeError, ValueError, OSError) as error:  # of unknown kinds
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(path, f"is damaged or not a torch archive ({error})") from error


def read_inert(path: Path | str) -> Any:
    """Read a torch archive in which unknown classes become inert :class:`Stub` objects.

    Only tensors, ordered dicts and plain containers are real. A class or function that the file
    names is never looked up, so none of its code can run.

    Parameters
    ----------
    path : Path or str
        A zip archive written by ``torch.save``.

    Raises
    ------
    CheckpointError
        When the file is not such an archive, or is damaged.
    """
    require_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            root = _archive_root(archive, path)
            order = _optional_member(archive, f"{root}byteorder")
            if order not in (None, b"little"):
                raise CheckpointError(path, f"has byte order {order!r}, expected little-endian")

            def read(member: str) -> bytes:
                return archive.read(root + member)

            return _InertUnpickler(io.BytesIO(read("data.pkl")), read).load()
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise CheckpointError(path, f"is damaged or not a torch archive ({error})") from error
    except Exception as error:  # the file is a program for the unpickler, and may end in any error
        raise CheckpointError(path, f"has malformed contents ({error})") from error


class Stub:
    """Stands for an object of a class that is not loaded; keeps what was stored in it.

    Attributes
    ----------
    origin : str
        The class or function that the file names.
    args : tuple
        What it would have been called with.
    state : Any
        What its attributes would have been set from.
    entries, elements : dict, list
        What it would have been filled with.
    """

    origin = "unknown"

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        """Make a stub, whatever the arguments."""
        made = object.__new__(cls)
        made.args, made.state = args, None
        made.entries, made.elements = {}, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.args: tuple[Any, ...]
        self.state: Any
        self.entries: dict[Any, Any]
        self.elements: list[Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Stub:
        """Return another stub: results of unknown functions may be called in turn."""
        return Stub(*args)

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, value: Any) -> None:
        """Keep an element."""
        self.elements.append(value)

    def extend(self, values: Any) -> None:
        """Keep elements."""
        self.elements.extend(values)

    def add(self, value: Any) -> None:
        """Keep an element of a set."""
        self.elements.append(value)

    def __repr__(self) -> str:
        return f"<stub of {self.origin}>"


class _InertUnpickler(pickle.Unpickler):
    """Unpickles with a closed list of names; storages come from ``read``."""

    def __init__(self, file: io.BytesIO, read: Callable[[str], bytes]) -> None:
        super().__init__(file, encoding="utf-8")
        self._read = read
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return type("Stub", (Stub,), {"origin": f"{module}.{name}"})

    def persistent_load(self, saved_id: Any) -> Tensor:
        """Return a storage as a flat tensor of its dtype."""
        kind, storage, key, _, count = saved_id
        if kind != "storage" or not isinstance(storage, _StorageKind):
            raise pickle.UnpicklingError(f"unknown persistent object {kind!r}")
        if key not in self._storages:
            raw = bytearray(self._read(f"data/{key}"))
            flat = torch.frombuffer(raw, dtype=storage.dtype) if raw else torch.empty(0)
            if flat.numel() < count:
                raise pickle.UnpicklingError(f"storage {key} is shorter than it should be")
            self._storages[key] = flat.to(storage.dtype)
        return self._storages[key]


# What a file can name must be immutable, because a pickle may set attributes on any object that it
# gets hold of. Tuples are; frozen dataclasses with slots are not, they come with a __setstate__.
class _StorageKind(NamedTuple):
    """The dtype that a storage class of torch stands for."""

    dtype: torch.dtype


class _Rebuild(NamedTuple):
    """A function that a file may call."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Tensor:
    """View a storage; ``as_strided`` refuses what lies outside it."""
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _typed_tensor(
    storage: Tensor,
    offset: int,
    size: Sequence[int],
    stride: Sequence[int],
    requires_grad: Any,
    hooks: Any,
    dtype: torch.dtype,
    *_: Any,
) -> Tensor:
    """View an untyped storage as ``dtype``."""
    return _tensor(storage.view(dtype), offset, size, stride)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    """Take a parameter's tensor."""
    return data


def _of_type(make: Callable[..., Any], kind: Any, args: Sequence[Any], state: Any) -> Any:
    """Rebuild a tensor of a subclass as a plain one."""
    return make(*args)


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): _Rebuild(_typed_tensor),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Rebuild(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Rebuild(_of_type),
    ("torch.storage", "UntypedStorage"): _StorageKind(torch.uint8),
    **{("torch", name): _StorageKind(dtype) for name, dtype in _STORAGES.items()},
}


def _archive_root(archive: zipfile.ZipFile, path: Path | str) -> str:
    for name in archive.namelist():
        if name == "data.pkl" or name.endswith("/data.pkl"):
            return name[: -len("data.pkl")]
    raise CheckpointError(path, "is a zip file but not a torch archive: it has no data.pkl")


def _optional_member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    return archive.read(name) if name in archive.namelist() else None
