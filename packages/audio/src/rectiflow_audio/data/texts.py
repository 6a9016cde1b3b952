"""Embedded captions: a table that stands in for the text encoder during training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rectiflow.storage.shards import MANIFEST, ShardReader, ShardWriter
from torch.nn import functional

if TYPE_CHECKING:
    from rectiflow.conditioning import TextEncoder
    from torch import Tensor

_AT_ONCE = 64


class Context(NamedTuple):
    """The embedding of one text: ``states (k, d)`` and ``mask (k,)``, 1 where there is a token."""

    states: Tensor
    mask: Tensor


class TextTable:
    """Embeddings of a fixed set of texts, looked up instead of encoded.

    Stored as shards, so that training needs neither the text encoder nor its library. Padding
    tokens are left out on disk and returned as zeros under a mask of zero. The empty text stands
    for the unconditional branch, which attends to all its positions.

    Parameters
    ----------
    texts : sequence of str
        The empty text among them.
    records : sequence of dict
        ``states (k, d)`` and ``mask (k,)`` of each text, k at most ``tokens``.
    tokens : int
        Positions of a returned embedding.

    Examples
    --------
    >>> import torch
    >>> records = [{"states": torch.ones(2, 3), "mask": torch.ones(2)}] * 2
    >>> TextTable(["", "a dog"], records, tokens=4)["a dog"].mask
    tensor([1., 1., 0., 0.])
    """

    def __init__(self, texts: Sequence[str], records: Any, tokens: int) -> None:
        self._row = {text: row for row, text in enumerate(texts)}
        self._records, self.tokens = records, tokens

    @classmethod
    def load(cls, folder: str | Path) -> TextTable:
        """Open what :func:`encode_texts` wrote."""
        reader = ShardReader(folder)
        return cls(reader.names, reader, reader.metadata["tokens"])

    @classmethod
    def encode(cls, texts: Iterable[str], encoder: TextEncoder) -> TextTable:
        """Encode texts now and keep them in memory."""
        wanted = _with_empty(texts)
        records = [record for chunk in _chunks(wanted) for record in _encode(chunk, encoder)]
        return cls(wanted, records, len(records[0]["mask"]))  # of the empty text: never cut

    def __contains__(self, text: object) -> bool:
        return text in self._row

    def __len__(self) -> int:
        return len(self._row)

    @property
    def width(self) -> int:
        """Numbers per token."""
        return int(self._records[0]["states"].shape[-1])

    @property
    def null(self) -> Context:
        """The unconditional context: the states of the empty text under a mask of ones."""
        return self[""]

    def __getitem__(self, text: str) -> Context:
        """Return the embedding of a text, ``states (tokens, d)`` and ``mask (tokens,)``."""
        if text not in self._row:
            raise KeyError(
                f"text {text!r} is not among the {len(self)} embedded texts. Embed the captions "
                "again, with all wordings that training draws."
            )
        record = self._records[self._row[text]]
        padding = self.tokens - len(record["mask"])
        return Context(
            functional.pad(record["states"], (0, 0, 0, padding)),
            functional.pad(record["mask"], (0, padding)),
        )


def encode_texts(texts: Iterable[str], encoder: TextEncoder, folder: str | Path) -> TextTable:
    """Embed texts and write them to a folder; continues where an earlier call stopped.

    Parameters
    ----------
    texts : iterable of str
        In any order and number; the empty text is added.
    encoder : TextEncoder
        Its hash is stored, and another encoder is refused for the same folder.
    folder : str or Path
        Written as shards.

    Returns
    -------
    TextTable
        Of the folder.
    """
    wanted = _with_empty(texts)
    tokens = encoder.null(1).mask.shape[1]
    metadata = {"kind": "text embeddings", "encoder": encoder.hash, "tokens": tokens}
    known = set(ShardReader(folder).names) if (Path(folder) / MANIFEST).is_file() else set()
    with ShardWriter(folder, metadata) as writer:
        for chunk in _chunks([text for text in wanted if text not in known]):
            for text, record in zip(chunk, _encode(chunk, encoder), strict=True):
                writer.add(record, text)
    return TextTable.load(folder)


def _with_empty(texts: Iterable[str]) -> list[str]:
    return ["", *sorted(set(texts) - {""})]


def _chunks(texts: Sequence[str]) -> Iterable[Sequence[str]]:
    return (texts[i : i + _AT_ONCE] for i in range(0, len(texts), _AT_ONCE))


def _encode(texts: Sequence[str], encoder: TextEncoder) -> list[dict[str, Tensor]]:
    """Embed a few texts, and cut their padding off."""
    words = [text for text in texts if text]
    found = encoder.encode(words, truncate=True) if words else None
    pairs = [] if found is None else zip(found.states.cpu(), found.mask.cpu(), strict=True)
    of_words = dict(zip(words, pairs, strict=True))
    null = encoder.null(1)
    records = []
    for text in texts:
        states, mask = of_words[text] if text else (null.states[0].cpu(), null.mask[0].cpu())
        used = int(mask.nonzero().max()) + 1
        records.append({"states": states[:used].float().clone(), "mask": mask[:used].float()})
    return records
