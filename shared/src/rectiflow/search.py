"""Searched schedules: which few times, and which blocks of a network, a sampler does best with.

Longer than 400 lines because searches for times and for blocks share one evolution and its store.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from rectiflow.integrate import integrate, plan
from rectiflow.randomness import counter_generator
from rectiflow.solvers import RK4, Midpoint, Solver
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, leaves
from rectiflow.storage.files import write_json
from rectiflow.storage.reading import read_json

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_FLAT = Euclidean()
GRIDS_FILE = "grids.json"
_TRIES = 20  # at a candidate that is new

Candidate: TypeAlias = tuple[int, ...]
"""Numbers of the chosen times, or of the skipped blocks, increasing."""


@dataclass(frozen=True)
class Evolution:
    """How a search spends its evaluations.

    Parameters
    ----------
    population : int
        Candidates of each epoch.
    parents : int
        The best so far, from which the next epoch is made.
    epochs : int
    mutations, crossovers : int
        Of each epoch; the rest is drawn at random.
    rate : float
        Probability that a mutation draws a gene anew.

    References
    ----------
    Li et al., "AutoDiffusion: Training-Free Optimization of Time Steps and Architectures for
    Automated Diffusion Model Acceleration" (ICCV 2023), Algorithm 1.
    """

    population: int = 50
    parents: int = 10
    epochs: int = 20
    mutations: int = 25
    crossovers: int = 15
    rate: float = 0.25

    def __post_init__(self) -> None:
        if min(self.population, self.parents, self.epochs) < 1 or (
            self.mutations + self.crossovers > self.population
        ):
            raise ValueError(
                f"a population of {self.population} cannot hold {self.mutations} mutations and "
                f"{self.crossovers} crossovers, or has no parents or epochs; expected it to"
            )


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes
    ----------
    chosen : tuple of int
        The best candidate.
    times : tuple of float
        Its times, ends included; of a search for blocks those that were given.
    score : float
        Its objective, the smallest of all.
    tried : int
        Candidates evaluated, those of an interrupted run included.
    """

    chosen: Candidate
    times: tuple[float, ...]
    score: float
    tried: int


def search_grid(
    objective: Callable[[tuple[float, ...]], float],
    pool: Sequence[float],
    interior: int,
    *,
    ends: tuple[float, float] = (0.0, 1.0),
    init: Iterable[Sequence[int]] = (),
    evolution: Evolution = Evolution(),  # a frozen value
    seed: int = 0,
    store: Path | str | None = None,
) -> Found:
    """Find the times between two ends with which an objective is smallest.

    The search begins with the evenly spread candidate and with ``init``, so that what it finds is
    never worse than they are. Candidates are kept sorted and none is evaluated twice.

    Parameters
    ----------
    objective : callable
        ``objective(times)`` of whole grids, smaller is better; see :func:`distance_to_fine`.
    pool : sequence of float
        Times to choose from, increasing, strictly between the ends.
    interior : int
        How many to choose: a grid has ``interior + 1`` steps.
    ends : (float, float)
        First and last time of every grid.
    init : iterable of sequence of int
        Candidates to begin with, as numbers into the pool.
    evolution : Evolution
    seed : int
        Fixes all draws.
    store : Path, optional
        A JSON file of the scores of all candidates: a search that is started again with it repeats
        no evaluation, and ends where it would have ended uninterrupted.

    Raises
    ------
    ValueError
        When there are not enough times to choose from, or the store is of another search.

    Examples
    --------
    >>> pool = [i / 10 for i in range(1, 10)]
    >>> search_grid(lambda t: abs(t[1] - 0.3) + abs(t[2] - 0.4), pool, 2).times
    (0.0, 0.3, 0.4, 1.0)
    """
    times = [float(t) for t in pool]
    if sorted(set(times)) != times or (times and not ends[0] < times[0] <= times[-1] < ends[1]):
        raise ValueError(
            f"the pool must increase strictly inside {ends}, got {times[:4]}...; expected so"
        )
    if not 0 < interior <= len(times):
        raise ValueError(f"expected 1 to {len(times)} interior times, got {interior}")

    def grid(chosen: Candidate) -> tuple[float, ...]:
        return (ends[0], *(times[i] for i in chosen), ends[1])

    spread = _spread(len(times), interior)
    told = {"pool": times, "interior": interior, "ends": list(ends)}
    best, score, tried = _evolve(
        lambda chosen: objective(grid(chosen)),
        len(times),
        (interior, interior),
        [spread, *(tuple(sorted(each)) for each in init)],
        evolution,
        seed,
        _Store(store, told | {"seed": seed}),
    )
    return Found(best, grid(best), score, tried)


