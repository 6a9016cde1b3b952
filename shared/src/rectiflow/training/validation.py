"""Validation at optimiser-step boundaries, with the averaged weights."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from rectiflow.randomness import counter_generator
from rectiflow.training.flow_training import FlowTraining, batch_size, mean_over_ranks
from rectiflow.training.sharding import is_sharded

log = logging.getLogger(__name__)

Evaluate = Callable[[nn.Module, int, Path], dict[str, float]]
"""``evaluate(network, step, run_dir)`` samples, may write pictures, and returns metrics."""


class Validation(Callback):
    """Computes the objective on held-out batches and calls a sample evaluation.

    Lightning's own validation loop is not used: on resume it decides from its batch counters
    whether to run, and may leave a validation out; this one depends on the step alone.

    Parameters
    ----------
    every : int
        Optimiser steps between validations; the last step is validated too.
    batches : iterable of batches, optional
        Held-out data. Every validation sees the same times and noise, so that its losses differ
        only by the network. Ranks share the batches out.
    evaluate : callable, optional
        Called on rank 0; on all ranks where the network is shared out among them.
    run_dir : Path
        Handed to ``evaluate``.

    Attributes
    ----------
    latest : dict
        Metrics of the last validation, for the choice of the best checkpoint.
    """

    def __init__(
        self,
        every: int,
        batches: Iterable[Mapping[str, Tensor]] | None,
        evaluate: Evaluate | None,
        run_dir: Path,
    ) -> None:
        if every < 1:
            raise ValueError(f"validate_every must be at least 1, got {every}.")
        self.every, self.batches, self.evaluate, self.run_dir = every, batches, evaluate, run_dir
        self.latest: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, training: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Validate if this step is due."""
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if not (training.at_step_boundary and due):
            self.latest = {}
            return
        with training.meter.paused(), training.averaged(), _evaluating(training):
            self.latest = self._losses(trainer, training)
            if self.evaluate is not None and trainer.is_global_zero:
                self._evaluate(self.run_dir, training, step)
            elif self.evaluate is not None and is_sharded(training.network):
                with TemporaryDirectory() as scratch:  # its part of the network is asked for
                    self._evaluate(Path(scratch), training, step)
        # What the first process alone has measured may choose the best checkpoint, which all save.
        self.latest = trainer.strategy.broadcast(self.latest)
        training.log_metrics(self.latest, step)
        log.info("step %d: %s", step, _summary(self.latest))

    def _evaluate(self, run_dir: Path, training: FlowTraining, step: int) -> None:
        assert self.evaluate is not None
        found = self.evaluate(training.network, step, run_dir)
        self.latest |= {f"val/{name}": float(value) for name, value in found.items()}

    def _losses(self, trainer: Trainer, training: FlowTraining) -> dict[str, float]:
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for index, batch in enumerate(self.batches or ()):
            if index % trainer.world_size != trainer.global_rank:
                continue
            moved: Any = trainer.strategy.batch_to_device(batch)
            generator = counter_generator(
                training.seed, "validation", index, device=training.device
            )
            with trainer.precision_plugin.forward_context():
                terms = training.objective(training.with_step(moved), generator)
            n = batch_size(moved)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + n * float(value)
                counts[name] = counts.get(name, 0) + n
        return {f"val/{name}": mean for name, mean in mean_over_ranks(sums, counts).items()}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Switch to evaluation inside the block; frozen parts keep their own mode after it."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def _summary(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()) or "no metrics"
