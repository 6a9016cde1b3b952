"""The Lightning module that trains an objective."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rectiflow.randomness import counter_generator, counter_seed
from rectiflow.training.ema import DecayProfile, Ema
from rectiflow.training.meter import Meter
from rectiflow.training.objective import Objective
from rectiflow.training.sharding import is_sharded, part_of, shard, whole_of
from rectiflow.training.stream import draw_key

log = logging.getLogger(__name__)


class FlowTraining(LightningModule):
    """Minimises an objective, with moving averages and reproducible randomness.

    The generator handed to the objective is keyed by the seed and the micro-batch's number, which
    counts those of all ranks. So a resumed run draws what an uninterrupted one would, and two
    processes draw what one does that accumulates two micro-batches. A step has the mean gradient
    of its items, however many of them each rank and micro-batch has.

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
        Micro-batches consumed by all ranks: where the data stream continues.
    skipped : int
        Optimiser steps whose gradient was left out because it was not finite. Reading it waits for
        the device.

    Notes
    -----
    Nothing in a step waits for the device. A gradient that is not finite is therefore found there
    and counts as zero: the optimiser takes its step without it. To compile, call
    ``network.compile()`` beforehand: it keeps parameter names as they are.
    """

    reaches_all = True
    """Whether each step has a gradient for all parameters of the network."""

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
        self._open = 0  # micro-batches of this rank in the step that is being made
        self._items = 0  # in them
        self._shares = 1  # micro-batches of all ranks in a step
        self._step_items: Tensor | None = None  # of all ranks, once asked for
        self._whole: list[nn.Module] = []  # in a list, so that it is no part of this module
        self._items_before: int | None = 0
        self._items_since = torch.zeros((), dtype=torch.int64)
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
    def items_seen(self) -> int | None:
        """Return the items consumed by all ranks; None if the run began before they were counted.

        Reading it waits for the device.
        """
        if self._items_before is None:
            return None
        return self._items_before + int(self._items_since)

    @property
    def accumulate(self) -> int:
        """Return this rank's micro-batches per optimiser step."""
        return self.trainer.accumulate_grad_batches

    def accept_accumulation(self, accumulate: int) -> int:
        """Return how many micro-batches per step the trainer shall accumulate: all of them."""
        return accumulate

    @property
    def at_step_boundary(self) -> bool:
        """Return whether the last micro-batch completed an optimiser step."""
        return self._open == 0

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """Give the network its first average inside the block; without averages, leave it."""
        if not self.averages:
            yield self.network
            return
        with self.averages[0].averaged(self.network) as network:
            yield network

    def configure_model(self) -> None:
        """Share the network out among the processes where the strategy is ``"fsdp"``."""
        if not isinstance(self.trainer.strategy, ModelParallelStrategy) or is_sharded(self.network):
            return
        inside = {id(p) for p in self.network.parameters()}
        beside = [n for n, p in self.named_parameters() if p.requires_grad and id(p) not in inside]
        if beside:
            raise ValueError(
                f"fsdp shares the network out, got trained parameters beside it: {beside[:3]}; "
                "expected none. Use strategy ddp."
            )
        self._whole = [copy.deepcopy(self.network)] if self.trainer.is_global_zero else []
        mesh: Any = self.device_mesh
        shard(self.network, mesh["data_parallel"])

    def gather(self) -> None:
        """Have a whole network again in the first process, as it was before the training."""
        if self._whole:
            self.objective.network = self._whole.pop()

    def configure_optimizers(self) -> Any:
        """Build the optimiser over trainable parameters, and its scheduler."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return configured(trained, self.make_optimizer, self.make_scheduler)

    def on_fit_start(self) -> None:
        """Bring the averages to the network's device."""
        for ema in self.averages:
            ema.follow(self.network)
        self._shares = self.accumulate * self.trainer.world_size

    def on_train_start(self) -> None:
        """Start the throughput clock."""
        self.meter.restart_clock()

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Any:
        """Return the loss of one micro-batch, weighted by its items if others share the step."""
        key = self.draw_key()
        # Dropout knows only the global generators; key them too, so that a resumed run agrees.
        seed_global_generators(counter_seed("global", *key), self.device)
        generator = counter_generator("train", *key, device=self.device)
        terms = self.objective(self.with_step(batch), generator)
        weight = self.count(batch)
        self.meter.add(terms, samples=batch_size(batch))
        return {"loss": terms["loss"] * weight, "mean": terms["loss"].detach()}

    def draw_key(self) -> tuple[int, int, int]:
        """Return the key of what is drawn for the micro-batch at hand."""
        return draw_key(self.seed, self.batches_seen + self.global_rank)

    def count(self, batch: Mapping[str, Tensor]) -> int:
        """Count a micro-batch, and return the weight of its mean loss until the step's is known."""
        items = batch_size(batch)
        self.batches_seen += self.trainer.world_size
        self._open = (self._open + 1) % self.accumulate
        self._items += items
        return items if self._shares > 1 else 1

    def step_items(self) -> Tensor:
        """Return the items of all ranks in the step, a number on the device."""
        if self._step_items is None:
            self._step_items = torch.full((), self._items, dtype=torch.int64, device=self.device)
            if self.trainer.world_size > 1:
                torch.distributed.all_reduce(self._step_items)
        return self._step_items

    def with_step(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch with the optimiser step, on the CPU: reading it waits for nothing."""
        return {**batch, "step": torch.tensor(self.global_step)}

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Clip gradients, or take them all as zero when one is not finite."""
        self.tame(optimizer, "grad_norm")

    def tame(self, optimizer: Optimizer, name: str) -> None:
        """Clip the gradients of an optimiser, or zero them, and log their norm as ``name``."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        whole = [p.grad for p in parameters if p.grad is not None]
        if not whole:
            return
        gradients = [part_of(gradient) for gradient in whole]
        if self._shares > 1:  # they are means over micro-batches, of losses times items
            torch._foreach_mul_(gradients, self._shares / self.step_items())
        norm = whole_of(nn.utils.get_total_norm(whole))
        spoiled = ~torch.isfinite(norm)
        for gradient in gradients:
            gradient.masked_fill_(spoiled, 0.0)
        self._skipped = self._skipped.to(norm.device) + spoiled
        self.meter.add({name: norm})  # which leaves it out of the means if it is not finite
        if self.grad_clip is not None:
            norm = norm.masked_fill(spoiled, 0.0)
            torch._foreach_mul_(gradients, (self.grad_clip / (norm + 1e-6)).clamp(max=1.0))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step the optimiser, then the averages, then log."""
        super().optimizer_step(*args, **kwargs)
        self.finish_step(self.global_step + 1)

    def finish_step(self, step: int) -> None:
        """Update the averages, count the items, and log if it is due."""
        for ema in self.averages:
            ema.update(self.network)
        self._items_since = self._items_since.to(self.device) + self.step_items()
        self._items, self._step_items = 0, None
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step % every == 0 or step == self.trainer.max_steps:
            self._log_window(step)

    def _log_window(self, step: int) -> None:
        means = self.meter.flush()
        rate = means.pop("samples_per_s")
        means = mean_over_ranks(means, dict.fromkeys(means, 1))
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
            "items_seen": self.items_seen,
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
        before, now = state["layout"], self._layout()
        if any(_draws(before)[key] != value for key, value in _draws(now).items()):
            log.warning(
                "resumed with %s instead of %s: the run goes on with the items that it has not "
                "seen, but its draws differ from an uninterrupted one",
                now,
                before,
            )
        self.batches_seen, self._skipped_before = state["batches_seen"], state["skipped"]
        self._open, self._items_before = 0, state.get("items_seen")
        self._items_since = torch.zeros((), dtype=torch.int64)
        if "items_seen" not in state:  # of before, when each rank counted its own
            self.batches_seen *= before["world_size"]
        # Lightning tells the end of a step from the number of this rank's micro-batches.
        progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        done = checkpoint["global_step"] * self.accumulate
        for counted in (progress["total"], progress["current"]):
            counted.update(dict.fromkeys(counted, done))
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


def _draws(layout: Mapping[str, int]) -> dict[str, int]:
    """Return what the draws of a step depend on."""
    return {"seed": layout["seed"], "shares": layout["world_size"] * layout["accumulate"]}


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


def mean_over_ranks(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    """Divide sums of all ranks by counts of all ranks, for each name that any rank has."""
    gathered: list[Any] = [(dict(sums), dict(counts))]
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        gathered = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(gathered, (dict(sums), dict(counts)))
    names = dict.fromkeys(name for own, _ in gathered for name in own)
    return {
        name: sum(own.get(name, 0.0) for own, _ in gathered)
        / sum(counts.get(name, 0) for _, counts in gathered)
        for name in names
    }
