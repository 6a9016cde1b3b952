"""Sequence clusters: what stays together when chains are split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rectiflow.storage.reading import read_text

from rectiflow_protein.io.sequence import encode_sequence
from rectiflow_protein.residues import UNKNOWN

_ROWS_AT_ONCE = 256


def kmer_clusters(
    sequences: Sequence[str],
    *,
    k: int = 4,
    shared: float = 0.15,
) -> np.ndarray:
    """Single-linkage clusters of sequences by shared k-mers.

    Two sequences are linked if ``|A ∩ B| >= shared · min(|A|, |B|)`` for their sets ``A``, ``B`` of
    k-mers. At the defaults this is about "clearly the same family"; remote homologues, alike only
    in structure, may fall into different clusters.

    Parameters
    ----------
    sequences : sequence of str
        One-letter sequences; words with an unknown letter are not counted.
    k : int, default 4
        Word length.
    shared : float, default 0.15
        Linking threshold, in (0, 1].

    Returns
    -------
    ndarray, shape (sequences,), int64
        Cluster of each sequence, numbered by first member. Sequences without a word are singletons.

    Examples
    --------
    >>> kmer_clusters(["ACDEFGHIK", "MMMMMMMMM", "ACDEFGHIL"]).tolist()
    [0, 1, 0]
    """
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import connected_components

    if k < 1 or not 0 < shared <= 1:
        raise ValueError(
            f"clusters need k >= 1 and 0 < shared <= 1, got k={k}, shared={shared}. "
            "k=4 and shared=0.15 are usual."
        )
    if len(sequences) == 0:
        return np.zeros(0, dtype=np.int64)
    words = [_words(sequence, k) for sequence in sequences]
    sizes = np.array([len(w) for w in words])
    codes, columns = np.unique(np.concatenate(words), return_inverse=True)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    ones = np.ones(len(columns), dtype=np.int32)
    table = csr_matrix((ones, columns, starts), shape=(len(words), max(len(codes), 1)))
    members = np.arange(len(words))
    roots = members  # the first member known of each one's cluster: no list of all links is kept
    for first in range(0, len(words), _ROWS_AT_ONCE):
        common = (table[first : first + _ROWS_AT_ONCE] @ table.T).tocoo()
        smaller = np.minimum(sizes[first + common.row], sizes[common.col])
        linked = common.data >= shared * smaller
        ends = np.concatenate([first + common.row[linked], members])
        others = np.concatenate([common.col[linked], roots])
        links = csr_matrix((np.ones(len(ends), bool), (ends, others)), shape=(len(words),) * 2)
        _, labels = connected_components(links, directed=False)
        roots = np.unique(labels, return_index=True)[1][labels]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def _words(sequence: str, k: int) -> np.ndarray:
    """Sorted distinct k-mers of a sequence as integers."""
    types = encode_sequence(sequence).astype(np.int64)
    if len(types) < k:
        return np.zeros(0, dtype=np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(types, k)
    known = windows[(windows < UNKNOWN).all(axis=1)]
    return np.unique(known @ (UNKNOWN ** np.arange(k)))


def join_clusters(first: Sequence[object], second: Sequence[object]) -> list[int]:
    """Join what either of two clusterings joins, and no more.

    Parameters
    ----------
    first, second : sequence of hashable, shape (items,)
        Labels of each item in the two clusterings.

    Returns
    -------
    list of int
        Labels 0, 1, ... in order of first appearance.

    Examples
    --------
    >>> join_clusters([0, 0, 1, 2], ["a", "b", "b", "c"])
    [0, 0, 0, 1]
    """
    parent = list(range(len(first)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for labels in (first, second):
        leader: dict[object, int] = {}
        for i, label in enumerate(labels):
            a, b = sorted((root(leader.setdefault(label, i)), root(i)))
            parent[b] = a
    number: dict[int, int] = {}
    return [number.setdefault(root(i), len(number)) for i in range(len(parent))]


def read_clusters(path: str | Path) -> dict[str, str]:
    """Read a cluster file: one cluster per line, members separated by white space.

    This is the form of the PDB's clusters-by-entity files. Members are compared in lower case and
    also without what follows the last ``_``, so that ``101M_1`` names the entry ``101m``.

    Parameters
    ----------
    path : str or Path
        Text file.

    Returns
    -------
    dict
        Cluster (its first member) of each member and each entry; the first line that names an
        entry wins.
    """
    clusters: dict[str, str] = {}
    for line in read_text(path).splitlines():
        members = line.lower().split()
        for member in members:
            clusters.setdefault(member, members[0])
            clusters.setdefault(member.rsplit("_", 1)[0], members[0])
    if not clusters:
        raise ValueError(
            f"{path} names no cluster, got an empty file; expected one cluster per line, members "
            "separated by spaces."
        )
    return clusters