def search_skips(
    objective: Callable[[frozenset[tuple[int, int]]], float],
    times: Sequence[float],
    blocks: int,
    *,
    share: tuple[float, float],
    evolution: Evolution = Evolution(),  # a frozen value
    seed: int = 0,
    store: Path | str | None = None,
) -> Found:
    """Find which blocks of a network are best left out in which steps of a grid.

    The second stage of AutoDiffusion: times first, by :func:`search_grid`, then this.

    Parameters
    ----------
    objective : callable
        ``objective(skipped)`` of pairs (step, block), smaller is better; carry them out with
        :class:`Skipping`.
    times : sequence of float
        The grid.
    blocks : int
        How many blocks the network has.
    share : (float, float)
        Least and largest share of all (step, block) pairs to leave out.
    evolution, seed, store
        As for :func:`search_grid`.

    Returns
    -------
    Found
        ``chosen`` numbers the pairs, ``step * blocks + block``.
    """
    genes = (len(times) - 1) * blocks
    low, high = (round(part * genes) for part in share)
    if not 0 <= low <= high <= genes:
        raise ValueError(f"share must be ordered within 0 to 1, got {share}; expected such")
    told = {"times": list(times), "blocks": blocks, "share": list(share), "seed": seed}
    best, score, tried = _evolve(
        lambda chosen: objective(frozenset(divmod(i, blocks) for i in chosen)),
        genes,
        (low, high),
        [_spread(genes, low)],
        evolution,
        seed,
        _Store(store, told),
    )
    return Found(best, tuple(times), score, tried)


class Skipping:
    """A network some of whose blocks are left out in some steps.

    A block is left out where it adds to its first argument, which it returns unchanged then.

    Parameters
    ----------
    blocks : sequence of nn.Module
        Those of the network, in order; each returns something of the form of its first argument.
    times : sequence of float
        The grid: a call at a time belongs to the step that it lies in.
    skipped : collection of (int, int)
        Pairs (step, block).
    """

    def __init__(
        self,
        blocks: Sequence[torch.nn.Module],
        times: Sequence[float],
        skipped: Collection[tuple[int, int]],
    ) -> None:
        self.blocks, self.times, self.skipped = blocks, list(times), frozenset(skipped)

    def of(self, velocity: VelocityField) -> VelocityField:
        """Return a field of the network without the blocks that its time leaves out."""

        def shortened(x: State, t: float | torch.Tensor) -> State:
            step = sum(bound <= float(t) for bound in self.times[1:-1])
            out = [self.blocks[block] for at, block in self.skipped if at == step]
            hooks = [block.register_forward_hook(_first_argument) for block in out]
            try:
                return velocity(x, t)
            finally:
                for hook in hooks:
                    hook.remove()

        return shortened


