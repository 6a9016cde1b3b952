"""What a training looks at now and then: a few generated backbones."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.figures import save_figure
from torch import Tensor, nn

from rectiflow_protein.metrics import backbone_metrics
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.result import NO_CB, BackboneResult

if TYPE_CHECKING:
    from rectiflow.solvers import Solver

log = logging.getLogger(__name__)

LOGGED = (
    "ca_ca_valid",
    "ca_ca_strict",
    "ca_ca_bonded",
    "clashes",
    "close_contacts",
    "contacts",
    "peptide_valid",
    "ramachandran",
    "radius_of_gyration",
    "helix",
    "strand",
    "coil",
)
"""Metrics that are logged; the authors choose checkpoints by the first and by helix and strand."""

_LARGEST = 900.0  # Å; beyond this the columns of a PDB file end, and no protein reaches


class SampleValidation:
    """Samples backbones from the network in training, measures them and keeps them to look at.

    Goes into ``fit(..., evaluate=SampleValidation(...))``. Every validation starts from the same
    noise, so the pictures of a run can be compared. Structures, a Ramachandran plot, the CA-CA
    distances and a distance map go into ``samples/step_<step>`` of the run folder.

    Parameters
    ----------
    lengths : sequence of int
        Residues of each sample.
    steps : int, default 50
        Network calls per sample.
    seed : int, default 0
        Of the noise.
    solver : Solver, optional
        As for :class:`~rectiflow_protein.pipeline.BackbonePipeline`.
    pictures : bool, default True
        Draw the plots too.
    """

    def __init__(
        self,
        lengths: Sequence[int] = (60, 80, 100, 120),
        *,
        steps: int = 50,
        seed: int = 0,
        solver: Solver | None = None,
        pictures: bool = True,
    ) -> None:
        if not lengths or min(lengths) < 2 or steps < 1:
            raise ValueError(
                f"validation needs lengths of at least 2 and steps of at least 1, got "
                f"{list(lengths)} and {steps}."
            )
        self.lengths, self.steps, self.seed, self.solver = list(lengths), steps, seed, solver
        self.pictures = pictures

    def __call__(self, network: nn.Module, step: int, run_dir: Path) -> dict[str, float]:
        """Return the mean of each metric over the samples, and write the files.

        Samples that left the range of a structure file are counted in ``broken`` and passed over.
        """
        assert isinstance(network, ReQFlowNetwork)
        pipe = BackbonePipeline(network)
        result = pipe(self.lengths, steps=self.steps, seed=self.seed, solver=self.solver)
        whole = [s for s in result.samples if float(np.abs(s.atoms).max()) < _LARGEST]
        found = {"broken": 1 - len(whole) / len(result.samples)}
        if not whole:
            log.warning("step %d: no sample is a structure, nothing is written", step)
            return found
        folder = Path(run_dir) / "samples" / f"step_{step:07d}"
        settings = {**result.settings, "step": step}
        BackboneResult(whole, settings=settings, seconds=result.seconds).save(folder)
        chains = [torch.from_numpy(s.atoms[:, NO_CB]) for s in whole]
        if self.pictures:
            _draw(chains, folder, step)
        metrics = [backbone_metrics(chain) for chain in chains]
        return found | {name: _mean([m[name] for m in metrics]) for name in LOGGED}


def _draw(chains: list[Tensor], folder: Path, step: int) -> None:
    from rectiflow_protein.plots import ca_ca_histogram, distance_matrix, ramachandran

    first = f"CA distances of {len(chains[0])} residues, step {step}"
    save_figure(ramachandran(chains, title=f"Step {step}"), folder / "ramachandran.png")
    save_figure(ca_ca_histogram(chains, title=f"Step {step}"), folder / "ca_ca.png")
    save_figure(distance_matrix(chains[0][:, 1], title=first), folder / "distances.png")


def _mean(values: Sequence[Tensor]) -> float:
    """Mean over the samples where the metric is defined."""
    return float(torch.stack([v.float() for v in values]).nanmean())
