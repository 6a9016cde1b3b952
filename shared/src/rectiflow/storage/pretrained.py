"""Folders of weights: ``config.json`` with the constructor's arguments, ``model.safetensors``."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rectiflow.storage.faults import CheckpointError, FileError
from rectiflow.storage.files import write_json, write_tensors
from rectiflow.storage.folders import claim
from rectiflow.storage.reading import read_json
from rectiflow.storage.tensor_files import load_tensors

__all__ = [
    "CheckpointError",
    "Pretrained",
    "find_pretrained",
    "load_strict",
    "load_tensors",
    "read_card",
    "read_config",
    "weights_hash",
]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_UNUSABLE = (
    *(TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError),
    *(AssertionError, RecursionError, MemoryError),
)
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Pretrained:
    """Mixin that gives an ``nn.Module`` ``save_pretrained`` and ``from_pretrained``.

    The constructor's arguments are the configuration: they are recorded when the object is made,
    and must be plain JSON values, or dataclasses of them. A class that takes dataclasses
    overrides :meth:`from_config` to rebuild them.

    Attributes
    ----------
    config : dict
        The constructor's arguments, defaults included.

    Examples
    --------
    >>> class Affine(Pretrained, nn.Module):
    ...     def __init__(self, width: int = 2) -> None:
    ...         super().__init__()
    ...         self.linear = nn.Linear(width, width)
    >>> Affine(3).config
    {'width': 3}
    """

    config: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Make the object and record the constructor's arguments."""
        made = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
        except TypeError:
            # Copies are made without arguments and get their state afterwards; for a wrong call
            # the constructor itself says what is wrong.
            return made
        bound.apply_defaults()
        _, *names = bound.arguments
        made.__dict__["config"] = {name: bound.arguments[name] for name in names}
        return made

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an object from a configuration read from JSON."""
        return cls(**config)

    def save_pretrained(self, folder: Path | str, *, overwrite: bool = False, **card: Any) -> None:
        """Write configuration and weights to a folder.

        Parameters
        ----------
        folder : Path or str
            Made if it does not exist.
        overwrite : bool, default False
            Replace files of these names even where they are not of an earlier call.
        **card
            What a user should know: training data, licence, metrics, commit. Plain JSON values.

        Raises
        ------
        TakenError
            When the folder has a ``config.json`` or ``model.safetensors`` of another origin.
        """
        assert isinstance(self, nn.Module)
        target = Path(folder)
        # Clones, because tied parameters share memory and a file may not.
        tensors = {
            name: value.detach().cpu().clone().contiguous()
            for name, value in self.state_dict().items()
        }
        described = {
            "class": type(self).__name__,
            "config": _plain(self.config),
            "weights_hash": weights_hash(tensors),
            "card": _plain(card),
        }
        metadata = {"format": "pt", "rectiflow": json.dumps(described)}
        with claim(target, "weights", [WEIGHTS, CONFIG], overwrite=overwrite):
            write_tensors(target / WEIGHTS, tensors, metadata)
            write_json(target / CONFIG, described)

    @classmethod
    def from_pretrained(
        cls,
        folder: Path | str,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Load an object that :meth:`save_pretrained` wrote; every tensor is accounted for.

        Parameters
        ----------
        folder : Path or str
            Holds ``config.json`` and ``model.safetensors``.
        device, dtype : optional
            Where to put the parameters, and as what.

        Raises
        ------
        FileNotFoundError
            When the folder lacks one of the two files.
        CheckpointError
            When class, tensors or hash are not those of the configuration.
        """
        source = Path(folder)
        described = read_config(source)
        if described["class"] != cls.__name__:
            raise CheckpointError(
                source, f"holds a {described['class']}, expected a {cls.__name__}"
            )
        tensors = load_tensors(source / WEIGHTS)
        if weights_hash(tensors) != described["weights_hash"]:
            raise CheckpointError(
                source,
                f"{WEIGHTS} does not have the hash that {CONFIG} tells; one of the two was "
                "replaced or damaged. Copy the folder again",
            )
        inner = read_card(source / WEIGHTS)
        if inner and inner.get("config") != described["config"]:
            raise CheckpointError(
                source, f"{CONFIG} was changed: {WEIGHTS} tells another configuration"
            )
        try:
            with torch.device("meta"):  # sizes that do not fit are found before memory is taken
                require_same(cls.from_config(described["config"]), tensors, source)
            made = cls.from_config(described["config"])
        except CheckpointError:
            raise
        except (*_UNUSABLE, RuntimeError) as error:
            raise CheckpointError(
                source, f"{CONFIG} does not describe a {cls.__name__} ({error})"
            ) from error
        assert isinstance(made, nn.Module)
        load_strict(made, tensors, source)
        made.to(device=device, dtype=dtype)
        return made


def find_pretrained(name_or_path: Path | str, shipped: Path) -> Path:
    """Return the file or folder that a weights argument names.

    Parameters
    ----------
    name_or_path : Path or str
        An existing file or folder, or a run folder, of which the ``export`` is taken; the name of
        a folder in ``shipped``; or ``owner/name``, a repository on the Hugging Face hub, which is
        downloaded to the user's cache (needs the package ``huggingface-hub``).
    shipped : Path
        Where a package keeps the checkpoints it ships.

    Raises
    ------
    FileNotFoundError
        When it names none of these; the message lists what ships.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if name.strip() and path.exists():
        is_run = not (path / CONFIG).is_file() and (path / "export" / CONFIG).is_file()
        return path / "export" if is_run else path
    known = shipped_names(shipped)
    if name in known:
        return shipped / name
    if _REPOSITORY.fullmatch(name) and ".." not in name:
        return _from_hub(name)
    raise FileNotFoundError(
        f"no weights at {name!r}; expected a file, a folder, owner/name on the hub, or one of the "
        f"shipped checkpoints {known}."
    )


def shipped_names(shipped: Path) -> list[str]:
    """Return the names of the checkpoints in a package's folder."""
    return sorted(path.parent.name for path in shipped.glob(f"*/{CONFIG}"))


