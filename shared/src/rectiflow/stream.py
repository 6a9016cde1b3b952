"""Requests that arrive one after another, denoised together: each at its own noise level."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from rectiflow.guidance import Guide
from rectiflow.solvers import Context, Euler, Memory, Move, Solver
from rectiflow.spaces import Euclidean, Space
from rectiflow.states import State, batch_of, leaves, map_state

In = TypeVar("In")
Out = TypeVar("Out")

_FLAT = Euclidean()


@dataclass
class _Slot:
    """A request on its way."""

    x: State
    cond: Any
    guides: tuple[Guide, ...]
    memory: Memory | None = None
    done: int = 0


class Stream:
    """Denoises a stream of requests, all that are on their way in one call of the network.

    Each push makes one call, in which every request takes one step; a request comes out as many
    pushes later as there are steps, less one, in the order in which they came. A push costs one
    call of a batch where one request by itself would cost as many calls as steps, and each result
    is the one that the request would have alone. The same is continuous batching: requests of a
    service join and leave between any two calls.

    Parameters
    ----------
    model : callable
        ``model(x, t)``, or ``model(x, t, cond)`` where requests have conditions; ``t`` has shape
        ``(b,)``.
    times : sequence of float
        The grid.
    solver : Solver
        One that evaluates once a step, at its start: Euler, or a multistep method without another
        start, whose memory goes with each request.
    space : Space
        How points move.

    Raises
    ------
    ValueError
        When the solver evaluates elsewhere.

    References
    ----------
    Kodaira et al., "StreamDiffusion: A Pipeline-level Solution for Real-Time Interactive
    Generation" (ICCV 2025), section 3.1.

    Examples
    --------
    >>> stream = Stream(lambda x, t: x * t[:, None], [0.0, 0.5, 1.0])
    >>> stream.push(torch.ones(1, 1)), stream.push(2 * torch.ones(1, 1))
    (None, tensor([[1.2500]]))
    >>> list(stream.flush())
    [tensor([[2.5000]])]
    """

    def __init__(
        self,
        model: Callable[..., State],
        times: Sequence[float],
        solver: Solver | None = None,
        *,
        space: Space = _FLAT,
    ) -> None:
        self.model, self.space = model, space
        solver = Euler() if solver is None else solver
        self.moves: list[Move] = solver.moves([float(t) for t in times])
        if any(move.solver.nfe != 1 or "carried" in move.solver.leaves for move in self.moves):
            raise ValueError(
                f"a stream makes one evaluation a step, at its start, got {solver}; expected "
                "euler, ddim, dpmpp-2m or an Adams method without a start"
            )
        if solver.flat_only and not space.is_flat:
            raise ValueError(
                f"{solver} needs a flat space, got {type(space).__name__}; use Euler()"
            )
        self.slots: deque[_Slot] = deque()
        self.calls = 0

    def push(self, x0: State, cond: Any = None, *, guides: Sequence[Guide] = ()) -> State | None:
        """Take in a request and make a step of all; return the one that is done, if one is.

        Parameters
        ----------
        x0 : State, shape (b, *event)
            Its noise, usually of one row.
        cond : Tensor, or mapping or sequence of them, optional
            Its condition, of as many rows.
        guides : sequence of Guide
            Its own guidance, such as :func:`~rectiflow.guidance.cfg_to_endpoint`, applied to its
            own velocity: residual guidance at no call of the network.
        """
        self.slots.append(_Slot(x0, cond, tuple(guides)))
        return self._advance()

    def flush(self) -> Iterator[State]:
        """Finish what is on its way, without new requests."""
        while self.slots:
            found = self._advance()
            if found is not None:
                yield found

    def map(self, requests: Iterable[tuple[State, Any]]) -> Iterator[State]:
        """Yield the results of requests (x0, cond) in their order."""
        for x0, cond in requests:
            found = self.push(x0, cond)
            if found is not None:
                yield found
        yield from self.flush()

    @torch.no_grad()
    def _advance(self) -> State | None:
        slots = list(self.slots)
        sizes = [batch_of(slot.x)[0] for slot in slots]
        starts = [self.moves[slot.done].start for slot in slots]
        _, device, dtype = batch_of(slots[0].x)
        t = torch.tensor(starts, dtype=torch.float64).repeat_interleave(torch.tensor(sizes))
        x = map_state(lambda *parts: torch.cat(parts), *(slot.x for slot in slots))
        told = () if slots[0].cond is None else (_together([slot.cond for slot in slots]),)
        velocity = self.model(x, t.to(device=device, dtype=dtype), *told)
        self.calls += 1
        begin = 0
        for slot, size in zip(slots, sizes, strict=True):
            v = map_state(lambda part: part[begin : begin + size], velocity)  # noqa: B023
            self._move(slot, v)
            begin += size
        if slots[0].done == len(self.moves):
            return self.slots.popleft().x
        return None

    def _move(self, slot: _Slot, v: State) -> None:
        start, stop, solver = self.moves[slot.done]
        for guide in slot.guides:
            v = guide(slot.x, start, v)
        asked: list[float] = []

        def known(_: State, t: float | Tensor) -> State:
            asked.append(float(t))
            return v

        context = Context(self.space, memory=slot.memory)
        slot.x, slot.memory = solver.step(known, slot.x, start, stop, context)
        if asked != [start]:
            raise ValueError(
                f"{solver} evaluates at {asked} in a step from {start}; expected {[start]}: a "
                "stream makes one evaluation a step"
            )
        slot.done += 1


def _together(conds: Sequence[Any]) -> Any:
    """Put conditions of one structure into one batch."""
    first = conds[0]
    if isinstance(first, Tensor):
        return torch.cat(list(conds))
    if isinstance(first, dict):
        return {name: _together([cond[name] for cond in conds]) for name in first}
    return type(first)(_together(parts) for parts in zip(*conds, strict=True))


@dataclass
class SimilarityFilter:
    """Tells which inputs of a stream are so like the last one that its result will do.

    An input is passed over with probability ``max(0, 1 - (1 - c) / (1 - threshold))``, c the cosine
    to the last input that was processed. The probability makes it smooth: a still scene is skipped
    often, a slow one at times.

    Parameters
    ----------
    generator : torch.Generator
        Its own, so that nothing else draws differently.
    threshold : float, default 0.98
        Cosine below which nothing is passed over.
    most : int, default 10
        Inputs that may be passed over in a row.

    References
    ----------
    Kodaira et al. (ICCV 2025), section 3.4.
    """

    generator: torch.Generator
    threshold: float = 0.98
    most: int = 10
    last: Tensor | None = field(default=None, init=False, repr=False)
    skipped: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.threshold < 1.0 or self.most < 0:
            raise ValueError(
                f"threshold must lie in [0, 1) and most be at least 0, got {self.threshold} and "
                f"{self.most}"
            )

    def skips(self, x: State) -> bool:
        """Say whether to pass this input over; it counts as processed if not."""
        now = torch.cat([part.detach().double().flatten() for part in leaves(x)])
        if self.last is not None and self.last.shape == now.shape and self.skipped < self.most:
            lengths = float(now.norm() * self.last.norm())
            cosine = float(now @ self.last) / lengths if lengths else 1.0
            share = 1.0 - (1.0 - cosine) / (1.0 - self.threshold)
            if float(torch.rand((), generator=self.generator)) < share:
                self.skipped += 1
                return True
        self.last, self.skipped = now, 0
        return False


@dataclass
class Pace:
    """How a stream keeps up: results, seconds in all, and seconds from entry to exit of each."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def throughput(self) -> float:
        """Return results per second."""
        return len(self.latencies) / self.seconds if self.seconds else 0.0

    @property
    def latency(self) -> float:
        """Return the longest time that one took."""
        return max(self.latencies, default=0.0)


