"""Generates pairs with a trained flow: sharded, resumable, filtered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from rectiflow.execution import HERE, Executor, LostError
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


def drawn_pairs(
    draw: Callable[[torch.Generator], tuple[Any, Any, Any]],
    out: Path | str,
    *,
    num: int,
    seed: int = 0,
) -> Path:
    """Make a folder of pairs that mean nothing, for trials of a training, and return it.

    Parameters
    ----------
    draw : callable
        ``draw(generator) -> (x0, x1, cond)``; the number of a pair and the seed fix what it draws.
    out : Path or str
        The folder.
    num : int
        How many.
    seed : int
    """

    def sample(indices: list[int]) -> list[Pair]:
        drawn = [draw(counter_generator("synthetic pair", seed, i)) for i in indices]
        return [Pair(i, x0, x1, cond=c) for i, (x0, x1, c) in zip(indices, drawn, strict=True)]

    generate_pairs(sample, out, num=num, batch=num, seed=seed, progress=False)
    return Path(out)


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
    executor: Executor = HERE,
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
    executor : Executor, default Here()
        Where candidates are tried, ``batch`` at a time. To others ``sample`` and ``keep`` are sent
        pickled, and should load what they need when they are first called. Candidates that end
        their worker each time are counted as rejected.

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
        _generate(_Trying(sample, keep, store_noise), candidates, writer, batch, executor, progress)
    rejected = writer.progress["rejected"]
    counts = {f"rejected: {reason}": n for reason, n in sorted(rejected.items())}
    return {"kept": writer.written, **counts}


Tried = list[tuple[dict[str, Tensor] | None, str]]
"""A record for each candidate, or None and why not."""

LOST = "ended the worker"


@dataclass(frozen=True)
class _Trying:
    """What workers do: sample some candidates and judge them."""

    sample: Callable[[list[int]], Sequence[Pair]]
    keep: Callable[[Pair], Verdict] | None
    store_noise: bool

    def __call__(self) -> Callable[[list[int]], Tried]:
        return self._do

    def _do(self, indices: list[int]) -> Tried:
        return [self._judge(pair) for pair in _checked(self.sample(indices), indices)]

    def _judge(self, pair: Pair) -> tuple[dict[str, Tensor] | None, str]:
        verdict = Verdict(True) if self.keep is None else self.keep(pair)
        if not verdict.kept:
            return None, verdict.reason
        scored = replace(pair, scores={**pair.scores, **verdict.scores})
        return (scored if self.store_noise else replace(scored, x0=None)).to_record(), ""


def _generate(
    trying: _Trying,
    candidates: range,
    writer: ShardWriter,
    batch: int,
    executor: Executor,
    progress: bool,
) -> None:
    """Try the candidates that no earlier call tried, and keep them in their order."""
    state = writer.progress
    state.setdefault("tried", 0)
    state.setdefault("rejected", {})
    saved, first = state["tried"], state["tried"]
    starts = range(first, len(candidates), batch)
    tasks = [list(candidates[start : start + batch]) for start in starts]
    early: dict[int, Tried] = {}  # tried before those that come before them
    following = 0
    bar = tqdm(
        total=len(candidates), initial=first, unit="pair", dynamic_ncols=True, disable=not progress
    )
    with bar, closing(executor.run(trying, tasks)) as outcomes:
        try:
            for outcome in outcomes:
                own = tasks[outcome.index]
                is_lost = isinstance(outcome.error, LostError)
                early[outcome.index] = [(None, LOST)] * len(own) if is_lost else outcome.get()
                bar.update(len(own))
                while following in early:
                    for record, reason in early.pop(following):
                        _store(record, reason, writer)
                    following += 1
                    # Rejected candidates count as well: a killed call need not try them again.
                    if state["tried"] - saved >= writer.shard_size:
                        writer.flush()
                        saved = state["tried"]
        finally:
            # Every pair taken so far is whole, so an interrupted call keeps them too.
            writer.flush()


def _store(record: dict[str, Tensor] | None, reason: str, writer: ShardWriter) -> None:
    """Store or count one candidate."""
    # Counted before it is added: adding may write the shard, and the count with it.
    writer.progress["tried"] += 1
    if record is not None:
        writer.add(record)
        return
    rejected = writer.progress["rejected"]
    rejected[reason] = rejected.get(reason, 0) + 1


def _checked(pairs: Sequence[Pair], indices: list[int]) -> Sequence[Pair]:
    found = [pair.index for pair in pairs]
    if found != indices:
        raise ValueError(
            f"sample returned pairs {found[:8]}, expected {indices[:8]}; it must return one pair "
            "per index, in order, with that index."
        )
    return pairs
