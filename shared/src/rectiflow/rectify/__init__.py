"""Rectification as a pipeline: generate pairs, filter, mix, retrain, distil.

:mod:`rectiflow.rectify.pair_data`, which feeds a training, needs Lightning.
"""

from rectiflow.rectify.anchored import Anchored
from rectiflow.rectify.consistency import ConsistencyDistillation, ConsistencyStep
from rectiflow.rectify.denoisers import EdmVelocity, NoiseVelocity
from rectiflow.rectify.distill import FlowGuidedDistillation, OneStepDistillation
from rectiflow.rectify.flow_map import Jump, solver_for, to_map
from rectiflow.rectify.generate import Verdict, drawn_pairs, generate_pairs, sample_generator
from rectiflow.rectify.lora import Adapter, adapted
from rectiflow.rectify.map_losses import (
    Difference,
    FlowMapObjective,
    Forward,
    Halvings,
    Lagrangian,
    MeanFlow,
    Semigroup,
    Spans,
)
from rectiflow.rectify.mixing import Mixed
from rectiflow.rectify.pairs import Pair, PairDataset, PairStore
from rectiflow.rectify.perceptual import Decoded, PerceptualObjective
from rectiflow.rectify.reflow import reflow
from rectiflow.rectify.slim import slim

__all__ = [
    "Adapter",
    "Anchored",
    "ConsistencyDistillation",
    "ConsistencyStep",
    "Decoded",
    "Difference",
    "EdmVelocity",
    "FlowGuidedDistillation",
    "FlowMapObjective",
    "Forward",
    "Halvings",
    "Jump",
    "Lagrangian",
    "MeanFlow",
    "Mixed",
    "NoiseVelocity",
    "OneStepDistillation",
    "Pair",
    "PairDataset",
    "PairStore",
    "PerceptualObjective",
    "Semigroup",
    "Spans",
    "Verdict",
    "adapted",
    "drawn_pairs",
    "generate_pairs",
    "reflow",
    "sample_generator",
    "slim",
    "solver_for",
    "to_map",
]
