"""Rectification as a pipeline: generate pairs, filter, mix, retrain, distil.

:mod:`rectiflow.rectify.pair_data`, which feeds a training, needs Lightning.
"""

from rectiflow.rectify.distill import FlowGuidedDistillation, OneStepDistillation
from rectiflow.rectify.generate import Verdict, generate_pairs, sample_generator
from rectiflow.rectify.mixing import Mixed
from rectiflow.rectify.pairs import Pair, PairDataset, PairStore
from rectiflow.rectify.reflow import reflow

__all__ = [
    "FlowGuidedDistillation",
    "Mixed",
    "OneStepDistillation",
    "Pair",
    "PairDataset",
    "PairStore",
    "Verdict",
    "generate_pairs",
    "reflow",
    "sample_generator",
]
