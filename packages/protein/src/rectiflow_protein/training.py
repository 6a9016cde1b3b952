"""How the network is trained: what the generic commands read, and keys that users bring along."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.training.recipe import Recipe

from rectiflow_protein.pipeline import BackbonePipeline

if TYPE_CHECKING:
    from rectiflow.training.recipe import Built, Config

EDGE_DTYPES = ("float32", "bfloat16")

DEAD = (
    "batch_ot",
    "sample_temp",
    "rog",
    "do_sde",
    "timestep_int",
    "max_num_res",
    "relpos_k",
    "single_bias_transition_n",
)
"""Keys that no line of the authors' code reads; so are those that begin with ``vpsde``."""

OURS = {
    "experiment.optimizer": "optimizer.lr, optimizer.weight_decay",
    "experiment.trainer": "trainer.max_steps, trainer.accumulate, trainer=gpu4",
    "experiment.num_devices": "trainer.devices",
    "experiment.seed": "seed",
    "experiment.warm_start": "network=pretrained weights=CHECKPOINT",
    "experiment.training": "training.objective.loss.*",
    "data.dataset": "data.min_length and data.max_length; other filters are flags of prepare",
    "data.sampler": "data.module.batching.*",
    "data.loader": "data.module.num_workers",
    "model": "network.sizes.*",
    "interpolant.sampling": "validation.steps, and sample --steps",
    "interpolant.rots": "training.objective.flow.*, and sample --rotation, --rate",
    "interpolant": "training.objective.*, and flags of sample",
    "inference": "a flag of sample",
}
"""Groups of the authors' configuration, and what they are here; the longest match counts."""


class BackboneRecipe(Recipe):
    """Trains a ReQFlow network on chains, or on pairs."""

    keys = ("edge_dtype",)
    shown = ("train/loss", "val/loss", "val/ca_ca_valid", "val/helix", "val/strand")

    def refuse(self, words: Iterable[str]) -> None:
        """Refuse overrides that belong to the authors' code, saying what to do instead."""
        for word in words:
            key, equals, _ = word.partition("=")
            key = key.lstrip("+~")
            if not equals or key.startswith("-"):
                continue
            name = key.rpartition(".")[2]
            if name in DEAD or name.startswith("vpsde"):
                raise ValueError(
                    f"{key!r} does nothing: the authors' configuration has it, but no line of "
                    "their code reads it. Leave it out."
                )
            group = next((k for k in OURS if key.startswith(f"{k}.") or key == k), None)
            if group is not None:
                raise ValueError(f"{key!r} is a key of the authors' code; here: {OURS[group]}.")

    def check(self, cfg: Config) -> None:
        """Refuse what the edges cannot be updated in."""
        if cfg.edge_dtype not in EDGE_DTYPES:
            raise ValueError(
                f"unknown edge_dtype {cfg.edge_dtype!r}; known: {', '.join(EDGE_DTYPES)}."
            )

    def set_up(self, built: Built) -> None:
        """Set what the network updates its edges in."""
        network: Any = built.training.network
        network.edge_dtype = getattr(torch, built.cfg.edge_dtype)

    def numbers(self, path: Path) -> np.ndarray:
        """Return the coordinates of a structure, Å."""
        from rectiflow_protein.io import read_structure

        return read_structure(path).coords

    def told(self, cfg: Config) -> dict[str, Any]:
        """Return the type of the edges."""
        return {"edge_dtype": cfg.edge_dtype}


RECIPE = BackboneRecipe(
    "protein", BackbonePipeline, "sample --weights {folder} --length 80 -o samples"
)
