"""A table of metrics for a set of backbones."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.evaluation import Evaluation
from torch import Tensor

from rectiflow_protein.metrics import backbone_metrics

if TYPE_CHECKING:
    from rectiflow_protein.designability import (
        SelfConsistency,
        SequenceDesigner,
        StructurePredictor,
    )
    from rectiflow_protein.io import Backbone

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """Natural chains to hold samples against.

    Attributes
    ----------
    train : list of Tensor, each of shape (n_i, 3)
        CA of the chains that a network was trained on, Å.
    held_out : list of Backbone
        Chains of the valid and test splits, of the lengths of interest.
    """

    train: list[Tensor]
    held_out: list[Backbone]

    @classmethod
    def read(cls, shards: Path | str, shortest: int, longest: int) -> Self:
        """Read the splits of a prepared folder; held out are chains of these lengths."""
        from rectiflow_protein.data import LengthFilter, PreparedBackbones
        from rectiflow_protein.io import Backbone

        prepared = PreparedBackbones(shards)
        records, window = prepared.records, [LengthFilter(shortest, longest)]
        rows = [row for split in ("valid", "test") for row in prepared.rows(split, window)]
        return cls(
            [records[int(row)]["coords"][:, 1].clone() for row in prepared.rows("train", [])],
            [
                Backbone.from_coords(records[int(row)]["coords"].clone(), name=str(row))
                for row in rows
            ],
        )

    def nearest(self, backbone: Backbone) -> float:
        """Return the TM-score of the most alike training chain."""
        from rectiflow_protein.metrics import nearest_tm

        return nearest_tm(torch.as_tensor(backbone.coords[:, 1]), self.train)[0]


_CONSISTENCY = ("sc_mean_displacement", "sc_rmsd", "sc_tm", "designable")
ALIGNABLE = 3  # residues; TM-align needs as many


def evaluate(
    backbones: Sequence[Backbone],
    *,
    designer: SequenceDesigner | None = None,
    predictor: StructurePredictor | None = None,
    num_sequences: int = 8,
    diversity: bool = True,
    novelty: Mapping[str, float] | None = None,
    known: Known | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure a set of backbones.

    Parameters
    ----------
    backbones : sequence of Backbone
        At least one.
    designer, predictor : optional
        Given both, each backbone's self-consistency is measured, and diversity is taken over the
        designable ones, as published. Where a tool fails the row is kept and ``failures`` has why.
    num_sequences : int
        Sequences per backbone.
    diversity : bool
        Compare all pairs; their number grows with the square of the set.
    novelty : mapping of str to float, optional
        TM-score of the nearest known structure by backbone name, from
        :func:`~rectiflow_protein.metrics.read_foldseek`. Adds ``novelty_tm``; its mean is over the
        designable backbones where that is known, as published. Lower is more novel.
    known : Known, optional
        Adds ``nearest_tm``, the TM-score of the most alike training chain, and to the summary
        ``nearest_tm_held_out``, the same of held-out natural chains: samples that are no copies are
        about as far from the training chains as these.
    progress : callable, optional
        Called with backbones done and in all.

    Returns
    -------
    Evaluation
        A row per backbone: ``name``, ``length`` and its metrics. The summary has ``count``, the
        mean of every metric, and what only a set has: ``diversity_tm`` (mean pairwise TM-score;
        lower is more diverse), ``clusters_tm_0.5`` and ``clusters_tm_0.6`` (folds over count), and
        with a designer and a predictor the published designability figures.

    Raises
    ------
    ValueError
        When there is no backbone, or only one of designer and predictor.
    Exception
        What the tool raised, when it failed for every backbone.
    """
    if not backbones:
        raise ValueError("nothing to evaluate, got no backbone; expected at least one structure.")
    if (designer is None) != (predictor is None):
        raise ValueError(
            "designability needs both tools, got one of designer and predictor; expected both or "
            "neither."
        )
    found = []
    for done, backbone in enumerate(backbones, 1):
        found.append(measure(backbone, designer, predictor, num_sequences))
        if progress is not None:
            progress(done, len(backbones))
    return summarise(backbones, found, diversity=diversity, novelty=novelty, known=known)


@dataclass(frozen=True)
class Found:
    """What was measured of one backbone: its row, and what the tools told or why they did not."""

    row: dict[str, Any]
    consistency: SelfConsistency | None = None
    error: Exception | None = None


