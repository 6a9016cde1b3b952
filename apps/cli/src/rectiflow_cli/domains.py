"""Which domains exist, which of them are installed, and where their commands are."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow_cli.config_root import config_root
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow.training import Recipe

log = logging.getLogger(__name__)

Command = Callable[[list[str]], int]
"""Takes the words after its name, returns an exit code."""

GROUP = "rectiflow.domains"
"""Entry points of distributions that add a domain: ``name = "module:DOMAIN"``."""


@dataclass(frozen=True)
class Verb:
    """A command of a domain, imported when it runs.

    Parameters
    ----------
    module : str
        Where its ``main`` is, or another name after a colon.
    summary : str
        What help says of it.
    """

    module: str
    summary: str

    def __call__(self, argv: list[str]) -> int:
        """Run it with the words after its name."""
        module, _, name = self.module.partition(":")
        return getattr(importlib.import_module(module), name or "main")(argv)


@dataclass(frozen=True)
class Domain:
    """A domain package, its commands and its configs.

    Parameters
    ----------
    name, summary : str
        What users type, and what help says.
    package : str, optional
        Under which the domain is imported; ``rectiflow_<name>`` if absent.
    commands : str, optional
        The module with ``VERBS``; ``rectiflow_cli.<name>`` if absent.
    demo : str, optional
        The module with ``card`` and ``reads``, if the domain takes part in the demo;
        ``<commands>.demo`` if absent.
    configs : Path, optional
        Folder of its Hydra configs. With ``train.yaml`` there is a verb ``train``, likewise
        ``reflow``; both read ``RECIPE`` in the package's module ``training``.
    """

    name: str
    summary: str
    package: str = ""
    commands: str = ""
    demo: str = ""
    configs: Path | None = None

    def __post_init__(self) -> None:
        defaults = {
            "package": f"rectiflow_{self.name}",
            "commands": f"rectiflow_cli.{self.name}",
            "configs": config_root() / self.name,
            "demo": f"{self.commands or f'rectiflow_cli.{self.name}'}.demo",
        }
        for field, default in defaults.items():
            object.__setattr__(self, field, getattr(self, field) or default)

    @property
    def install_line(self) -> str:
        """What a user types to get the domain."""
        return f"pip install 'rectiflow-cli[{self.name}]'"

    def folder(self) -> Path | None:
        """Folder of the installed package, found without importing it; None when absent."""
        spec = importlib.util.find_spec(self.package)
        return (
            Path(next(iter(spec.submodule_search_locations)))
            if spec and spec.submodule_search_locations
            else None
        )

    def require(self) -> None:
        """Raise unless the domain is installed.

        Raises
        ------
        UsageError
            Says how to get it.
        """
        if self.folder() is None:
            raise UsageError(
                f"domain {self.name!r} is not installed. Get it with: {self.install_line}"
            )

    def verbs(self) -> Mapping[str, Command]:
        """Return the domain's commands by name, those that read its configs included."""
        self.require()
        found = dict(importlib.import_module(self.commands).VERBS)
        for config, summary in {
            "train": "Train on prepared data (Hydra overrides: train --help).",
            "reflow": "Train a rectified flow on pairs (Hydra overrides: reflow --help).",
        }.items():
            assert self.configs is not None
            if (self.configs / f"{config}.yaml").is_file():
                found.setdefault(config, _Trained(self, config, summary))
        return found

    def has_card(self) -> bool:
        """Say whether the domain takes part in the demo."""
        try:
            return importlib.util.find_spec(self.demo) is not None
        except ModuleNotFoundError:  # the module above it is none that holds others
            return False

    def recipe(self) -> Recipe:
        """Return how its networks are trained."""
        return importlib.import_module(f"{self.package}.training").RECIPE


@dataclass(frozen=True)
class _Trained:
    """The generic verb that trains by one primary config of a domain."""

    domain: Domain
    config: str
    summary: str

    def __call__(self, argv: list[str]) -> int:
        from rectiflow_cli import train

        return train.run(self.domain, self.config, argv)


def _others() -> Iterable[Domain]:
    """Domains that other distributions add."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        try:
            yield entry.load()
        except Exception as error:  # one that is broken must not take the others along
            log.warning("domain %s cannot be loaded (%s)", entry.name, error)


DOMAINS: tuple[Domain, ...] = (
    Domain("protein", "protein backbones by rectified quaternion flow (ReQFlow)"),
    Domain("audio", "sounds separated by a text query (FlowSep)"),
    Domain("shape", "closed meshes from a category, words or an image (Mosaic-SDF, TripoSG)"),
    Domain("pde", "flows simulated from words or a first frame (Text2PDE)"),
    Domain("imaging", "images reconstructed from few views, or deformed (DiffusionMBIR, DRDM)"),
    Domain("trajectories", "particles, molecules and pedestrians forecast (GeoTDM)"),
    *_others(),
)


def domain_of(name: str) -> Domain:
    """Return the domain of that name."""
    known = {domain.name: domain for domain in DOMAINS}
    return known[pick("domain", name, known)]


def summary_of(command: Command) -> str:
    """Return what help says of a command."""
    text = getattr(command, "summary", None) or command.__doc__ or ""
    return text.strip().partition("\n")[0].rstrip(".")


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name most like this one, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def pick(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is known, else raise an error that names the close alternatives."""
    names = sorted(known)
    if name in names:
        return name
    raise UsageError(f"unknown {kind} {name!r}; known: {', '.join(names)}.{nearest(name, names)}")
