"""The Lightning module that trains an objective."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rectiflow.randomness import counter_generator, counter_seed
from rectiflow.training.ema import DecayProfile, Ema
from rectiflow.training.meter import Meter
from rectiflow.training.objective import Objective

log = logging.getLogger(__name__)


class FlowTraining(LightningModule):
    """Minimises an objective, with moving averages and reproducible randomness.

    The generator handed to the objective is keyed by (seed, rank, micro-step), so a resumed run
    draws what an uninterrupted one would, and nothing depends on earlier draws.

    Parameters
    ----------
    objective : Objective
        An ``nn.Module``; holds the network as ``objective.network``.
    optimizer : callable
        Takes the trainable parameters, such as ``partial(torch.optim.AdamW, lr=1e-4)``.
    scheduler : callable, optional
        Takes the optimiser; stepped once per optimiser step.
    ema : sequence of float or DecayProfile
        Averages to keep. The first is the one that is validated and exported.
    grad_clip : float, optional
        Largest global gradient norm.
    seed : int
        Key of all randomness in training and validation.

    Attributes
    ----------
    batches_seen : int
        Micro-batches consumed by this rank: where its data stream continues.
    skipped : int
        Optimiser steps whose gradient was left out because it was not finite. Reading it waits for
        the device.

    Notes
    -----
    Nothing in a step waits for the device. A gradient that is not finite is therefore found there
    and counts as zero: the optimiser takes its step without it. To compile, call
    ``network.compile()`` beforehand: it keeps parameter names as they are.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        ema: Sequence[float | DecayProfile] = (),
        grad_clip: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if grad_clip is not None and grad_clip <= 0:
            raise ValueError(f"grad_clip must be positive, got {grad_clip}; use None for no limit.")
        self.objective = objective
        self.make_optimizer, self.make_scheduler = optimizer, scheduler
        self.averages = [Ema(objective.network, profile) for profile in ema]
        self.grad_clip, self.seed = grad_clip, seed
        self.batches_seen = 0
        self.meter = Meter()
        self._skipped = torch.zeros((), dtype=torch.int64)
        self._skipped_before = 0

    @property
    def network(self) -> nn.Module:
        """Return the trained network."""
        return self.objective.network

    @property
    def skipped(self) -> int:
        """Return how many gradients were left out."""
        return int(self._skipped)

    @property
    def accumulate(self) -> int:
        """Return the micro-batches per optimiser step."""
        return self.trainer.accumulate_grad_batches

    def accept_accumulation(self, accumulate: int) -> int:
        """Return how many micro-batches per step the trainer shall accumulate: all of them."""
        return accumulate

    @property
    def at_step_boundary(self) -> bool:
        """Return whether the last micro-batch completed an optimiser step."""
        return self.batches_seen % self.accumulate == 0

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Give the network its first average inside the block; without averages, leave it."""
        if not self.averages:
            yield self.network
            return
        with self.averages[0].averaged(self.network) as network:
            yield network

    def configure_optimizers(self) -> Any:
        """Build the optimiser over trainable parameters, and its scheduler."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return configured(trained, self.make_optimizer, self.make_scheduler)

    def on_fit_start(self) -> None:
        """Bring the averages to the network's device."""
        for ema in self.averages:
            ema.to(self.device)

    def on_train_start(self) -> None:
        """Start the throughput clock."""
        self.meter.restart_clock()

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of one micro-batch."""
        key = (self.seed, self.global_rank, self.batches_seen)
        # Dropout knows only the global generators; key them too, so that a resumed run agrees.
        seed_global_generators(counter_seed("global", *key), self.device)
        generator = counter_generator("train", *key, device=self.device)
        terms = self.objective(self.with_step(batch), generator)
        self.batches_seen += 1
        self.meter.add(terms, samples=batch_size(batch))
        return terms["loss"]

    def with_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with the optimiser step, on the CPU: reading it waits for nothing."""
        return {**batch, "step": torch.tensor(self.global_step)}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients, or take them all as zero when one is not finite."""
        self.tame(optimizer, "grad_norm")

    def tame(self, optimizer: Optimizer, name: str) -> None:
        """Clip the gradients of an optimiser, or zero them, and log their norm as ``name``."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        spoiled = ~torch.isfinite(norm)
        for gradient in gradients:
            gradient.masked_fill_(spoiled, 0.0)
        self._skipped = self._skipped.to(norm.device) + spoiled
        self.meter.add({name: norm})  # which leaves it out of the means if it is not finite
        if self.grad_clip is not None:
            norm = norm.masked_fill(spoiled, 0.0)
            nn.utils.clip_grads_with_norm_(parameters, self.grad_clip, norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, then the averages, then log."""
        super().optimizer_step(*args, **kwargs)
        self.finish_step(self.global_step + 1)

    def finish_step(self, step: int) -> None:
        """Update the averages, and log if it is due."""
        for ema in self.averages:
            ema.update(self.network)
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every == 0 or step == self.trainer.max_steps:
            self._log_window(step)

    def _log_window(self, step: int) -> None:
        means = self.meter.flush()
        rate = means.pop("samples_per_s")
        means = _mean_over_ranks(means)
        metrics = {f"train/{name}": value for name, value in means.items()}
        skipped = self.skipped
        if skipped > self._skipped_before:
            new, self._skipped_before = skipped - self._skipped_before, skipped
            log.warning("%d gradient(s) not finite since the last log, %d so far", new, skipped)
        metrics["train/skipped"] = float(skipped)
        metrics["train/samples_per_s"] = rate * self.trainer.world_size
        optimizer = self.trainer.optimizers[0]
        metrics["train/lr"] = float(optimizer.param_groups[0]["lr"])
        self.log_metrics(metrics, step)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics to every logger of the run."""
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add averages and counters; only tensors and plain containers go in."""
        checkpoint["flow_training"] = {
            "batches_seen": self.batches_seen,
            "skipped": self.skipped,
            "layout": self._layout(),
            "ema": [ema.state_dict() for ema in self.averages],
            "window": self.meter.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore averages and counters."""
        state = checkpoint["flow_training"]
        if len(state["ema"]) != len(self.averages):
            raise ValueError(
                f"checkpoint has {len(state['ema'])} averages, got {len(self.averages)} now; "
                "expected the same ema setting as in the run that is resumed."
            )
        if state["layout"] != self._layout():
            log.warning(
                "resumed with %s instead of %s: the run goes on, but its draws differ from an "
                "uninterrupted one",
                self._layout(),
                state["layout"],
            )
        self.batches_seen, self._skipped_before = state["batches_seen"], state["skipped"]
        self._skipped = torch.tensor(state["skipped"])
        self.meter.load_state_dict(state["window"])
        for ema, saved in zip(self.averages, state["ema"], strict=True):
            ema.load_state_dict(saved)

    def _layout(self) -> dict[str, int]:
        """Return what must not change for a resumed run to repeat the same numbers."""
        trainer = self.trainer
        return {
            "seed": self.seed,
            "world_size": trainer.world_size,
            "accumulate": self.accumulate,
        }


def batch_size(batch: Mapping[str, Tensor]) -> int:
    """Return the length of the first tensor that has axes."""
    return next((value.shape[0] for value in batch.values() if value.ndim), 0)


def configured(
    parameters: list[nn.Parameter],
    make_optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    make_scheduler: Callable[[Optimizer], LRScheduler] | None,
) -> dict[str, Any]:
    """Return an optimiser and its scheduler as Lightning takes them."""
    optimizer = make_optimizer(parameters)
    if make_scheduler is None:
        return {"optimizer": optimizer}
    scheduler = {"scheduler": make_scheduler(optimizer), "interval": "step"}
    return {"optimizer": optimizer, "lr_scheduler": scheduler}


def seed_global_generators(seed: int, device: torch.device) -> None:
    """Seed the generators that this device uses; ``torch.manual_seed`` is slow without a GPU."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def _mean_over_ranks(means: dict[str, float]) -> dict[str, float]:
    """Average each term over the ranks that have it."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return means
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, means)
    values: dict[str, list[float]] = {}
    for own in gathered:
        for name, value in own.items():
            values.setdefault(name, []).append(value)
    return {name: sum(each) / len(each) for name, each in values.items()}
