"""How priors, DRDM and restorers are trained: what the generic commands read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.pipeline import Pipeline
from rectiflow.training.recipe import Recipe

from rectiflow_imaging.networks import MeanFlowNetwork, RecoveryNetwork, ResidualNetwork
from rectiflow_imaging.pipeline import DeformationPipeline, ImagePipeline
from rectiflow_imaging.restoration import RestorationPipeline

if TYPE_CHECKING:
    from rectiflow.training.recipe import Built, Save


class ImagingRecipe(Recipe):
    """Trains priors of slices, DRDM in two or three dimensions, and restorers."""

    shown = ("train/loss", "val/loss", "train/misfit")

    def export(self, built: Built, save: Save) -> None:
        """Save the network as the pipeline of its kind."""
        save(pipeline_of(built.training.network))

    def numbers(self, path: Path) -> np.ndarray:
        """Return the values of an image."""
        from rectiflow_imaging.io import read_volume

        return read_volume(path).values

    def next_step(self, built: Built, folder: str) -> str:
        """Return the command that uses the network of this stage."""
        network = built.training.network
        if isinstance(network, RecoveryNetwork):
            return f"rectiflow imaging deform IMAGE --weights {folder} -o deformed"
        if isinstance(network, MeanFlowNetwork | ResidualNetwork):
            return f"rectiflow imaging restore IMAGE --weights {folder} -o restored"
        return f"rectiflow imaging reconstruct IMAGE --weights {folder} -o reconstructed"


def pipeline_of(network: Any) -> Pipeline:
    """Return the pipeline of a network by its class."""
    if isinstance(network, RecoveryNetwork):
        return DeformationPipeline(network)
    if isinstance(network, MeanFlowNetwork | ResidualNetwork):
        return RestorationPipeline(network)
    return ImagePipeline(network)


RECIPE = ImagingRecipe("imaging", ImagePipeline)
"""What the verbs ``train`` and ``reflow`` read."""
