"""Means of logged terms over a window of steps."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Meter:
    """Collects scalar tensors without waiting for the device, and averages them on demand.

    Non-finite values are left out of the means: one skipped step must not hide a window.
    """

    def __init__(self) -> None:
        self._pending: dict[str, list[Tensor]] = {}
        self._values: dict[str, list[float]] = {}
        self._samples = 0
        self._since = time.perf_counter()

    def add(self, terms: Mapping[str, Tensor], samples: int = 0) -> None:
        """Take the terms of one micro-step, and how many samples it had."""
        for name, value in terms.items():
            self._pending.setdefault(name, []).append(value.detach())
        self._samples += samples

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time spent in the block out of the throughput."""
        start = time.perf_counter()
        yield
        self._since += time.perf_counter() - start

    def restart_clock(self) -> None:
        """Measure throughput from now on."""
        self._since, self._samples = time.perf_counter(), 0

    def flush(self) -> dict[str, float]:
        """Return the mean of each term and ``samples_per_s``, and start the next window."""
        self._collect()
        means: dict[str, float] = {}
        for name, values in self._values.items():
            finite = [value for value in values if math.isfinite(value)]
            means[name] = math.fsum(finite) / len(finite) if finite else math.nan
        now = time.perf_counter()
        means["samples_per_s"] = self._samples / max(now - self._since, 1e-9)
        self._values, self._samples, self._since = {}, 0, now
        return means

    def state_dict(self) -> dict[str, list[float]]:
        """Return the open window, so that a resumed run reports the same means."""
        self._collect()
        return {name: list(values) for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        """Continue a saved window."""
        self._pending, self._values = {}, {name: list(each) for name, each in state.items()}

    def _collect(self) -> None:
        """Bring the pending scalars to the host, one transfer per term."""
        for name, tensors in self._pending.items():
            self._values.setdefault(name, []).extend(torch.stack(tensors).tolist())
        self._pending = {}
