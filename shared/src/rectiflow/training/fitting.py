"""Run a training in a run folder."""

from __future__ import annotations

import importlib.util
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_only

from rectiflow.quiet import quiet
from rectiflow.training.flow_training import FlowTraining
from rectiflow.training.metrics_csv import MetricsCsv
from rectiflow.training.progress import Progress
from rectiflow.training.reading import read_checkpoint
from rectiflow.training.run_folder import RunFolder
from rectiflow.training.saving import Checkpoints, Snapshots
from rectiflow.training.validation import Evaluate, Validation

log = logging.getLogger(__name__)


def fit(
    training: FlowTraining,
    data: LightningDataModule,
    run_dir: Path | str,
    *,
    max_steps: int,
    checkpoint_every: int = 1000,
    validate_every: int | None = None,
    snapshot_every: int | None = None,
    log_every: int = 50,
    accumulate: int = 1,
    accelerator: str = "auto",
    devices: int | str | list[int] = "auto",
    num_nodes: int = 1,
    strategy: Any = "auto",
    precision: Any = "32-true",
    resume: bool = False,
    overwrite: bool = False,
    max_time_s: float | None = None,
    evaluate: Evaluate | None = None,
    monitor: str = "val/loss",
    config: str | None = None,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    progress: bool = True,
) -> RunFolder:
    """Train until ``max_steps`` optimiser steps, or until the time is up.

    A killed run that is resumed continues from its last checkpoint with the same data order,
    randomness and numbers as one that was not killed; on a CPU they agree bit by bit.

    Parameters
    ----------
    training : FlowTraining
        Objective, optimiser, averages; or
        :class:`~rectiflow.training.adversarial.AdversarialTraining`.
    data : LightningDataModule
        Its training loader must be endless and start at ``training.batches_seen``, as
        :class:`~rectiflow.training.data.FlowData` does.
    run_dir : Path
        The run folder; see :class:`~rectiflow.training.run_folder.RunFolder`.
    max_steps : int
        Total optimiser steps, those before a resume included.
    checkpoint_every, validate_every, log_every : int
        Optimiser steps between checkpoints, validations (None: none), and logged means.
    snapshot_every : int, optional
        Optimiser steps between stored snapshots of power-function averages, for
        :func:`~rectiflow.training.post_hoc.reconstruct`.
    accumulate : int
        Micro-batches per optimiser step.
    accelerator, devices, num_nodes, strategy, precision
        As for ``lightning.Trainer``. On each of several nodes torchrun starts ``devices``
        processes. The strategy ``"fsdp"`` shares parameters, gradients, moments and averages of
        the network out among the processes, for networks that are too large for one device.
    resume : bool
        Continue the run in ``run_dir``, from the beginning if it was stopped before its first
        checkpoint.
    overwrite : bool
        Remove what is in ``run_dir`` of a run's names first.
    max_time_s : float, optional
        Stop cleanly, checkpoint written, at the first step boundary after this many seconds.
    evaluate : callable, optional
        ``evaluate(network, step, run_dir) -> metrics`` at each validation, averaged weights.
    monitor : str
        Metric whose smallest value marks the best checkpoint.
    config : str, optional
        Text of ``config.yaml``.
    callbacks, loggers : sequence
        Further Lightning callbacks and loggers.
    progress : bool
        Show a progress bar.

    Raises
    ------
    FileExistsError
        When the folder holds a run and ``resume`` is false, when it holds foreign files of the
        same names, or when another process trains there.
    FileNotFoundError
        When ``resume`` is true and there is no run.
    SystemExit
        After SIGTERM or SIGINT, when the step in progress is done and saved.
    """
    deadline = None if max_time_s is None else time.monotonic() + max_time_s
    folder = RunFolder(run_dir)
    with ExitStack() as stack:
        if getattr(rank_zero_only, "rank", 0) == 0:
            stack.enter_context(folder.claimed(resume=resume, overwrite=overwrite))
        checkpoint = folder.checkpoint() if resume else None
        start_step = read_checkpoint(checkpoint)["global_step"] if checkpoint else 0
        if getattr(rank_zero_only, "rank", 0) == 0:
            folder.create(config)

        own: list[Callback] = []
        validation: Validation | None = None
        if validate_every is not None:
            validation = Validation(validate_every, _held_out(data), evaluate, folder.path)
            own.append(validation)
        checkpoints = Checkpoints(
            folder.checkpoints,
            checkpoint_every,
            validation=validation,
            monitor=monitor,
            deadline=deadline,
        )
        own.append(checkpoints)
        if snapshot_every is not None:
            own.append(Snapshots(folder.snapshots, snapshot_every))
        if progress:
            own.append(Progress())

        with _quiet_lightning():
            trainer = Trainer(
                accelerator=accelerator,
                devices=devices,
                num_nodes=num_nodes,
                strategy=_strategy(strategy, training, devices, num_nodes),
                precision=precision,
                max_steps=max_steps,
                max_epochs=-1,
                accumulate_grad_batches=training.accept_accumulation(accumulate),
                log_every_n_steps=log_every,
                limit_val_batches=0,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                default_root_dir=folder.path,
                # Validation runs before checkpoints, and the user's callbacks see both done.
                callbacks=[*own, *callbacks],
                logger=[*_own_loggers(folder, start_step), *loggers],
            )
            external = torch.distributed.is_initialized()
            try:
                trainer.fit(training, data, ckpt_path=checkpoint, weights_only=True)
            finally:  # the next training of this process may have other ranks
                if torch.distributed.is_initialized() and not external:
                    torch.distributed.destroy_process_group()
        training.gather()
    if checkpoints.interrupted_by is not None:
        raise SystemExit(128 + checkpoints.interrupted_by)
    return folder


def _strategy(strategy: Any, training: FlowTraining, devices: Any, num_nodes: int) -> Any:
    """Make the strategy of a name where Lightning's own of that name does not serve."""
    if strategy == "ddp":
        return DDPStrategy(find_unused_parameters=not training.reaches_all)
    if strategy != "fsdp":
        return strategy
    if not training.reaches_all:
        raise ValueError("fsdp trains one network, got an adversarial training; use strategy ddp.")
    if not isinstance(devices, int | list):
        raise ValueError(f"fsdp needs the number of devices, got {devices!r}; expected such as 4.")
    own = devices if isinstance(devices, int) else len(devices)
    # Checkpoints hold whole tensors: they resume on any number of devices, and export as ever.
    return ModelParallelStrategy(own * num_nodes, 1, save_distributed_checkpoint=False)


def _held_out(data: LightningDataModule) -> Any:
    """Return the data module's validation batches, or None if it defines none."""
    if type(data).val_dataloader is LightningDataModule.val_dataloader:
        return None
    return data.val_dataloader()


def _own_loggers(folder: RunFolder, start_step: int) -> list[Logger]:
    loggers: list[Logger] = [MetricsCsv(folder.metrics, start_step)]
    if importlib.util.find_spec("tensorboard") is None:
        log.info("tensorboard is not installed: metrics go to %s only", folder.metrics)
        return loggers
    # Hides what a killed run logged after its last checkpoint.
    purge: Any = start_step + 1 if start_step else None
    loggers.append(TensorBoardLogger(folder.tensorboard, name="", version="", purge_step=purge))
    return loggers


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Silence Lightning's hints; its errors still come through."""
    with quiet("lightning.pytorch", "lightning.fabric"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        warnings.filterwarnings("ignore", message=r".*(num_workers|eval mode|not empty).*")
        yield
