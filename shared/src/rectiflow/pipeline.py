"""What every domain's pipeline is: networks by name, settings, and where and how they run."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import torch
from torch import nn

from rectiflow.results import plain
from rectiflow.storage.faults import FileError
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import claim
from rectiflow.storage.pretrained import (
    CONFIG,
    CheckpointError,
    Pretrained,
    find_pretrained,
    read_config,
    weights_hash,
)
from rectiflow.storage.reading import read_json

if TYPE_CHECKING:
    from rectiflow.costs import Work


Kinds: TypeAlias = type[Pretrained] | tuple[type[Pretrained], ...]
"""A class of networks, or several that can take each other's place."""


class Pipeline(ABC):
    """Networks that together turn a request into a result.

    A subclass names its parts in :meth:`kinds`, takes them by these names in its constructor, and
    is called with a request. The first part is the flow's network. A pipeline of one part without
    settings is stored as that part alone.

    Parameters
    ----------
    parts : mapping of str to nn.Module or None
        By name; None where a pipeline does without.
    settings : dataclass instance, optional
        What the weights are to be used with; stored beside them.
    dtype : torch.dtype
        Of what a pipeline may run in less than float32.

    Attributes
    ----------
    source : str
        What the weights were loaded from.
    folder : Path or None
        Where they lie, and beside them what goes with them: searched grids, statistics, a refiner.
    adapters : list
        Path and weight of each adapter that is part of the flow's network.
    """

    shipped: ClassVar[Path]
    """Folder of the checkpoints that ship with the package."""

    settings_kind: ClassVar[type | None] = None

    def __init__(
        self,
        parts: Mapping[str, nn.Module | None],
        *,
        settings: Any = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.parts = {name: part.eval() for name, part in parts.items() if part is not None}
        self.settings, self.dtype, self.source = settings, dtype, ""
        self.folder: Path | None = None
        self.is_compiled = False
        self.adapters: list[list[str | float]] = []

    @classmethod
    @abstractmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of each part by name, the flow's network first.

        Several where a part may be of one class or another; its folder tells which.
        """

    @classmethod
    def load_official(cls, path: Path) -> Self:
        """Load a checkpoint of the authors' form."""
        raise FileNotFoundError(
            f"{path} lacks {CONFIG}; expected a folder written by save_pretrained."
        )

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Path | str = "small",
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **options: Any,
    ) -> Self:
        """Load a pipeline.

        Parameters
        ----------
        name_or_path : Path or str
            A checkpoint that ships with the package (``"small"``), a folder written by
            :meth:`save_pretrained`, a run folder with an ``export``, the authors' checkpoint or
            its folder, or ``owner/name`` on the hub.
        device : device
            Where to run.
        dtype : torch.dtype
            ``bfloat16`` is faster on devices that have it; model cards tell its error.
        **options
            What else the constructor takes.

        Raises
        ------
        FileNotFoundError
            When nothing of that name is found; the message lists what ships.
        CheckpointError
            When the weights do not fit.
        """
        path = find_pretrained(name_or_path, cls.shipped)
        if (path / CONFIG).is_file():
            made = cls._from_folder(path, dtype, options)
        else:
            made = cls.load_official(path)
            made.set_dtype(dtype)
            for name, value in options.items():
                setattr(made, name, value)
        made.source, made.folder = str(name_or_path), path if path.is_dir() else path.parent
        return made.to(device)

    @classmethod
    def _from_folder(cls, folder: Path, dtype: torch.dtype, options: dict[str, Any]) -> Self:
        try:
            told = read_json(folder / CONFIG)
        except FileError as error:
            raise CheckpointError(folder / CONFIG, f"is damaged, {error.found}") from error
        kinds = cls.kinds()
        [first, *others] = kinds
        if not others and (kind := _kind(kinds[first], told)) is not None:
            parts: dict[str, Any] = {first: kind.from_pretrained(folder)}
            hashes = {first: told["weights_hash"]}
        elif told.get("class") == cls.__name__:
            # Checkpoints may share a part: it lies in one folder, named relative to the other.
            shared = told.get("shared", {})
            where = {name: folder / shared.get(name, name) for name in kinds}
            there = {name: path for name, path in where.items() if (path / CONFIG).is_file()}
            parts = {name: _loaded(kinds[name], path) for name, path in there.items()}
            hashes = {
                name: read_json(path / CONFIG)["weights_hash"] for name, path in there.items()
            }
        else:
            raise CheckpointError(folder, f"holds a {told.get('class')}, expected a {cls.__name__}")
        if cls.settings_kind is not None:
            try:
                options = options | {"settings": cls.settings_kind(**told["settings"])}
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(
                    folder / CONFIG, f"is damaged, or of another version ({error})"
                ) from error
        made = cls(**parts, dtype=dtype, **options)
        made.weights_hash = _joined(hashes)
        return made

    def save_pretrained(
        self,
        folder: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        overwrite: bool = False,
        **card: Any,
    ) -> None:
        """Write settings and weights to a folder.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        dtype : torch.dtype
            Of the stored weights; they are float32 again when loaded.
        overwrite : bool, default False
            Replace files of these names even where they are not of an earlier call.
        **card
            What a user should know: training data, licence, metrics. Plain JSON values.
        """
        target = Path(folder)
        alone = len(self.kinds()) == 1 and self.settings is None
        settings = {} if self.settings is None else asdict(self.settings)
        told = {"class": type(self).__name__, "settings": settings, "card": plain(card)}
        with claim(target, "weights", () if alone else [CONFIG], overwrite=overwrite):
            for name, part in self.parts.items():
                stored: Any = part if dtype == torch.float32 else copy.deepcopy(part).to(dtype)
                place, own = (target, card) if alone else (target / name, {})
                stored.save_pretrained(place, overwrite=overwrite, **own)
            if not alone:
                write_json(target / CONFIG, told)

    @classmethod
    def load_official_part(cls, path: Path, part: str) -> nn.Module:
        """Load one network of the authors' form, by default out of a whole checkpoint."""
        return cls.load_official(path).parts[part]

    @classmethod
    def pretrained_part(cls, weights: str | None, part: str | None = None) -> nn.Module | None:
        """Load one network to train further, or to train beside; None where there is none.

        Parameters
        ----------
        weights : str, optional
            The export of that network's own training, the authors' file of it, or whatever
            :meth:`from_pretrained` takes.
        part : str, optional
            Its name; the flow's network if absent.
        """
        if weights is None:
            return None
        kinds = cls.kinds()
        name = part or next(iter(kinds))
        path = find_pretrained(weights, cls.shipped)
        config = path / CONFIG
        kind = _kind(kinds[name], read_json(config)) if config.is_file() else None
        if kind is not None:
            found: Any = kind.from_pretrained(path)
        elif path.is_file() and len(kinds) > 1:
            found = cls.load_official_part(path, name)
        else:
            found = cls.from_pretrained(path).parts.get(name)
        return found if found is None else found.train()

    @property
    def network(self) -> Any:
        """Return the flow's network."""
        return next(iter(self.parts.values()))

    @property
    def device(self) -> torch.device:
        """Return the device of the networks."""
        return next(self.network.parameters()).device

    @cached_property
    def weights_hash(self) -> str:
        """Return the hash of all parts, computed once; a folder's own is taken from its config."""
        return _joined({name: weights_hash(part) for name, part in self.parts.items()})

    def to(self, device: torch.device | str) -> Self:
        """Move all parts to a device."""
        for part in self.parts.values():
            part.to(device)
        return self

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set what :attr:`dtype` tells; a domain whose network keeps it passes it on."""
        self.dtype = dtype

    def adapt(self, path: Path | str, weight: float = 1.0) -> Self:
        """Make an adapter part of the flow's network, over those that are part of it already.

        Parameters
        ----------
        path : Path or str
            As for :meth:`rectiflow.rectify.Adapter.load`.
        weight : float, default 1.0
            Of the adapter: 0 is none of it.

        Raises
        ------
        CheckpointError
            When it is no adapter, or one of another network.
        """
        from rectiflow.rectify.lora import Adapter

        adapter = Adapter.load(path) * weight
        try:
            adapter.merge(self.network)
        except ValueError as error:
            raise CheckpointError(path, str(error).rstrip(".")) from error
        self.adapters.append([str(path), weight])
        self.weights_hash = _joined({name: weights_hash(part) for name, part in self.parts.items()})
        return self

    def compile(self) -> Self:
        """Compile the flow's network, as CUDA graphs on a GPU; each shape compiles once."""
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.network.compile(dynamic=False, mode=mode)
        self.is_compiled = True
        return self

    def work(self, part: str = "") -> Work:
        """Return what a part of requests asks of the pipeline, for :mod:`rectiflow.costs` to fit.

        Raises
        ------
        ValueError
            Where the pipeline does not tell.
        """
        raise ValueError(f"{type(self).__name__} does not tell what a request takes.")

    def describe(self) -> dict[str, Any]:
        """Return what shapes every result of the pipeline, as plain data."""
        return {
            "weights": self.source,
            "weights_hash": self.weights_hash,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "compile": self.is_compiled,
            **({"adapters": self.adapters} if self.adapters else {}),
        }


def _kind(kinds: Kinds, told: Mapping[str, Any]) -> type[Pretrained] | None:
    """Return the class that a configuration is of, if it is one of these."""
    known = kinds if isinstance(kinds, tuple) else (kinds,)
    return next((kind for kind in known if kind.__name__ == told.get("class")), None)


def _loaded(kinds: Kinds, folder: Path) -> Pretrained:
    told = read_config(folder)
    kind = _kind(kinds, told)
    if kind is None:
        raise CheckpointError(folder, f"holds a {told['class']}, expected another network")
    return kind.from_pretrained(folder)


def _joined(hashes: Mapping[str, str]) -> str:
    """Join the hashes of parts; one part's stays as it is."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    lines = "".join(f"{name} {value}\n" for name, value in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
