"""Which domains exist, which of them are installed, and where their commands are."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rectiflow_cli.errors import UsageError

Verb = Callable[[list[str]], int]
"""A command: takes the words after its name, returns an exit code."""


def verb(module: str, summary: str) -> Verb:
    """Return the ``main`` of a module of this package, which is imported when it runs.

    Parameters
    ----------
    module : str
        Such as ``"audio.separate"``.
    summary : str
        What help says of it.
    """

    def run(argv: list[str]) -> int:
        return importlib.import_module(f"rectiflow_cli.{module}").main(argv)

    run.__doc__ = summary
    return run


@dataclass(frozen=True)
class Domain:
    """A domain package and the module of this package that holds its commands."""

    name: str
    summary: str

    @property
    def package(self) -> str:
        """Name under which the domain is imported."""
        return f"rectiflow_{self.name}"

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

    def verbs(self) -> Mapping[str, Verb]:
        """Return the domain's commands by name.

        Raises
        ------
        UsageError
            When the domain is not installed.
        """
        if self.folder() is None:
            raise UsageError(
                f"domain {self.name!r} is not installed. Get it with: {self.install_line}"
            )
        return importlib.import_module(f"rectiflow_cli.{self.name}").VERBS


DOMAINS = (
    Domain("protein", "protein backbones by rectified quaternion flow (ReQFlow)"),
    Domain("audio", "sounds separated by a text query (FlowSep)"),
)


def pick(kind: str, name: str, known: Iterable[str]) -> str:
    """Return ``name`` if it is known, else raise an error that names the close alternatives."""
    names = sorted(known)
    if name in names:
        return name
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UsageError(f"unknown {kind} {name!r}; known: {', '.join(names)}.{hint}")
