"""Prepared sounds as the data of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.training.data import FlowData
from rectiflow.training.held_out import HeldOut
from rectiflow.training.stream import drawn

from rectiflow_audio.data.captions import Wordings
from rectiflow_audio.data.dataset import (
    Augmentation,
    MixtureDataset,
    WaveformDataset,
)
from rectiflow_audio.data.mixtures import MixtureRules
from rectiflow_audio.data.prepared import PreparedSounds


class SeparationData(FlowData):
    """Mixtures of the train split made on the fly, and fixed ones of the valid split.

    Which mixtures a step sees is a function of the step alone, so a killed run continues with
    those it would have seen.

    Parameters
    ----------
    folder : str or Path
        Output of ``prepare``, with embedded captions.
    batch_size : int, default 4
        Mixtures per rank and step.
    window_seconds : float, default 10.24
        Length of a mixture.
    rules : MixtureRules, optional
        What is mixed, and at which level.
    wordings : Wordings or str or Path, optional
        Further captions per label, or their CSV file; embedded by the preparation.
    augment : Augmentation, optional
        Of the train split.
    validation_snr_db : float, default 0.0
        Of the fixed mixtures.
    validation_seed : int, default 0
        Fixes them.
    seed : int
        Of the training mixtures and their order.
    num_workers : int, default 0
        Processes that make mixtures.
    pin_memory : bool, default False
        Copy batches through pinned memory, for a GPU.
    **draws
        ``blend``, ``loop``, ``absent``, ``alone``, ``crowd``, ``ask_both`` and ``balanced`` as for
        :class:`MixtureDataset`; of the train split.

    Attributes
    ----------
    prepared : PreparedSounds
        The folder.
    texts : TextTable
        Its embedded captions; ``texts.null`` is the context of text dropout.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 4,
        *,
        window_seconds: float = 10.24,
        rules: MixtureRules | None = None,
        wordings: Wordings | str | Path | None = None,
        augment: Augmentation | None = None,
        validation_snr_db: float = 0.0,
        validation_seed: int = 0,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        **draws: Any,
    ) -> None:
        rules = rules or MixtureRules()
        if isinstance(wordings, str | Path):
            wordings = Wordings.read(wordings)
        self.prepared = PreparedSounds(folder)
        self.texts = self.prepared.texts
        dataset = MixtureDataset(
            self.prepared.clips("train"),
            self.texts,
            window_seconds,
            rules=rules,
            wordings=wordings,
            augment=augment,
            seed=seed,
            **draws,
        )
        held_out = None
        if len(self.prepared.rows("valid")):
            fixed = MixtureRules((validation_snr_db, validation_snr_db), rules.ambiguous)
            held_out = HeldOut(
                MixtureDataset(
                    self.prepared.clips("valid"),
                    self.texts,
                    window_seconds,
                    rules=fixed,
                    loop=0.0,
                    seed=validation_seed,
                ),
                batch_size,
            )
        super().__init__(
            dataset,
            drawn(len(dataset), batch_size, seed),
            held_out,
            num_workers=num_workers,
            pin_memory=pin_memory,
        )


class WaveformData(FlowData):
    """Single clips of the train split, and those of the valid split.

    Parameters
    ----------
    folder, batch_size, window_seconds, **loader
        As for :class:`SeparationData`; captions need not be embedded.
    augment, loop, quietest_db
        As for :class:`WaveformDataset`; of the train split.
    seed : int
        Of the crops and their order.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 4,
        *,
        window_seconds: float = 10.24,
        augment: Augmentation | None = None,
        loop: float = 0.25,
        quietest_db: float = 0.0,
        seed: int = 0,
        **loader: Any,
    ) -> None:
        self.prepared = PreparedSounds(folder)
        dataset = WaveformDataset(
            self.prepared.clips("train"),
            window_seconds,
            augment=augment,
            loop=loop,
            quietest_db=quietest_db,
            seed=seed,
        )
        held_out = None
        if len(self.prepared.rows("valid")):
            clips = WaveformDataset(self.prepared.clips("valid"), window_seconds, loop=0.0)
            held_out = HeldOut(clips, batch_size)
        super().__init__(dataset, drawn(len(dataset), batch_size, seed), held_out, **loader)
