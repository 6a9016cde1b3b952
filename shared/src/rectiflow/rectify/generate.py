"""Generates pairs with a trained flow: sharded, resumable, filtered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from rectiflow.randomness import counter_generator
from rectiflow.rectify.pairs import Pair
from rectiflow.storage.folders import claim
from rectiflow.storage.shards import MANIFEST, ShardWriter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """Whether a pair is kept, and why not.

    Parameters
    ----------
    kept : bool
    reason : str
        Counted in the manifest for rejected pairs.
    scores : mapping of str to float
        What was measured; stored with kept pairs, the same names for each.
    """

    kept: bool
    reason: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


def sample_generator(seed: int, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of sample ``index``, whatever batch or worker it falls to.

    Noise drawn on the CPU is the same on every machine; then moved to where it is needed.
    """
    return counter_generator("sample", seed, index, device=device)


def generate_pairs(
    sample: Callable[[list[int]], Sequence[Pair]],
    out: Path | str,
    *,
    num: int,
    batch: int,
    seed: int,
    shard: tuple[int, int] = (0, 1),
    keep: Callable[[Pair], Verdict] | None = None,
    metadata: Mapping[str, Any] | None = None,
    store_noise: bool = True,
    shard_size: int = 256,
    progress: bool = True,
    overwrite: bool = False,
) -> dict[str, int]:
    """Try the candidates 0 ... num-1 and store those that are kept.

    Called again with the same settings, it continues where it was stopped. Candidate ``i`` must
    depend on :func:`sample_generator` ``(seed, i)`` alone, so that the set of pairs does not
    depend on ``batch`` or on the number of workers.

    Parameters
    ----------
    sample : callable
        ``sample(indices)`` solves the flow for these candidates and returns one pair for each,
        in order.
    out : Path or str
        Folder of the set; each worker writes its own part in it.
    num : int
        Candidates in all, over all workers.
    batch : int
        Candidates per call.
    seed : int
        Recorded in the manifest, so that noise can be drawn again.
    shard : (int, int), default (0, 1)
        This worker takes the candidates i with ``i % n == k`` for ``(k, n)``.
    keep : callable, optional
        ``keep(pair) -> Verdict``; all pairs are kept without it.
    metadata : mapping, optional
        Solver, steps, guidance, hash of the teacher's weights. Plain JSON.
    store_noise : bool, default True
        Store ``x0``; otherwise it is drawn again when the pair is used.
    shard_size : int, default 256
        Candidates per file, at most: what a killed worker has to try again.
    progress : bool
        Show a progress bar.
    overwrite : bool, default False
        Begin anew where this worker's part was begun already.

    Returns
    -------
    dict of str to int
        ``"kept"`` and ``"rejected: <reason>"`` counts of this worker.

    Raises
    ------
    ValueError
        When ``shard`` is out of range, or ``sample`` returns other indices than it was asked for.
    ShardError
        When the folder was begun with other settings.
    FileExistsError
        When another process does this part, or something else has its name.
    """
    part, parts = shard
    if not 0 <= part < parts:
        raise ValueError(f"shard must be (k, n) with 0 <= k < n, got {shard}.")
    if batch < 1 or num < 1:
        raise ValueError(f"num and batch must be at least 1, got num={num}, batch={batch}.")
    candidates = range(part, num, parts)
    told = {
        **(metadata or {}),
        "num": num,
        "seed": seed,
        "store_noise": store_noise,
        "part": [part, parts],
    }
    folder = Path(out) / f"part-{part:04d}-of-{parts:04d}"
    is_begun = (folder / MANIFEST).is_file() and not overwrite  # its manifest tells whose it is
    names = () if is_begun else (folder.name,)
    with (
        claim(out, "pairs", names, shard=shard, overwrite=overwrite),
        ShardWriter(folder, told, shard_size=shard_size) as writer,
    ):
        _generate(sample, candidates, writer, keep, batch, store_noise, progress)
    rejected = writer.progress["rejected"]
    counts = {f"rejected: {reason}": n for reason, n in sorted(rejected.items())}
    return {"kept": writer.written, **counts}


def _generate(
    sample: Callable[[list[int]], Sequence[Pair]],
    candidates: range,
    writer: ShardWriter,
    keep: Callable[[Pair], Verdict] | None,
    batch: int,
    store_noise: bool,
    progress: bool,
) -> None:
    """Try the candidates that no earlier call tried."""
    state = writer.progress
    state.setdefault("tried", 0)
    state.setdefault("rejected", {})
    saved = state["tried"]
    bar = tqdm(
        total=len(candidates),
        initial=state["tried"],
        unit="pair",
        dynamic_ncols=True,
        disable=not progress,
    )
    with bar:
        try:
            for start in range(state["tried"], len(candidates), batch):
                indices = list(candidates[start : start + batch])
                for pair in _checked(sample(indices), indices):
                    _judge(pair, keep, writer, store_noise)
                bar.update(len(indices))
                # Rejected candidates count as well: a killed worker need not try them again.
                if state["tried"] - saved >= writer.shard_size:
                    writer.flush()
                    saved = state["tried"]
        finally:
            # Every pair taken so far is whole, so an interrupted worker keeps them too.
            writer.flush()


def _judge(
    pair: Pair, keep: Callable[[Pair], Verdict] | None, writer: ShardWriter, store_noise: bool
) -> None:
    """Store or count one candidate."""
    verdict = Verdict(True) if keep is None else keep(pair)
    # Counted before it is added: adding may write the shard, and the count with it.
    writer.progress["tried"] += 1
    if not verdict.kept:
        rejected = writer.progress["rejected"]
        rejected[verdict.reason] = rejected.get(verdict.reason, 0) + 1
        return
    scored = replace(pair, scores={**pair.scores, **verdict.scores})
    writer.add((scored if store_noise else replace(scored, x0=None)).to_record())


def _checked(pairs: Sequence[Pair], indices: list[int]) -> Sequence[Pair]:
    found = [pair.index for pair in pairs]
    if found != indices:
        raise ValueError(
            f"sample returned pairs {found[:8]}, expected {indices[:8]}; it must return one pair "
            "per index, in order, with that index."
        )
    return pairs