def _from_hub(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError as error:
        raise FileNotFoundError(
            f"{name!r} is no file or folder here, and huggingface-hub is not installed to look it "
            "up on the hub; expected a local path. Install huggingface-hub or download it yourself."
        ) from error
    try:
        return Path(snapshot_download(name))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise FileNotFoundError(
            f"{name!r} is no file or folder here and could not be had from the hub "
            f"({type(error).__name__}); expected a local path or a repository you can read."
        ) from error


def read_config(folder: Path | str) -> dict[str, Any]:
    """Return what ``config.json`` of a folder tells: class, config, weights_hash, card.

    Raises
    ------
    FileNotFoundError
        When the folder does not hold a saved model.
    CheckpointError
        When the configuration is damaged.
    """
    source = Path(folder)
    absent = [name for name in (CONFIG, WEIGHTS) if not (source / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{source} lacks {' and '.join(absent)}; expected a folder written by save_pretrained."
        )
    try:
        described = read_json(source / CONFIG)
    except FileError as error:
        raise CheckpointError(
            source / CONFIG, f"{error.found}, expected a configuration"
        ) from error
    kinds = {"class": str, "config": dict, "weights_hash": str}
    wrong = [key for key, kind in kinds.items() if not isinstance(described.get(key), kind)]
    if wrong:
        raise CheckpointError(
            source / CONFIG, f"lacks {', '.join(wrong)}, expected what save_pretrained writes"
        )
    return described


def read_card(path: Path | str) -> dict[str, Any]:
    """Return the description inside a ``model.safetensors``, or an empty dict."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        return dict(json.loads(metadata.get("rectiflow", "{}")))
    except (*_UNUSABLE, SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is damaged or not a safetensors file ({error})") from error


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Load tensors into a module; names and shapes must fit exactly.

    Parameters
    ----------
    module : nn.Module
        Receives the tensors, converted to its own dtypes.
    tensors : mapping of str to Tensor
        Every parameter and buffer of the module, and no other.
    path : Path or str
        Where they came from, for the message.

    Raises
    ------
    CheckpointError
        Lists all missing, unexpected and misshapen tensors at once, or those that are not finite.
    """
    require_same(module, tensors, path)
    spoilt = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if spoilt:
        raise CheckpointError(
            path,
            f"{len(spoilt)} tensors hold NaN or infinity: {_shortened(spoilt)}. Its training "
            "failed, or it is damaged; use an earlier checkpoint",
        )
    module.load_state_dict(dict(tensors))


def require_same(module: Any, tensors: Mapping[str, Tensor], path: Path | str) -> None:
    """Raise CheckpointError unless names and shapes are the module's."""
    own = module.state_dict()
    missing = [name for name in own if name not in tensors]
    unexpected = [name for name in tensors if name not in own]
    misshapen = [
        f"{name}: {tuple(tensors[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if missing or unexpected or misshapen:
        raise CheckpointError(
            path,
            _account(missing, unexpected, misshapen),
            missing=missing,
            unexpected=unexpected,
        )


def weights_hash(tensors: Mapping[str, Tensor] | nn.Module) -> str:
    """Return the SHA-256 of named tensors: names, dtypes, shapes and bytes, in name order.

    Independent of the file format and of the order in which tensors are stored.

    Examples
    --------
    >>> weights_hash({"a": torch.zeros(2)}) == weights_hash({"a": torch.zeros(2)})
    True
    """
    named = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
    digest = hashlib.sha256()
    for name in sorted(named):
        value = named[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _account(missing: list[str], unexpected: list[str], misshapen: list[str]) -> str:
    parts: list[str] = []
    if unexpected:
        parts.append(f"{len(unexpected)} tensors were not used: {_shortened(unexpected)}")
    if missing:
        parts.append(f"{len(missing)} are missing: {_shortened(missing)}")
    if misshapen:
        parts.append(f"{len(misshapen)} have another shape: {_shortened(misshapen)}")
    near = _near_matches(missing, unexpected)
    if near:
        parts.append(f"alike: {_shortened(near)}")
    return "; ".join(parts) + ". Is this file for the same model and sizes"


def _near_matches(missing: list[str], unexpected: list[str], limit: int = 3) -> list[str]:
    """Pair the first missing names with the unexpected name most like each."""
    pairs: list[str] = []
    for name in missing[:limit]:
        close = difflib.get_close_matches(name, unexpected, n=1, cutoff=0.7)
        pairs += [f"missing {name!r} and unused {other!r}" for other in close]
    return pairs


def _shortened(names: Iterable[str], limit: int = 8) -> str:
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return f"[{', '.join(listed[:limit])}]{more}"


def _plain(value: Any) -> Any:
    """Turn a configuration value into plain JSON, or say which value cannot be one."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(
        f"configuration value of type {type(value).__name__} cannot be stored, got {value!r}; "
        "expected plain JSON values or dataclasses of them."
    )