def _first_argument(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return args[0]


def distance_to_fine(
    field: VelocityField,
    x0: State,
    solver: Solver,
    *,
    space: Space = _FLAT,
    steps: int = 64,
    ends: tuple[float, float] = (0.0, 1.0),
) -> Callable[[tuple[float, ...]], float]:
    """Return the objective of a fixed batch: root-mean-square distance to a fine solution.

    Parameters
    ----------
    field : VelocityField
    x0 : State, shape (b, *event)
        Noise.
    solver : Solver
        With which the grids are to be used.
    space : Space
        How points move. On a curved one the fine solution is of the midpoint rule, else of RK4.
    steps : int
        Of the fine solution.
    ends : (float, float)
        Of the grids.
    """
    fine = RK4() if space.is_flat else Midpoint()
    spaced = [ends[0] + (ends[1] - ends[0]) * i / steps for i in range(steps + 1)]
    true = integrate(field, x0, plan(spaced, fine), space=space)

    def distance(times: tuple[float, ...]) -> float:
        found = integrate(field, x0, plan(times, solver), space=space)
        off = leaves(space.log(found, true))
        total = sum(float(part.double().square().sum()) for part in off)
        return math.sqrt(total / sum(part.numel() for part in off))

    return distance


@dataclass(frozen=True)
class SearchedGrids:
    """Searched times of several numbers of steps, kept beside a checkpoint.

    Called with a number of steps it returns its times, like any other spacing.

    Parameters
    ----------
    grids : mapping of int to tuple of float
        From 0 to 1, by steps.
    told : mapping of int to dict, optional
        How each was found: solver, objective, score, that of equal steps.
    """

    grids: Mapping[int, tuple[float, ...]]
    told: Mapping[int, Mapping[str, Any]] = field(default_factory=dict, repr=False)

    def __call__(self, steps: int) -> list[float]:
        """Return the times of so many steps.

        Raises
        ------
        ValueError
            When none were searched.
        """
        if steps not in self.grids:
            raise ValueError(
                f"no grid of {steps} steps was searched for these weights; expected steps of "
                f"{', '.join(map(str, sorted(self.grids)))}."
            )
        return list(self.grids[steps])

    def __repr__(self) -> str:
        return f"searched({', '.join(map(str, sorted(self.grids)))})"

    def save(self, folder: Path | str) -> Path:
        """Write them to a folder of weights."""
        path = Path(folder) / GRIDS_FILE
        rows = {
            str(steps): {"times": list(times), **self.told.get(steps, {})}
            for steps, times in sorted(self.grids.items())
        }
        write_json(path, {"grids": rows})
        return path

    @classmethod
    def load(cls, folder: Path | str | None) -> SearchedGrids:
        """Grids that were searched for the checkpoint, by its number of steps.

        Raises
        ------
        FileNotFoundError
            When none lie beside the weights.
        """
        path = Path(folder or ".") / GRIDS_FILE
        if folder is None or not path.is_file():
            raise FileNotFoundError(
                f"no searched grids lie beside these weights, expected {path.name}; make some with "
                "the domain's verb `tune`."
            )
        rows = read_json(path)["grids"]
        grids = {int(steps): tuple(map(float, row["times"])) for steps, row in rows.items()}
        return cls(grids, {int(steps): row for steps, row in rows.items()})


class _Store:
    """Scores of candidates on disk, where they outlive the process."""

    def __init__(self, path: Path | str | None, told: dict[str, Any]) -> None:
        self.path, self.told = None if path is None else Path(path), told
        self.scores: dict[Candidate, float] = {}
        if self.path is not None and self.path.is_file():
            kept = read_json(self.path)
            if kept.get("search") != json.loads(json.dumps(told)):
                raise ValueError(
                    f"{self.path} holds another search, got {kept.get('search')}; expected {told}. "
                    "Give another file."
                )
            self.scores = {tuple(chosen): score for chosen, score in kept["visited"]}

    def save(self) -> None:
        if self.path is not None:
            rows = [[list(chosen), score] for chosen, score in self.scores.items()]
            write_json(self.path, {"search": self.told, "visited": rows}, indent=None)


def _evolve(
    objective: Callable[[Candidate], float],
    genes: int,
    sizes: tuple[int, int],
    init: Sequence[Candidate],
    how: Evolution,
    seed: int,
    store: _Store,
) -> tuple[Candidate, float, int]:
    """Return the best subset of genes, its score and how many were tried."""
    visited: dict[Candidate, float] = {}
    most = sum(math.comb(genes, size) for size in range(sizes[0], sizes[1] + 1))
    for epoch in range(how.epochs):
        best = sorted(visited, key=lambda each: (visited[each], each))[: how.parents]
        brood = _Brood(genes, sizes, best, how.rate, counter_generator("evolution", seed, epoch))
        makers = [brood.mutated] * how.mutations + [brood.crossed] * how.crossovers if best else []
        makers += [brood.random] * (how.population - len(makers))
        fresh = [] if best else list(dict.fromkeys(init))
        for make in makers:
            tries = (make() for _ in range(_TRIES))
            new = (each for each in tries if brood.fits(each) and each not in (*visited, *fresh))
            fresh += [each for each in [next(new, None)] if each is not None]
        for candidate in fresh:
            if candidate not in store.scores:
                store.scores[candidate] = float(objective(candidate))
            visited[candidate] = store.scores[candidate]
        store.save()
        if len(visited) == most:
            break
    winner = min(visited, key=lambda each: (visited[each], each))
    return winner, visited[winner], len(visited)


@dataclass(frozen=True)
class _Brood:
    """Makes candidates: at random, and out of parents."""

    genes: int
    sizes: tuple[int, int]
    parents: Sequence[Candidate]
    rate: float
    generator: torch.Generator

    def fits(self, candidate: Candidate) -> bool:
        return self.sizes[0] <= len(candidate) <= self.sizes[1]

    def random(self) -> Candidate:
        return self._subset(self.genes, self._whole(*self.sizes))

    def mutated(self) -> Candidate:
        """Draw some genes of a parent anew, none that it has."""
        parent = self._parent()
        kept = [gene for gene in parent if not self._coin(self.rate)]
        free = sorted(set(range(self.genes)) - set(parent))
        drawn = self._subset(len(free), len(parent) - len(kept))
        return tuple(sorted((*kept, *(free[i] for i in drawn))))

    def crossed(self) -> Candidate:
        """Take each gene from one of two parents: by its place, where all have as many."""
        a, b = self._parent(), self._parent()
        if self.sizes[0] == self.sizes[1]:
            chosen = {x if self._coin(0.5) else y for x, y in zip(a, b, strict=True)}
        else:
            chosen = {g for g in range(self.genes) if g in (a if self._coin(0.5) else b)}
        return tuple(sorted(chosen))

    def _parent(self) -> Candidate:
        return self.parents[self._whole(0, len(self.parents) - 1)]

    def _whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def _coin(self, share: float) -> bool:
        return bool(torch.rand((), generator=self.generator) < share)

    def _subset(self, count: int, size: int) -> Candidate:
        drawn = torch.randperm(count, generator=self.generator)[:size].tolist()
        return tuple(sorted(drawn))


def _spread(count: int, size: int) -> Candidate:
    """Return numbers spread evenly."""
    return tuple((i + 1) * (count + 1) // (size + 1) - 1 for i in range(size))
