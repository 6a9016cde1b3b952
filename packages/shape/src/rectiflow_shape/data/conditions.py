"""Classes and captions of prepared shapes as what the networks are told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rectiflow.conditioning import TextEncoder
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rectiflow.storage.table import Table

TEXTS = "texts"
"""Folder of the embedded captions, beside the shards."""


def short_caption(category: str) -> str:
    """Return the words for a class of which nothing else is known."""
    return f"a low-poly {category}"


def classes_of(table: Table) -> tuple[str, ...]:
    """Return the classes of a table in the order of their labels."""
    return tuple(sorted(set(table["class"].tolist())))


def text_states(texts: Sequence[str], encoder: str, cache: Path | None = None) -> Tensor:
    """Return the states (b, m, d) of texts, zeros at padding.

    A text of zeros is how no text is told, so padding tells nothing.

    Parameters
    ----------
    texts : sequence of str
    encoder : str
        For :meth:`rectiflow.conditioning.TextEncoder.load`.
    cache : Path, optional
        Folder where embeddings are kept.
    """
    found = TextEncoder.load(encoder, cache=cache).encode(list(texts), truncate=True)
    return found.states * found.mask[..., None]


class Told:
    """Labels and captions by row; each class has a short caption beside those of its members.

    Parameters
    ----------
    table : Table
        With ``class`` and ``caption``.
    rows : sequence of int
        Which of its rows.
    encoder : str
        Of the captions.
    folder : Path
        Keeps their embeddings.
    """

    def __init__(self, table: Table, rows: Sequence[int], encoder: str, folder: Path) -> None:
        self.classes = classes_of(table)
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = [number[name] for name in table["class"][rows].tolist()]
        captions = table["caption"][rows].tolist()
        shorts = [short_caption(name) for name in self.classes]
        captions = [c or shorts[i] for c, i in zip(captions, self.labels, strict=True)]
        unique = sorted({*captions, *shorts})
        states = text_states(unique, encoder, folder / TEXTS)
        place = {text: i for i, text in enumerate(unique)}
        self.captions = states[[place[text] for text in captions]]
        self.shorts = states[[place[text] for text in shorts]]

    def __call__(self, row: int, short: bool) -> dict[str, Tensor]:
        """Return ``label`` and ``context`` of a row, its own caption or that of its class."""
        label = self.labels[row]
        context = self.shorts[label] if short else self.captions[row]
        return {"label": torch.tensor(label), "context": context}