def measure(
    backbone: Backbone,
    designer: SequenceDesigner | None = None,
    predictor: StructurePredictor | None = None,
    num_sequences: int = 8,
) -> Found:
    """Measure one backbone; see :func:`evaluate`."""
    found = backbone_metrics(
        torch.as_tensor(backbone.coords), aatype=torch.as_tensor(backbone.aatype)
    )
    row = {"name": backbone.name, "length": len(backbone)}
    row |= {name: round(float(value), 5) for name, value in found.items()}
    if designer is None or predictor is None:
        return Found(row)
    try:
        result = _self_consistency(backbone, designer, predictor, num_sequences)
    except Exception as error:
        # An outside tool may fail in any way; hours of finished rows must not go with it.
        log.warning("%s: no designability (%s)", backbone.name, error)
        return Found(row | dict.fromkeys(_CONSISTENCY, float("nan")), error=error)
    return Found(row | dict(zip(_CONSISTENCY, _figures(result), strict=True)), result)


def summarise(
    backbones: Sequence[Backbone],
    found: Sequence[Found],
    *,
    diversity: bool = True,
    novelty: Mapping[str, float] | None = None,
    known: Known | None = None,
) -> Evaluation:
    """Return the table of what was measured of each backbone; see :func:`evaluate`."""
    rows = [each.row for each in found]
    if novelty is not None:
        rows = [row | {"novelty_tm": novelty.get(row["name"], float("nan"))} for row in rows]
    if known is not None:
        near = [round(known.nearest(backbone), 5) for backbone in backbones]
        rows = [row | {"nearest_tm": tm} for row, tm in zip(rows, near, strict=True)]
    consistency = [each.consistency for each in found if each.consistency is not None]
    failures = {each.row["name"]: each.error for each in found if each.error is not None}
    if failures and not consistency:
        raise next(iter(failures.values()))
    summary = {"count": float(len(rows)), **_means(rows)}
    if failures:
        summary["failed"] = float(len(failures))
    if consistency:
        from rectiflow_protein import designability

        summary |= designability.summarise(consistency)
        if novelty is not None:
            summary["novelty_tm"] = _means([r for r in rows if r["designable"] == 1])["novelty_tm"]
    if known is not None and known.held_out:
        scores = [known.nearest(backbone) for backbone in known.held_out]
        summary["nearest_tm_held_out"] = sum(scores) / len(scores)
    if diversity:
        is_chosen = [row.get("designable", 1) == 1 for row in rows]
        summary |= _diversity(list(compress(backbones, is_chosen)))
    return Evaluation(rows, summary, {name: str(error) for name, error in failures.items()})


def _self_consistency(
    backbone: Backbone,
    designer: SequenceDesigner,
    predictor: StructurePredictor,
    num_sequences: int,
) -> SelfConsistency:
    from rectiflow_protein.designability import self_consistency

    [result] = self_consistency([backbone], designer, predictor, num_sequences=num_sequences)
    return result


def _figures(result: SelfConsistency) -> tuple[float, ...]:
    """Return the values of the columns of self-consistency."""
    best = min(result.mean_displacement), min(result.rmsd), max(result.tm)
    return (*(round(value, 4) for value in best), int(result.is_designable))


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Average each column over the rows where it is a finite number; NaN where none is."""
    means: dict[str, float] = defaultdict(lambda: float("nan"))
    for name in rows[0] if rows else ():
        if name == "name":
            continue
        values = torch.tensor([float(row[name]) for row in rows])
        finite = values[torch.isfinite(values)]
        means[name] = float(finite.mean()) if len(finite) else float("nan")
    return means


def _diversity(backbones: Sequence[Backbone]) -> dict[str, float]:
    from rectiflow_protein.metrics import cluster_count, pairwise_tm

    chains = [torch.as_tensor(b.coords[:, 1]) for b in backbones if len(b) >= ALIGNABLE]
    if len(chains) < 2:
        return {}
    scores = pairwise_tm(chains)
    above = ~torch.eye(len(chains), dtype=torch.bool)
    return {
        "diversity_tm": float(torch.as_tensor(scores)[above].mean()),
        "clusters_tm_0.5": cluster_count(scores, 0.5) / len(chains),
        "clusters_tm_0.6": cluster_count(scores, 0.6) / len(chains),
    }
