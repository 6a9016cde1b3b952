"""Words for sounds: lists of captions, and other wordings of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rectiflow_audio.data.mixtures import labels_of
from rectiflow_audio.data.tables import is_file, read_table

PARAPHRASES = "paraphrases"
"""Name of the list of wordings that comes with the package."""

LISTS = ("metadata.csv", "captions.csv", "metadata.jsonl", "captions.jsonl", "captions.json")
"""Names under which :func:`find_captions` looks for a list."""


@dataclass(frozen=True)
class Wordings:
    """Further captions per label, drawn instead of a clip's own.

    Parameters
    ----------
    by_label : mapping of str to sequence of str
        Wordings that are true of every clip with the label.
    share : float, default 0.5
        Probability of drawing one of them where there are any.
    """

    by_label: Mapping[str, Sequence[str]] = field(default_factory=dict)
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}.")

    @classmethod
    def read(cls, path: str | Path, share: float = 0.5) -> Wordings:
        """Read a CSV file with the columns ``label`` and ``caption``, one wording a row.

        ``"paraphrases"`` is a list for the classes of the shipped checkpoint.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If a column is missing or a cell is empty.
        """
        if str(path) == PARAPHRASES and not Path(path).exists():
            path = Path(__file__).with_name(f"{PARAPHRASES}.csv")
        header, rows = read_table(path)
        if not {"label", "caption"} <= set(header):
            raise ValueError(f"{path} has the columns {header}; expected label and caption.")
        by_label: dict[str, list[str]] = {}
        for line, cells in rows:
            told = dict(zip(header, map(str.strip, cells), strict=True))
            if not told["label"] or not told["caption"]:
                raise ValueError(f"{path}, line {line}: label or caption is empty; expected both.")
            by_label.setdefault(told["label"], []).append(told["caption"])
        return cls(by_label, share)

    @property
    def texts(self) -> list[str]:
        """All wordings, sorted."""
        return sorted({text for texts in self.by_label.values() for text in texts})

    def draw(self, caption: str, label: str, generator: torch.Generator) -> str:
        """Return the caption of a clip, or one of its label's wordings.

        A clip with several labels keeps its caption: a wording of one label tells only a part.
        """
        found = labels_of(label, caption)
        choices = self.by_label.get(next(iter(found)), ()) if len(found) == 1 else ()
        if not choices or float(torch.rand((), generator=generator)) >= self.share:
            return caption
        return choices[int(torch.randint(len(choices), (), generator=generator))]


@dataclass(frozen=True)
class Entry:
    """One line of a list of captions, as it was written; see :func:`read_captions`."""

    file: str
    caption: str
    label: str
    split: str
    line: int


def find_captions(folder: str | Path) -> Path:
    """Return the list of captions of a folder of sounds.

    Raises
    ------
    FileNotFoundError
        If there is none of the known names.
    ValueError
        If there are several.
    """
    found = [path for name in LISTS if (path := Path(folder) / name).is_file()]
    if not found:
        raise FileNotFoundError(
            f"{folder} has no list of captions, got none of {', '.join(LISTS)}; expected a CSV "
            "file with the columns file and caption (and, if known, label and split), or JSON "
            "lines. Name it with captions=."
        )
    if len(found) > 1:
        raise ValueError(
            f"{folder} has several lists of captions, got {', '.join(p.name for p in found)}; "
            "expected one. Choose with captions=."
        )
    return found[0]


def read_captions(path: str | Path) -> list[Entry]:
    """Read a list of sounds and captions.

    Parameters
    ----------
    path : str or Path
        A CSV file with a header, or one JSON object a line (``.jsonl``, ``.json``). Columns, or
        keys: ``file`` or ``wav``; ``caption``; optionally ``label`` or ``class``, several
        separated by commas; optionally ``split``. Others are passed over.

    Returns
    -------
    list of Entry
        In the order of the lines. Empty cells are kept: it is for the caller to judge rows.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a column is missing, a row has more or fewer cells than the header, a quote is not
        closed, a line is not JSON, or the file is not UTF-8 text.
    """
    path = Path(path)
    if not is_file(path):
        raise FileNotFoundError(f"there is no {path}; expected a list of captions. Check the path.")
    is_json = path.suffix.lower() in (".jsonl", ".json")
    rows = list(_json_rows(path) if is_json else _csv_rows(path))
    if not rows:
        raise ValueError(f"{path} lists nothing; expected a row for each sound.")
    return [
        Entry(
            _name(row),
            _cell(row, "caption"),
            _cell(row, "label", "class"),
            _cell(row, "split"),
            line,
        )
        for line, row in rows
    ]


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header, rows = read_table(path)
    names = [name.lower() for name in header]
    if not {"file", "wav"} & set(names) or "caption" not in names:
        raise ValueError(
            f"{path} has the columns {names}; expected file (or wav) and caption. Add a header "
            "line that names them."
        )
    for line, cells in rows:
        yield line, dict(zip(names, cells, strict=True))


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). Save it as UTF-8."
        ) from error
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            str(row).encode()  # escapes may stand for halves of characters
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number}: not JSON ({error}); expected one object a line, such as "
                '{"wav": "dog.wav", "label": "dog", "caption": "a dog barks"}.'
            ) from error
        if not isinstance(row, dict) or not {"file", "wav"} & row.keys() or "caption" not in row:
            raise ValueError(
                f"{path}, line {number}: no object with the keys wav (or file) and caption, got "
                f"{line[:80]!r}."
            )
        yield number, row


def _cell(row: Mapping[str, Any], *names: str) -> str:
    """First cell that is there, as one line of text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, list):
            value = ",".join(map(str, value))
        if value is not None and str(value).strip():
            return " ".join(str(value).split())
    return ""


def _name(row: Mapping[str, Any]) -> str:
    """Name of the file; spaces in it belong to it."""
    names = (row.get(key) for key in ("file", "wav"))
    return next((str(name) for name in names if name is not None and str(name).strip()), "")
