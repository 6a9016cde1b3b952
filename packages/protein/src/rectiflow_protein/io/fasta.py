"""Read sequences from FASTA files."""

from __future__ import annotations

from pathlib import Path


def read_fasta(path: str | Path) -> list[tuple[str, str]]:
    """Read the entries of a FASTA file as (header without ``>``, sequence), in order.

    Raises
    ------
    ValueError
        If there is no entry, or text before the first header.
    """
    entries: list[tuple[str, list[str]]] = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith(">"):
            entries.append((text[1:].strip(), []))
        elif text and entries:
            entries[-1][1].append(text)
        elif text:
            entries.clear()
            break
    if not entries:
        raise ValueError(
            f"{path} is no FASTA file, got no header first; expected lines that start with '>', "
            "each followed by a sequence."
        )
    return [(header, "".join(parts)) for header, parts in entries]
