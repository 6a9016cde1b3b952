"""A data module for data sets of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rectiflow.flow import Flow
from rectiflow.randomness import counter_generator
from rectiflow.storage.records import flatten_state, state_of
from rectiflow.training.stream import BatchSource, draw_key, step_loader


@dataclass(frozen=True)
class CoupleBatch:
    """Puts the noise of a flow's coupling into batches, where they are loaded.

    Parameters
    ----------
    flow : Flow
    seed : int
        With the number of the batch, the key of its noise: a resumed run draws the same.
    """

    flow: Flow
    seed: int

    def __call__(self, batch: dict[str, Tensor], number: int) -> dict[str, Tensor]:
        """Return the batch with ``x0``, unless it has noise or no data yet."""
        x1 = state_of(batch, "x1")
        if x1 is None or state_of(batch, "x0") is not None:
            return batch
        generator = counter_generator("coupling", *draw_key(self.seed, number))
        x0 = self.flow.noise_for(x1, mask=batch.get("mask"), generator=generator)
        return {**batch, **flatten_state("x0", x0)}


class FlowData(LightningDataModule):
    """Training batches from an endless deterministic stream, and held-out batches.

    A coupling that is work for the loader, such as :class:`~rectiflow.couplings.MinibatchOT`, is
    solved there and not in the training step.

    Parameters
    ----------
    dataset : Dataset
        Items are records, ``dict[str, Tensor]``.
    batches : BatchSource
        The batches of all ranks, which are dealt out: the order of the data is the same for any
        number of them.
    validation : iterable of batches, optional
        Iterated anew at each validation; a list or a ``DataLoader``.
    **options
        Passed to the training ``DataLoader``: ``num_workers``, ``collate_fn``, ...
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batches: BatchSource,
        validation: Iterable[Mapping[str, Tensor]] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.dataset, self.batches, self.validation = dataset, batches, validation
        self.options = options

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the stream from where the run stands."""
        trainer: Any = self.trainer
        training = trainer.lightning_module
        flow: Any = getattr(getattr(training, "objective", None), "flow", None)
        paired = flow is not None and flow.coupling.in_loader
        return step_loader(
            self.dataset,
            self.batches,
            start_batch=training.batches_seen,
            start_item=training.items_seen,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            finish=CoupleBatch(flow, training.seed) if paired else None,
            **self.options,
        )

    def val_dataloader(self) -> Any:
        """Return the held-out batches."""
        return self.validation
