r"""What a request will take before it runs: seconds and peak memory, fitted on small trials.

A network that sees ``b`` rows of ``n`` tokens, ``k`` times, is taken to need

.. math:: seconds = f(b, n) + k\, g(b, n), \qquad bytes = h(b, n)

where f, g and h are non-negative sums of 1, ``n``, ``b n`` and ``b n^2``: what is paid once, for
what all rows share, per token and per pair of tokens. A pipeline does different things, such as a
flow and a surface; each is :class:`Work` with such sums of its own, whose weights trials of a few
sizes fit when they are first asked for. The user's cache keeps them, by network and device.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rectiflow.machine import device_model, version_of
from rectiflow.storage.files import write_json
from rectiflow.storage.reading import read_json

if TYPE_CHECKING:
    from rectiflow.pipeline import Pipeline

MARGIN = 1.15
"""What is predicted must fit this many times: predictions are tested to 15 %."""

_REPEATS = 3  # trials of one size; the fastest counts, since others only disturb


@dataclass(frozen=True)
class Load:
    """Batches of one size.

    Attributes
    ----------
    rows, tokens : int
        Samples in a batch, and tokens of each.
    calls : int
        Network calls that each batch takes.
    batches : int
        How many batches there are.
    part : str
        Which :class:`Work` of the pipeline it is.
    """

    rows: int
    tokens: int
    calls: int
    batches: int = 1
    part: str = ""

    def terms(self) -> np.ndarray:
        """Return 1, ``n``, ``b n`` and ``b n^2``."""
        b, n = self.rows, self.tokens
        return np.array([1.0, n, b * n, b * n**2])


@dataclass(frozen=True)
class Work:
    """Something that a pipeline does, and the sizes of the trials that tell what it takes.

    Attributes
    ----------
    run : callable
        ``run(load)`` carries out one batch of a load, with input that is made up.
    sizes : sequence of (int, int)
        Rows and tokens; several, where requests differ in them.
    calls : sequence of int
        Network calls.
    """

    run: Callable[[Load], Any]
    sizes: Sequence[tuple[int, int]] = ((1, 1),)
    calls: Sequence[int] = (1, 2, 4)

    def trials(self) -> list[Load]:
        """Return a load for every size and number of calls."""
        return [Load(*size, calls) for size in self.sizes for calls in self.calls]


@dataclass(frozen=True)
class Estimate:
    """What a request will take.

    Attributes
    ----------
    seconds : float
    memory : float
        Bytes at the peak, the weights included.
    largest : Load
        The batch that needs most memory.
    """

    seconds: float
    memory: float
    largest: Load


@dataclass(frozen=True)
class CostModel:
    """Fitted weights of the terms of :class:`Load`.

    Attributes
    ----------
    once, per_call, memory : list of float
        Of f, g and h.
    resting : float
        Bytes of the weights.
    """

    once: list[float]
    per_call: list[float]
    memory: list[float]
    resting: float

    def seconds(self, load: Load) -> float:
        """Return the time of all batches of a load."""
        weights = np.array(self.once) + load.calls * np.array(self.per_call)
        return float(load.batches * (weights @ load.terms()))

    def bytes(self, load: Load) -> float:
        """Return the memory that one batch of a load needs, the weights included."""
        return self.resting + float(np.array(self.memory) @ load.terms())

    def most_rows(self, tokens: int, limit: float) -> int:
        """Return how many rows of so many tokens fit into a limit, in bytes."""
        once, shared, token, pair = self.memory
        fixed = self.resting + once + shared * tokens
        each = token * tokens + pair * tokens**2
        return max(0, int((limit / MARGIN - fixed) // each)) if each else 2**31

    def most_tokens(self, limit: float) -> int:
        """Return how many tokens a single row may have to fit into a limit, in bytes."""
        fits = 0
        for step in (2**power for power in range(30, -1, -1)):
            if self.most_rows(fits + step, limit) >= 1:
                fits += step
        return fits


@dataclass(frozen=True)
class Costs:
    """The model of each part of a pipeline."""

    models: dict[str, CostModel]

    def of(self, load: Load) -> CostModel:
        """Return the model of the part that a load is for."""
        return self.models[load.part]

    def estimate(self, loads: Sequence[Load]) -> Estimate:
        """Return what some loads take, one after the other."""
        memory, largest = max(((self.of(x).bytes(x), x) for x in loads), key=lambda each: each[0])
        return Estimate(sum(self.of(x).seconds(x) for x in loads), memory, largest)


def fit_costs(
    work: Work,
    *,
    resting: float,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> CostModel:
    """Run trials and fit a model to what they took.

    Parameters
    ----------
    work : Work
    resting : float
        Bytes of the weights.
    device : device
        Where they run.
    clock : callable
        Seconds.
    """
    trials, run = work.trials(), work.run
    # What a call leaves behind lives beside the next: the peak is that of several calls.
    most = max(load.calls for load in trials)
    several = [load for load in trials if load.calls == most]
    memory = [peak_memory(lambda load=load: run(load), device) for load in several]
    seconds = []
    for load in trials:
        taken = []
        for _ in range(_REPEATS):
            start = clock()
            run(load)
            _wait(device)
            taken.append(clock() - start)
        seconds.append(min(taken))
    terms = np.stack([load.terms() for load in trials])
    calls = np.array([load.calls for load in trials])[:, None]
    timed = _fitted(np.concatenate([terms, calls * terms], 1), seconds)
    sizes = np.stack([load.terms() for load in several])
    half = terms.shape[1]
    return CostModel(timed[:half], timed[half:], _fitted(sizes, memory), resting)


def _fitted(terms: np.ndarray, values: Sequence[float]) -> list[float]:
    """Return non-negative weights of the terms with the smallest relative errors."""
    from scipy.optimize import nnls

    scale = 1 / np.maximum(np.asarray(values, float), 1e-9)
    size = np.abs(terms).max(0)
    size[size == 0] = 1  # a part without network calls
    weights, _ = nnls(terms / size * scale[:, None], np.ones(len(terms)))
    return (weights / size).tolist()


def peak_memory(run: Callable[[], Any], device: torch.device) -> float:
    """Return the bytes that a call takes at its peak, beside what was there before.

    On a GPU the allocator tells. On a CPU the tensors that operations make are added up while they
    live; what libraries use inside one operation is not seen.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return float(torch.cuda.max_memory_allocated(device) - before)
    with _Living() as living:
        run()
    return float(living.peak)


