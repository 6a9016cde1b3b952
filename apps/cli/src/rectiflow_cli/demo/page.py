"""From the domains' cards to a folder with ``index.html``."""

from __future__ import annotations

import html
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from rectiflow.results import plain
from rectiflow.storage.files import write_bytes, write_json, write_text
from rectiflow.storage.folders import claim

from rectiflow_cli.demo.card import Card

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).parent / "assets"

# The colours of style.css: pictures stand on the page without a seam.
_PAPER = {"light": ("#ffffff", "#20262d"), "dark": ("#1a1f25", "#dfe5ea")}
_CYCLE = {"light": ("#2f5fd0", "#d1495b", "#1a8f8a"), "dark": ("#86a8ff", "#ff8d98", "#4fd0c8")}


def asset(name: str, folder: Path = ASSETS) -> str:
    """Return the text of a file of ``assets/``, or of another folder."""
    return (folder / name).read_text(encoding="utf-8")


def picture(
    name: str, draw: Callable[[], Figure], *, alt: str, caption: str = ""
) -> tuple[str, dict[str, bytes]]:
    """Draw a figure once on light paper and once on dark.

    Parameters
    ----------
    name : str
        Stem of the files ``pictures/<name>.png`` and ``pictures/<name>_dark.png``.
    draw : callable
        Makes the figure. It is called with matplotlib's colours already set, and takes colours
        that it does not leave to the defaults from ``matplotlib.rcParams``.
    alt : str
        What the picture shows, in words.
    caption : str
        Below the picture.

    Returns
    -------
    tuple
        A ``<figure>`` and the files it needs.
    """
    import matplotlib

    files = {}
    for theme, (paper, ink) in _PAPER.items():
        with matplotlib.rc_context(_colours(paper, ink, _CYCLE[theme])):
            content = io.BytesIO()
            draw().savefig(content, format="png", dpi=144, metadata={"Software": None})
        files[f"pictures/{name}{'' if theme == 'light' else '_dark'}.png"] = content.getvalue()
    light, dark = files
    text = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    figure = (
        f'<figure class="picture"><picture><source srcset="{dark}" '
        f'media="(prefers-color-scheme: dark)"><img src="{light}" alt="{html.escape(alt)}" '
        f'width="720" height="605" loading="lazy"></picture>{text}</figure>'
    )
    return figure, files


def _colours(paper: str, ink: str, cycle: tuple[str, ...]) -> Any:
    """Return settings for matplotlib, which wants a literal type for every key."""
    from matplotlib.rcsetup import cycler

    inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, ink),
        **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), paper),
        "axes.prop_cycle": cycler("color", cycle),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 11,
    }


def data_block(name: str, data: Any) -> str:
    """Return data as a script element that is read, not run."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def write_page(
    folder: Path,
    cards: Mapping[str, Card],
    settings: Mapping[str, Any],
    *,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write the cards' files, ``result.json`` and, when all else is there, ``index.html``.

    Parameters
    ----------
    folder : Path
        Made if absent; files of an earlier demonstration are replaced.
    cards : mapping
        By domain.
    settings : mapping
        ``command`` and ``versions``.
    overwrite : bool, default False
        Replace files of other origin, too.

    Returns
    -------
    dict
        What ``result.json`` holds.
    """
    result = plain({**settings, "domains": {name: card.result for name, card in cards.items()}})
    files = {path: content for card in cards.values() for path, content in card.files.items()}
    names = ["result.json", "index.html", *files]
    with claim(folder, "demonstration", names, overwrite=overwrite):
        for path, content in files.items():
            write_bytes(folder / path, content)
        write_json(folder / "result.json", result)
        write_text(folder / "index.html", _page(cards, settings))
    return result


def _page(cards: Mapping[str, Card], settings: Mapping[str, Any]) -> str:
    sections = [
        f'<section id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title">{html.escape(card.title)}</h2>\n{card.html}\n</section>'
        for name, card in cards.items()
    ]
    links = [f'<a href="#{name}">{html.escape(card.title)}</a>' for name, card in cards.items()]
    versions = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
    return Template(asset("template.html")).substitute(
        style=asset("style.css"),
        contents=f"<nav aria-label='Domains'>{' '.join(links)}</nav>" if len(links) > 1 else "",
        sections="\n".join(sections),
        command=html.escape(settings["command"]),
        versions=html.escape(versions),
    )
