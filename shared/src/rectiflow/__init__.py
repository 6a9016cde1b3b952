"""Rectified flows over any tensor.

``t = 0`` is noise, ``t = 1`` is data, ``x_t = (1 - t) x0 + t x1`` and ``v = x1 - x0``; sampling
integrates upward.

Examples
--------
>>> import torch
>>> import rectiflow as rf
>>> weights, means = torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]])
>>> target = rf.GaussianMixtureFlow(weights, means, 0.1 * torch.ones(2, 1, 1))
>>> noise = torch.randn(4, 1, generator=torch.Generator().manual_seed(0))
>>> steps = rf.plan(rf.grids.uniform(20), rf.Midpoint())
>>> rf.integrate(target, noise, steps).shape
torch.Size([4, 1])
"""

from rectiflow import grids, solvers
from rectiflow.analytic import FiniteDataFlow, GaussianMixtureFlow
from rectiflow.conversions import reparametrise
from rectiflow.couplings import Annealed, Coupling, Independent, MinibatchOT, Paired
from rectiflow.diagnostics import straightness, transport_cost
from rectiflow.fields import VelocityField, bind, counted
from rectiflow.flow import Flow, LossOutput
from rectiflow.geodesics import Geodesic
from rectiflow.guidance import batched_cfg, cfg, cfg_to_endpoint, guided
from rectiflow.integrate import Moved, integrate, plan, reverse
from rectiflow.interpolants import Interpolant
from rectiflow.likelihood import Exact, Hutchinson, bits_per_dim, log_likelihood
from rectiflow.paths import (
    Affine,
    Linear,
    LinearVP,
    Path,
    Polynomial,
    TargetCFM,
    Trigonometric,
    VariancePreserving,
)
from rectiflow.plans import Plan
from rectiflow.predictions import Data, Noise, Score, Velocity
from rectiflow.premetrics import MeanSquared, Premetric, PseudoHuber
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import *  # noqa: F403
from rectiflow.sources import Mixture, Normal, Source
from rectiflow.spaces import Euclidean, Product, Rotations, Space
from rectiflow.states import State
from rectiflow.steering import Steer
from rectiflow.storage.pretrained import CheckpointError, Pretrained, load_tensors, weights_hash
from rectiflow.time_density import (
    CosMap,
    LogitNormal,
    Mode,
    Shifted,
    TimeDensity,
    Uniform,
    UShaped,
)

__all__ = [
    *solvers.__all__,
    "Affine",
    "Annealed",
    "CheckpointError",
    "CosMap",
    "Coupling",
    "Data",
    "Euclidean",
    "Exact",
    "FiniteDataFlow",
    "Flow",
    "GaussianMixtureFlow",
    "Geodesic",
    "Hutchinson",
    "Independent",
    "Interpolant",
    "KeyedNoise",
    "Linear",
    "LinearVP",
    "LogitNormal",
    "LossOutput",
    "MeanSquared",
    "MinibatchOT",
    "Mixture",
    "Mode",
    "Moved",
    "Noise",
    "Normal",
    "Paired",
    "Path",
    "Plan",
    "Polynomial",
    "Premetric",
    "Pretrained",
    "Product",
    "PseudoHuber",
    "Rotations",
    "Score",
    "Shifted",
    "Source",
    "Space",
    "State",
    "Steer",
    "TargetCFM",
    "TimeDensity",
    "Trigonometric",
    "UShaped",
    "Uniform",
    "VariancePreserving",
    "Velocity",
    "VelocityField",
    "batched_cfg",
    "bind",
    "bits_per_dim",
    "cfg",
    "cfg_to_endpoint",
    "counted",
    "grids",
    "guided",
    "integrate",
    "load_tensors",
    "log_likelihood",
    "plan",
    "reparametrise",
    "reverse",
    "straightness",
    "transport_cost",
    "weights_hash",
]
