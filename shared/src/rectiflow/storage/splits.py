"""Which records train and which are held out, by their names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

SPLITS = ("train", "valid", "test")
DEFAULT_FRACTIONS = {"train": 0.9, "valid": 0.05, "test": 0.05}


def number_repeated_names(rows: Iterable[dict[str, Any]]) -> None:
    """Make names unique: the second ``dog`` becomes ``dog-2``."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen[row["name"]] += 1
        if seen[row["name"]] > 1:
            row["name"] += f"-{seen[row['name']]}"


def split_all(
    rows: Iterable[dict[str, Any]],
    fractions: Mapping[str, float] = DEFAULT_FRACTIONS,
    *,
    seed: int = 0,
    by: str = "name",
) -> None:
    """Make names unique, and give rows without a ``split`` one by what they say under ``by``."""
    rows = list(rows)
    number_repeated_names(rows)
    for row in rows:
        row["split"] = row.get("split") or split_of(row[by], fractions, seed=seed)


def split_of(name: str, fractions: Mapping[str, float], *, seed: int = 0) -> str:
    """Split that something belongs to, by a hash of its name alone.

    Adding or removing others moves nothing from one split to another.

    Parameters
    ----------
    name : str
        Of a file, or of a cluster whose members stay together.
    fractions : mapping
        Share of names for each of train, valid, test; must sum to 1.
    seed : int, default 0
        Another seed gives another split.

    Returns
    -------
    str
        One of the keys of ``fractions``.

    Examples
    --------
    >>> split_of("1abc", {"train": 1.0})
    'train'
    """
    check_fractions(fractions)
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
    place, edge = int.from_bytes(digest[:8], "big") / 2**64, 0.0
    for split in SPLITS:
        edge += fractions.get(split, 0.0)
        if place < edge:
            return split
    return next(split for split in reversed(SPLITS) if fractions.get(split, 0.0) > 0)


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise ValueError unless ``fractions`` shares 1 among train, valid and test."""
    known = set(fractions) <= set(SPLITS) and all(share >= 0 for share in fractions.values())
    if not known or abs(sum(fractions.values()) - 1) > 1e-6:
        raise ValueError(
            f"split fractions must share 1 among {', '.join(SPLITS)}, got {dict(fractions)}; "
            "for example {'train': 0.9, 'valid': 0.05, 'test': 0.05}."
        )
