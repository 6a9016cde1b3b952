"""One progress bar over the optimiser steps of a run."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from tqdm.auto import tqdm


class Progress(Callback):
    """Shows steps done, time left and the running loss, on rank 0."""

    def __init__(self) -> None:
        self._bar: Any = None

    def on_train_start(self, trainer: Trainer, training: Any) -> None:
        """Open the bar at the step the run starts from."""
        self._bar = tqdm(
            total=trainer.max_steps,
            initial=trainer.global_step,
            unit="step",
            dynamic_ncols=True,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(
        self, trainer: Trainer, training: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar."""
        if training.at_step_boundary:
            self._bar.update(trainer.global_step - self._bar.n)
            if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
                self._bar.set_postfix(loss=f"{float(outputs['mean']):.4g}", refresh=False)

    def on_train_end(self, trainer: Trainer, training: Any) -> None:
        """Close the bar."""
        self._bar.close()

    def on_exception(self, trainer: Trainer, training: Any, exception: BaseException) -> None:
        """Close the bar, so that the message starts on its own line."""
        if self._bar is not None:
            self._bar.close()