class _Living(TorchDispatchMode):
    """Adds up the storages that operations make, for as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {storage._cdata for storage in _storages((args, kwargs))}
        made = func(*args, **(kwargs or {}))
        for storage in _storages(made):
            self._count(storage, given)
        return made

    def _count(self, storage: torch.UntypedStorage, given: set[int]) -> None:
        key = storage._cdata
        if key in self._known or key in given:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    """Yield what the tensors of a tree lie in."""
    for leaf in tree_leaves(tree):
        if not isinstance(leaf, torch.Tensor):
            continue
        dense = [leaf]
        if leaf.layout == torch.sparse_coo:
            dense = [leaf._indices(), leaf._values()]
        elif leaf.layout != torch.strided:  # of rows that are compressed
            dense = [leaf.crow_indices(), leaf.col_indices(), leaf.values()]
        yield from (part.untyped_storage() for part in dense)


def costs_of(pipe: Pipeline, parts: Iterable[str], *, fit: bool = True) -> Costs | None:
    """Return what parts of a pipeline's work take on its device, from the cache or by trials.

    Parameters
    ----------
    pipe : Pipeline
    parts : iterable of str
        For :meth:`~rectiflow.pipeline.Pipeline.work`.
    fit : bool, default True
        Run trials for what the cache does not have; otherwise return None then, and where it has
        nothing of the pipeline.
    """
    path = _cache() / f"{_key(pipe)}.json"
    known = read_json(path) if path.is_file() else {}
    missing = [part for part in dict.fromkeys(parts) if part not in known]
    if not fit and (missing or not known):
        return None
    resting = sum(
        tensor.numel() * tensor.element_size()
        for part in pipe.parts.values()
        for tensor in (*part.parameters(), *part.buffers())
    )
    for part in missing:
        model = fit_costs(pipe.work(part), resting=resting, device=pipe.device)
        write_json(path, known := {**known, part: asdict(model)})
    return Costs({part: CostModel(**told) for part, told in known.items()})


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "rectiflow" / "costs"


def _key(pipe: Pipeline) -> str:
    """Tell networks, devices and versions apart; weights of the same sizes cost the same."""
    sizes = {
        name: [(key, list(value.shape)) for key, value in part.state_dict().items()]
        for name, part in pipe.parts.items()
    }
    told = [
        "by work",
        type(pipe).__name__,
        sizes,
        str(pipe.dtype),
        pipe.is_compiled,
        device_model(pipe.device),
        torch.get_num_threads() if pipe.device.type == "cpu" else 0,
        version_of("torch"),
        version_of("rectiflow"),
    ]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
