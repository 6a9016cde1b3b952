"""How priors and DRDM are trained: what the generic commands read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.training.recipe import Recipe

from rectiflow_imaging.networks import RecoveryNetwork
from rectiflow_imaging.pipeline import DeformationPipeline, ImagePipeline

if TYPE_CHECKING:
    from rectiflow.training import FlowData, FlowTraining
    from rectiflow.training.recipe import Build, Config


class ImagingRecipe(Recipe):
    """Trains priors of slices, and DRDM in two or three dimensions."""

    shown = ("train/loss", "val/loss", "train/misfit")

    def export(
        self,
        cfg: Config,
        training: FlowTraining,
        data: FlowData,
        folder: Path,
        card: Mapping[str, Any],
        build: Build,
    ) -> None:
        """Write the network as the pipeline of its kind."""
        network: Any = training.network
        kind = DeformationPipeline if isinstance(network, RecoveryNetwork) else ImagePipeline
        kind(network).save_pretrained(folder, **card)

    def numbers(self, path: Path) -> np.ndarray:
        """Return the values of an image."""
        from rectiflow_imaging.io import read_volume

        return read_volume(path).values

    def next_step(self, cfg: Config, training: FlowTraining, folder: str) -> str:
        """Return the command that uses the network of this stage."""
        if isinstance(training.network, RecoveryNetwork):
            return f"rectiflow imaging deform IMAGE --weights {folder} -o deformed"
        return f"rectiflow imaging reconstruct IMAGE --weights {folder} -o reconstructed"


RECIPE = ImagingRecipe("imaging", ImagePipeline)
"""What the verbs ``train`` and ``reflow`` read."""
