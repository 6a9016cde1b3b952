"""Training: objectives, moving averages, reproducible data order, run folders.

What needs Lightning is imported on first use, so that averages and streams stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rectiflow.training.ema import ConstantDecay, DecayProfile, Ema, PowerDecay, WarmUpDecay
from rectiflow.training.held_out import HeldOut
from rectiflow.training.objective import FlowObjective, Objective
from rectiflow.training.post_hoc import read_snapshots, reconstruct
from rectiflow.training.reading import network_weights, read_checkpoint
from rectiflow.training.recipe import Recipe
from rectiflow.training.run_folder import RunFolder
from rectiflow.training.stream import (
    BatchSource,
    DrawnBatches,
    ShuffledBatches,
    StepStream,
    drawn,
    shuffled,
    step_loader,
)

if TYPE_CHECKING:
    from rectiflow.training.adversarial import AdversarialObjective, AdversarialTraining
    from rectiflow.training.data import FlowData
    from rectiflow.training.fitting import fit
    from rectiflow.training.flow_training import FlowTraining
    from rectiflow.training.metrics_csv import read_metrics
    from rectiflow.training.saving import Checkpoints
    from rectiflow.training.validation import Validation

__all__ = [
    "AdversarialObjective",
    "AdversarialTraining",
    "BatchSource",
    "Checkpoints",
    "ConstantDecay",
    "DecayProfile",
    "DrawnBatches",
    "Ema",
    "FlowData",
    "FlowObjective",
    "FlowTraining",
    "HeldOut",
    "Objective",
    "PowerDecay",
    "Recipe",
    "RunFolder",
    "ShuffledBatches",
    "StepStream",
    "Validation",
    "WarmUpDecay",
    "drawn",
    "fit",
    "network_weights",
    "read_checkpoint",
    "read_metrics",
    "read_snapshots",
    "reconstruct",
    "shuffled",
    "step_loader",
]

_NEEDS_LIGHTNING = {
    "AdversarialObjective": "adversarial",
    "AdversarialTraining": "adversarial",
    "Checkpoints": "saving",
    "FlowData": "data",
    "FlowTraining": "flow_training",
    "Validation": "validation",
    "fit": "fitting",
    "read_metrics": "metrics_csv",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_LIGHTNING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_NEEDS_LIGHTNING[name]}")
    return getattr(module, name)
