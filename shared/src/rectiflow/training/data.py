"""A data module for data sets of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rectiflow.training.stream import BatchSource, step_loader


class FlowData(LightningDataModule):
    """Training batches from an endless deterministic stream, and held-out batches.

    Parameters
    ----------
    dataset : Dataset
        Items are records, ``dict[str, Tensor]``.
    batches : callable
        ``batches(rank, world_size)`` gives that rank's :class:`BatchSource`.
    validation : iterable of batches, optional
        Iterated anew at each validation; a list or a ``DataLoader``.
    **options
        Passed to the training ``DataLoader``: ``num_workers``, ``collate_fn``, ...
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: Callable[[int, int], BatchSource],
        validation: Iterable[Mapping[str, Tensor]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dataset, self.batches, self.validation = dataset, batches, validation
        self.options = options

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the stream from where the run stands."""
        trainer: Any = self.trainer
        return step_loader(
            self.dataset,
            self.batches(trainer.global_rank, trainer.world_size),
            start_batch=trainer.lightning_module.batches_seen,
            **self.options,
        )

    def val_dataloader(self) -> Any:
        """Return the held-out batches."""
        return self.validation
