"""What a domain gives to the demo, and what it is given.

A domain takes part by having a module ``demo`` beside its commands, with two functions:
``card(request: Request) -> Card``, and ``reads(path: Path) -> bool``, which says by its name
whether a file is one of the domain's. ``SHIPPED`` names the checkpoint it shows, if not ``small``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
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


@dataclass(frozen=True)
class Metric:
    """A column of a table: which number, how to print it, and what it tells."""

    key: str
    heading: str
    form: str
    meaning: str


_NUMBERS = """\
<h3>Numbers</h3>
<div class="scroll" role="region" aria-label="Metrics of every {lower}" tabindex="0">
<table>
<thead><tr><th scope="col">{first}</th>{headings}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<details>
<summary>What the columns mean</summary>
<dl class="meanings">
{meanings}
</dl>
</details>"""


def numbers(
    first: str, metrics: Sequence[Metric], rows: Iterable[tuple[str, Mapping[str, float]]]
) -> str:
    """Return a table with what its columns tell.

    Parameters
    ----------
    first : str
        Head of the column of names.
    metrics : sequence of Metric
        The other columns.
    rows : iterable of (str, mapping)
        A name, which is HTML, and the numbers.
    """
    return _NUMBERS.format(
        first=first,
        lower=first.lower(),
        headings="".join(f'<th scope="col">{m.heading}</th>' for m in metrics),
        rows="\n".join(_row(name, metrics, values) for name, values in rows),
        meanings="\n".join(f"<dt>{m.heading}</dt><dd>{m.meaning}</dd>" for m in metrics),
    )


def _row(name: str, metrics: Sequence[Metric], values: Mapping[str, float]) -> str:
    found = [(m, values.get(m.key, math.nan)) for m in metrics]
    cells = [m.form.format(value) if math.isfinite(value) else "–" for m, value in found]
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def settings_list(settings: Mapping[str, Any]) -> str:
    """Return settings as definitions under a heading."""
    told = "\n".join(
        f"<div><dt>{name.replace('_', ' ')}</dt><dd>{html.escape(str(value))}</dd></div>"
        for name, value in settings.items()
    )
    return f'<h3>Settings</h3>\n<dl class="settings">\n{told}\n</dl>'


def gathered(
    pictures: Iterable[tuple[str, dict[str, bytes]]],
) -> tuple[list[str], dict[str, bytes]]:
    """Return the figures and the files of pictures."""
    figures: list[str] = []
    files: dict[str, bytes] = {}
    for figure, its_files in pictures:
        figures.append(figure)
        files |= its_files
    return figures, files
