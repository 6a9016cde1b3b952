"""Saves checkpoints while training: whole or not at all."""

from __future__ import annotations

import logging
import signal
import threading
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from rectiflow.storage.files import whole_file
from rectiflow.training.ema import PowerDecay
from rectiflow.training.post_hoc import save_snapshot
from rectiflow.training.validation import Validation

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Writes ``last.ckpt`` at optimiser-step boundaries and ``best.ckpt`` by a metric.

    It also ends a run whose time is up, and one that gets SIGTERM or SIGINT, after a last save.

    Parameters
    ----------
    folder : Path
        Where the two files go.
    every : int
        Optimiser steps between saves; the final step is saved too.
    validation : Validation, optional
        Source of the monitored metric; must stand before this callback in the trainer's list.
    monitor : str
        Metric that is smallest for the best checkpoint.
    deadline : float, optional
        ``time.monotonic()`` after which training stops.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        *,
        validation: Validation | None = None,
        monitor: str = "val/loss",
        deadline: float | None = None,
    ) -> None:
        if every < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {every}.")
        self.folder, self.every, self.validation = folder, every, validation
        self.monitor, self.deadline = monitor, deadline
        self.best: float | None = None
        self.interrupted_by: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value so far."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, training: Any) -> None:
        """Take over SIGTERM and SIGINT until the trainer restores the former handlers.

        Lightning would end the run after the current micro-batch, in the middle of a step.
        """
        self.interrupted_by = None
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        self.interrupted_by = number
        # A second signal ends the process at once.
        signal.signal(number, signal.SIG_DFL)

    def on_train_batch_end(
        self, trainer: Trainer, training: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if due, and stop if the time is up."""
        if not training.at_step_boundary:
            return
        step = trainer.global_step
        stop = self._must_stop(trainer)
        improved = self._improved()
        if improved or stop or step % self.every == 0 or step == trainer.max_steps:
            with training.meter.paused():
                save_checkpoint(trainer, self.folder / "last.ckpt")
                if improved:
                    save_checkpoint(trainer, self.folder / "best.ckpt")
        if stop:
            reason = "interrupted" if self.interrupted_by else "time is up"
            log.info("stopped at step %d: %s", step, reason)
            trainer.should_stop = True

    def _must_stop(self, trainer: Trainer) -> bool:
        late = self.deadline is not None and time.monotonic() >= self.deadline
        stop = late or self.interrupted_by is not None
        return trainer.strategy.reduce_boolean_decision(stop, all=False)

    def _improved(self) -> bool:
        value = self.validation.latest.get(self.monitor) if self.validation else None
        if value is None or not (self.best is None or value < self.best):
            return False
        self.best = value
        return True


class Snapshots(Callback):
    """Stores the power-function averages at regular steps.

    Parameters
    ----------
    folder : Path
        Where the files go.
    every : int
        Optimiser steps between snapshots; the final step is stored too.
    """

    def __init__(self, folder: Path, every: int) -> None:
        if every < 1:
            raise ValueError(f"snapshot_every must be at least 1, got {every}.")
        self.folder, self.every = folder, every

    def on_train_start(self, trainer: Trainer, training: Any) -> None:
        """Refuse a run that has nothing to store."""
        if not any(isinstance(ema.profile, PowerDecay) for ema in training.averages):
            raise ValueError(
                "snapshot_every needs a power-function average, got "
                f"{[str(ema.profile) for ema in training.averages]}; add "
                "PowerDecay(0.05) and PowerDecay(0.10) to ema."
            )

    def on_train_batch_end(
        self, trainer: Trainer, training: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Store if due."""
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if not (training.at_step_boundary and due):
            return
        with training.meter.paused():
            for ema in training.averages:
                if isinstance(ema.profile, PowerDecay):
                    average = ema.whole()
                    if trainer.is_global_zero:
                        save_snapshot(ema, self.folder, average)


def save_checkpoint(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint whole or not at all; every process takes part, the first one writes."""
    if trainer.is_global_zero:
        with whole_file(path) as part:
            trainer.save_checkpoint(part)
    else:
        trainer.save_checkpoint(path)
    trainer.strategy.barrier("checkpoint")
