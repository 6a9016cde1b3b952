"""What a domain gives to the demo, and what it is given.

A domain takes part by having a module ``rectiflow_cli.demo.<domain>`` with two functions:
``card(request: Request) -> Card``, and ``reads(path: Path) -> bool``, which says by its name
whether a file is one of the domain's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Request:
    """What to run.

    Attributes
    ----------
    weights : str
        Name of a shipped checkpoint, or a path.
    num, seed : int
        How many samples to draw, and the seed of the noise.
    steps : int, optional
        Network calls for each sample; the domain's own number if absent.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    input : Path, optional
        A file of the user's to start from or to compare with; the domain's own if absent.
    queries : tuple of str
        What to look for in it, where the domain takes words.
    quiet : bool
        Show no progress.
    """

    weights: str = "small"
    num: int = 6
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    input: Path | None = None
    queries: tuple[str, ...] = ()
    quiet: bool = False


@dataclass(frozen=True)
class Card:
    """A domain's part of the page.

    Attributes
    ----------
    title : str
        Heading of the section.
    html : str
        What stands below it: trusted HTML, its scripts included. Paths are relative to the page.
    files : mapping
        Contents by path relative to the page.
    result : mapping
        The domain's part of ``result.json``.
    """

    title: str
    html: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)
