"""How alike folds are: TM-score, diversity, clusters, novelty."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

SAME_FOLD = 0.5  # TM-score above which two chains usually share a fold

_FOLDSEEK_SCORE = 10  # the E-value column, which carries the TM-score with alignment type 1


def tm_score(mobile: Float[Tensor, "n 3"], target: Float[Tensor, "m 3"]) -> float:
    """TM-score of two chains by TM-align, normalised by the length of ``target``.

    Both chains are given to TM-align as poly-alanine, as published.

    Parameters
    ----------
    mobile, target : Tensor, shape (n, 3) and (m, 3)
        CA positions in ångström, at least 3 each.

    Returns
    -------
    float
        In (0, 1].

    References
    ----------
    Zhang and Skolnick, "TM-align" (2005), through tmtools.
    """
    return _align(mobile, target)[1]


def nearest_tm(
    chain: Float[Tensor, "n 3"], known: Sequence[Float[Tensor, "m 3"]]
) -> tuple[float, int]:
    """TM-score, normalised by the length of ``chain``, of the most alike of known chains; which.

    Held against training chains it tells whether a sample is a copy; the figure of held-out
    natural chains says how alike chains are anyway.

    Parameters
    ----------
    chain : Tensor, shape (n, 3)
        CA positions in ångström.
    known : sequence of Tensor, shape (m_i, 3)
        At least one.
    """
    scores = [tm_score(other, chain) for other in known]
    best = int(np.argmax(scores))
    return scores[best], best


def pairwise_tm(chains: Sequence[Float[Tensor, "n 3"]]) -> Float[np.ndarray, "k k"]:
    """TM-scores of all pairs; entry (i, j) is normalised by the length of chain j.

    Parameters
    ----------
    chains : sequence of Tensor, shape (n_i, 3)
        CA positions in ångström.
    """
    scores = np.eye(len(chains))
    for i in range(len(chains)):
        for j in range(i + 1, len(chains)):
            scores[j, i], scores[i, j] = _align(chains[i], chains[j])
    return scores


def diversity(chains: Sequence[Float[Tensor, "n 3"]]) -> float:
    """Mean pairwise TM-score among chains of one length, averaged over lengths.

    Lower is more diverse. Published for designable samples only. Lengths with a single chain do
    not count; NaN if there is no other.

    Parameters
    ----------
    chains : sequence of Tensor, shape (n_i, 3)
        CA positions in ångström.
    """
    groups: dict[int, list[Tensor]] = defaultdict(list)
    for chain in chains:
        groups[len(chain)].append(chain)
    means = []
    for _, group in sorted(groups.items()):
        if len(group) > 1:
            scores = pairwise_tm(group)
            means.append(scores[np.triu_indices(len(group), 1)].mean())
    return float(np.mean(means)) if means else float("nan")


def cluster_count(scores: Float[np.ndarray, "k k"], threshold: float = SAME_FOLD) -> int:
    """Count clusters in which all pairs have a TM-score of at least ``threshold``.

    Complete linkage on ``1 - max(TM_ij, TM_ji)``. Divided by the number of chains this is the
    usual share of distinct folds; thresholds 0.5 and 0.6 are common.

    Parameters
    ----------
    scores : ndarray, shape (k, k)
        From :func:`pairwise_tm`.
    threshold : float, default 0.5
        In (0, 1].

    Examples
    --------
    >>> cluster_count(np.array([[1, 0.8, 0.2], [0.8, 1, 0.3], [0.2, 0.3, 1]]))
    2
    """
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores must be a square matrix, got shape {scores.shape}; expected the output of "
            "pairwise_tm."
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold}; 0.5 is usual.")
    if len(scores) < 2:
        return len(scores)
    distance = 1 - np.maximum(scores, scores.T)
    np.fill_diagonal(distance, 0)
    tree = linkage(squareform(distance, checks=False), method="complete")
    return int(fcluster(tree, 1 - threshold + 1e-9, criterion="distance").max())


def foldseek_command(
    samples: str | Path, database: str | Path, result: str | Path, scratch: str | Path
) -> list[str]:
    """Arguments of the published novelty search, to be run by the user.

    Exhaustive TM-align of every file in ``samples`` against ``database``, without a threshold.
    """
    options = ["--alignment-type", "1", "--exhaustive-search", "--tmscore-threshold", "0.0"]
    paths = [str(p) for p in (samples, database, result, scratch)]
    return ["foldseek", "easy-search", *paths, *options]


def read_foldseek(path: str | Path, *, drop_first_hit: bool = False) -> dict[str, float]:
    """Read the highest TM-score of each query from a Foldseek result table.

    With ``--alignment-type 1`` the E-value column (the 11th of the default table) holds the
    TM-score.

    Parameters
    ----------
    path : str or Path
        Tab-separated table without a header.
    drop_first_hit : bool, default False
        Skip the first line as the published script does, which takes it for a header. That line is
        often the best hit of the first query; set this only to compare with published numbers.

    Returns
    -------
    dict
        Largest TM-score by query. Their mean over designable samples is the published novelty
        (lower is more novel).
    """
    best: dict[str, float] = {}
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip() or (drop_first_hit and number == 1):
            continue
        fields = line.split("\t")
        try:
            query, score = fields[0], float(fields[_FOLDSEEK_SCORE])
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number} is no Foldseek hit, got {line[:80]!r}; expected at least "
                f"{_FOLDSEEK_SCORE + 1} tab-separated columns with the score in the 11th. Run "
                "easy-search with the default --format-output."
            ) from error
        best[query] = max(score, best.get(query, score))
    return best


def _align(first: Tensor, second: Tensor) -> tuple[float, float]:
    """TM-scores normalised by the first and by the second chain."""
    import tmtools

    for chain in (first, second):
        if chain.ndim != 2 or chain.shape[1] != 3 or len(chain) < 3:
            raise ValueError(
                f"TM-align needs CA positions (n, 3) of at least 3 residues, got "
                f"{tuple(chain.shape)}. Pass coords[:, 1]."
            )
    a, b = (np.ascontiguousarray(x.detach().cpu(), dtype=np.float64) for x in (first, second))
    result = tmtools.tm_align(a, b, "A" * len(a), "A" * len(b))
    return float(result.tm_norm_chain1), float(result.tm_norm_chain2)