def pipelined(
    items: Iterable[In],
    work: Callable[[In], Out],
    *,
    size: int = 2,
    pace: Pace | None = None,
) -> Iterator[Out]:
    """Read, work and give out at the same time, on threads with bounded queues between them.

    ``items`` are read on one thread and worked on another while the caller uses what is done. A
    queue that is full makes the one before it wait, so that memory is bounded and nothing is lost;
    results keep the order of the items.

    Parameters
    ----------
    items : iterable
    work : callable
        ``work(item)``.
    size : int
        Of each queue.
    pace : Pace, optional
        Filled in.
    """
    entered: queue.Queue[Any] = queue.Queue(size)
    left: queue.Queue[Any] = queue.Queue(size)
    stop, end = threading.Event(), object()

    def put(target: queue.Queue[Any], value: Any) -> None:
        while not stop.is_set():
            try:
                return target.put(value, timeout=0.1)
            except queue.Full:
                continue

    def get(source: queue.Queue[Any]) -> Any:
        while not stop.is_set():
            try:
                return source.get(timeout=0.1)
            except queue.Empty:
                continue
        return end

    def read() -> None:
        try:
            for item in items:
                put(entered, (time.perf_counter(), item))
                if stop.is_set():
                    return
            put(entered, end)
        except BaseException as error:  # raised again where the results are taken
            put(entered, error)

    def make() -> None:
        while (got := get(entered)) is not end:
            if isinstance(got, BaseException):
                return put(left, got)
            began, item = got
            try:
                put(left, (began, work(item)))
            except BaseException as error:
                return put(left, error)
        return put(left, end)

    pace = Pace() if pace is None else pace
    started = time.perf_counter()
    threads = [threading.Thread(target=each, daemon=True) for each in (read, make)]
    for thread in threads:
        thread.start()
    try:
        while (got := get(left)) is not end:
            if isinstance(got, BaseException):
                raise got
            began, made = got
            pace.latencies.append(time.perf_counter() - began)
            pace.seconds = time.perf_counter() - started
            yield made
    finally:
        stop.set()
