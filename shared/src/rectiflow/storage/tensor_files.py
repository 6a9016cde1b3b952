"""Reads tensors from files of any origin without running code from them."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from rectiflow.storage.archives import is_archive, read_inert, require_archive
from rectiflow.storage.faults import CheckpointError

__all__ = ["CheckpointError", "ForeignObjectError", "load_tensors", "read_torch"]

log = logging.getLogger(__name__)

_PLAIN = 1 << 20  # elements up to which a tensor may repeat those of its file
_DEPTH, _NAMES = 16, 1_000_000


class ForeignObjectError(CheckpointError):
    """A torch file holds what is not loaded without running code."""


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
    tensors = _named_tensors(content, source)
    if not tensors:
        raise CheckpointError(source, "holds no named tensors")
    return tensors


def read_torch(path: Path | str) -> Any:
    """Read a file of ``torch.save`` on the CPU, memory-mapped, without running code from it.

    Raises
    ------
    CheckpointError
        When it is damaged or no such file, or holds objects besides tensors and plain values.
    """
    zipped = is_archive(path)
    if zipped:
        require_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise ForeignObjectError(
            path,
            "holds objects besides tensors"
            if zipped
            else "is neither a torch archive nor a plain old-style checkpoint",
        ) from error
    except Exception as error:  # whatever torch makes of damage, it is the file's
        raise CheckpointError(path, f"is damaged or not a torch checkpoint ({error})") from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own class, and it is not public
        raise CheckpointError(path, f"is damaged or not a safetensors file ({error})") from error


def _read_torch(path: Path) -> Any:
    try:
        return read_torch(path)
    except ForeignObjectError:
        if not is_archive(path):
            raise
        log.info("%s holds objects besides tensors; they are left out", path)
        return read_inert(path)


def _named_tensors(content: Any, path: Path) -> dict[str, Tensor]:
    """Flatten nested dicts; one that holds itself, or each level twice, would never end."""
    found: dict[str, Tensor] = {}
    level: list[tuple[str, Any]] = [("", content)]
    for _ in range(_DEPTH):
        below: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, Tensor) and name:
                found[name] = _plain_tensor(value, name, path)
            elif isinstance(value, Mapping):
                below += [
                    (f"{name}.{key}" if name else str(key), each) for key, each in value.items()
                ]
        if len(below) > _NAMES:
            break
        level = below
        if not level:
            return found
    raise CheckpointError(path, "holds dicts within dicts beyond any model")


def _plain_tensor(value: Tensor, name: str, path: Path) -> Tensor:
    """Refuse a tensor that says to be larger than the numbers that the file holds for it."""
    told = value.numel() * value.element_size()
    if value.layout != torch.strided or value.is_quantized:
        raise CheckpointError(path, f"{name} is sparse or quantised, expected a plain tensor")
    if value.numel() > _PLAIN and told > value.untyped_storage().nbytes():
        raise CheckpointError(path, f"{name} claims {told} bytes, and the file holds fewer")
    return value
