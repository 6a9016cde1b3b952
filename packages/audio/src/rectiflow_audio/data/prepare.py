"""From a folder of sound files and a list of captions to shards, in parallel and resumable."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from rectiflow.storage.folders import places
from rectiflow.storage.preparation import Extracted, Kept, Preparation, Report, Running
from rectiflow.storage.reading import digest_of
from rectiflow.storage.splits import DEFAULT_FRACTIONS, check_fractions, split_all

from rectiflow_audio.data.captions import Entry, Wordings, find_captions, read_captions
from rectiflow_audio.data.extract import Channel, clip_of
from rectiflow_audio.data.prepared import CAPTIONS, COLUMNS, PreparedSounds
from rectiflow_audio.data.tables import find_file
from rectiflow_audio.frontend import SAMPLE_RATE
from rectiflow_audio.io import SUFFIXES

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEncoder

log = logging.getLogger(__name__)


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    captions: str | Path | None = None,
    channel: Channel = "mean",
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    encode: TextEncoder | None = None,
    wordings: Wordings | None = None,
    **run: Unpack[Running],
) -> Report:
    """Turn sound files and their captions into shards to train on: mono, 16 kHz, 16 bit.

    Every row of the list is either used or has a line in ``rejected.csv``; the input is only
    read. A file that is listed several times has several captions, of which training draws.

    A preparation that was killed continues when it is started again with the same arguments, and
    a finished one returns its report.

    Parameters
    ----------
    folder : str or Path
        Files are named relative to it.
    out : str or Path
        Receives the shards with ``manifest.json``, ``metadata.csv``, ``captions.csv``,
        ``rejected.csv``, ``report.json`` and, with ``encode``, the folder ``texts``. Not inside
        ``folder``.
    captions : str or Path, optional
        The list, see :func:`read_captions`; by default one that ``folder`` holds under a usual
        name.
    channel : str, default "mean"
        How channels become one: ``"mean"``, or ``"first"`` as the authors do.
    fractions : mapping
        Shares of train, valid and test among rows whose split the list does not tell; decided by
        a hash of the file's name.
    seed : int
        Of that split.
    encode : TextEncoder, optional
        Embeds the captions, so that training needs no text encoder. May be given to a finished
        preparation.
    wordings : Wordings, optional
        Further captions to embed.
    **run
        See :class:`~rectiflow.storage.preparation.Running`.

    Returns
    -------
    Report
        Its ``counts`` are ``seconds``, ``labels`` and ``unlisted files``.

    Raises
    ------
    ValueError
        If the arguments or the list are unusable, or ``out`` holds a preparation with others.
    FileNotFoundError
        If there is no such folder or list.
    """
    if channel not in ("mean", "first"):
        raise ValueError(f"unknown channel rule {channel!r}; known: mean, first.")
    check_fractions(fractions)
    folder, out = places(folder, out, "sound files")
    entries = read_captions(captions if captions is not None else find_captions(folder))
    settings = {
        "kind": "sounds",
        "sample_rate": SAMPLE_RATE,
        "channel": channel,
        "fractions": dict(fractions),
        "seed": seed,
        "inputs": digest_of([asdict(entry) for entry in entries]),
    }
    preparation = Preparation(
        unit="clip",
        columns=COLUMNS,
        refusal=("file", "line", "reason"),
        judge=partial(clip_of, root=folder, channel=channel),
        finish=partial(_finish, fractions=fractions, seed=seed, entries=entries, root=folder),
        settings=settings,
    )
    report = preparation.run(entries, out, **run)
    if encode is not None:
        PreparedSounds(out).encode(encode, wordings)
    return report


def _finish(
    found: Extracted,
    fractions: Mapping[str, float],
    seed: int,
    entries: Sequence[Entry],
    root: Path,
) -> Kept:
    """Leave duplicates out, and split what the list does not."""
    kept, further = _without_duplicates(found)
    rows = [found.rows[i] for i in kept]
    split_all(rows, fractions, seed=seed, by="source")
    found.rejected.sort(key=lambda refusal: refusal["line"])
    labels = {part for row in rows for part in row["label"].split(",") if part.strip()}
    counts = {
        "seconds": round(sum(float(row["seconds"]) for row in rows), 3),
        "labels": len(labels),
        "unlisted files": _unlisted(entries, root),
    }
    if counts["unlisted files"]:
        log.warning(
            "%d sound files are not in the list and were not used", _unlisted(entries, root)
        )
    others = [{"source": source, "caption": text} for source in further for text in further[source]]
    return Kept(kept, counts, {CAPTIONS: (("source", "caption"), others)})


def _without_duplicates(found: Extracted) -> tuple[list[int], dict[str, list[str]]]:
    """Return the rows whose samples no earlier row has, and further captions of their files.

    A file that is listed again with other words keeps them; other repetitions are refused.
    """
    kept: list[int] = []
    first: dict[str, dict[str, Any]] = {}
    further: dict[str, list[str]] = {}
    for index, row in enumerate(found.rows):
        original = first.setdefault(row["samples"], row)
        if original is row:
            kept.append(index)
            continue
        same = all(original[key] == row[key] for key in ("source", "label", "split"))
        captions = further.setdefault(row["source"], [])
        if same and row["caption"] not in (original["caption"], *captions):
            captions.append(row["caption"])
            continue
        reason = f"the same samples as {original['source']} in line {original['line']}"
        found.rejected.append({"file": row["source"], "line": row["line"], "reason": reason})
    return kept, {source: captions for source, captions in further.items() if captions}


def _unlisted(entries: Sequence[Entry], root: Path) -> int:
    """Sound files below the root that no row names."""
    listed = {find_file(root, entry.file).resolve() for entry in entries if entry.file}
    below = (path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sum(path.is_file() and path.resolve() not in listed for path in below)
