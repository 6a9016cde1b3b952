"""Reads tensors from files of any origin without running code from them."""

from __future__ import annotations

import io
import logging
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

log = logging.getLogger(__name__)


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


def load_tensors(path: Path | str, entry: str | None = None) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors file or of a torch checkpoint, on the CPU.

    A torch checkpoint is read with ``weights_only=True``. When that refuses, because objects of
    other classes are pickled beside the tensors, the archive is read by :func:`read_inert`, which
    never imports or calls anything named in the file.

    Parameters
    ----------
    path : Path or str
        ``*.safetensors``, or a file written by ``torch.save``.
    entry : str, optional
        Top-level entry that holds the tensors, such as ``"state_dict"``. By default
        ``"state_dict"`` if there is one, else the whole file.

    Returns
    -------
    dict of str to Tensor
        Nested dicts are joined by dots; what is not a tensor is left out.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    CheckpointError
        When the file is damaged, of another kind, or has no tensors.
    """
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"no file of weights at {source}; expected an existing file.")
    if source.suffix == ".safetensors":
        content: Any = _read_safetensors(source)
    else:
        content = _read_torch(source)
    if entry is None and isinstance(content, Mapping) and "state_dict" in content:
        entry = "state_dict"
    if entry is not None:
        if not isinstance(content, Mapping) or entry not in content:
            known = sorted(map(str, content)) if isinstance(content, Mapping) else []
            raise CheckpointError(source, f"has no entry {entry!r}, got {known[:10]}")
        content = content[entry]
    tensors = dict(_named_tensors(content))
    if not tensors:
        raise CheckpointError(source, "holds no named tensors")
    return tensors


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
    try:
        with zipfile.ZipFile(path) as archive:
            root = _archive_root(archive, path)
            order = _optional_member(archive, f"{root}byteorder")
            if order not in (None, b"little"):
                raise CheckpointError(path, f"has byte order {order!r}, expected little-endian")

            def read(member: str) -> bytes:
                return _member(archive, root + member, path)

            return _InertUnpickler(io.BytesIO(read("data.pkl")), read).load()
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError) as error:
        raise CheckpointError(path, f"is damaged or not a torch archive ({error})") from error
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError) as error:
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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own class, and it is not public
        raise CheckpointError(path, f"is damaged or not a safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    is_archive = zipfile.is_zipfile(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except pickle.UnpicklingError as error:
        if not is_archive:
            raise CheckpointError(
                path, "is neither a torch archive nor a plain old-style checkpoint"
            ) from error
        log.info("%s holds objects besides tensors; they are left out", path)
        return read_inert(path)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(path, f"is damaged or not a torch checkpoint ({error})") from error


def _named_tensors(content: Any, prefix: str = "") -> list[tuple[str, Tensor]]:
    if isinstance(content, Tensor):
        return [(prefix, content)] if prefix else []
    if not isinstance(content, Mapping):
        return []
    found: list[tuple[str, Tensor]] = []
    for key, value in content.items():
        found += _named_tensors(value, f"{prefix}.{key}" if prefix else str(key))
    return found


def _archive_root(archive: zipfile.ZipFile, path: Path | str) -> str:
    for name in archive.namelist():
        if name == "data.pkl" or name.endswith("/data.pkl"):
            return name[: -len("data.pkl")]
    raise CheckpointError(path, "is a zip file but not a torch archive: it has no data.pkl")


def _member(archive: zipfile.ZipFile, name: str, path: Path | str) -> bytes:
    info = archive.getinfo(name)
    # torch stores members as they are; a compressed one could unfold to any size.
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(path, f"has a compressed member {name!r}, which torch never writes")
    return archive.read(info)


def _optional_member(archive: zipfile.ZipFile, name: str) -> bytes | None:
    return archive.read(name) if name in archive.namelist() else None
