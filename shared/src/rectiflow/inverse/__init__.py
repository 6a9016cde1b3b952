"""Inverse problems with a flow as the prior: operators, measurements and ways to solve them."""

from rectiflow.inverse.boundary import Start, select_start
from rectiflow.inverse.consistency import (
    Constrained,
    DataConsistency,
    Projection,
    Recording,
    Replacement,
    hooks,
    noised,
)
from rectiflow.inverse.mean_reverting import MRS, MeanReverting, around
from rectiflow.inverse.measurement import (
    Clipped,
    Energy,
    Gaussian,
    Laplace,
    Measurement,
    NoiseModel,
    Poisson,
)
from rectiflow.inverse.methods import (
    METHODS,
    AlongStack,
    Cyclic,
    FlowChef,
    Method,
    Posterior,
    Projected,
    RedDiff,
    Replaced,
    Solved,
    compare_methods,
)
from rectiflow.inverse.operators import (
    STFT,
    Blur,
    Downsample,
    Linear,
    LinearOperator,
    Mask,
    Matrix,
    check_adjoint,
    conjugate_gradients,
)
from rectiflow.inverse.pmrf import AroundEstimate, restore
from rectiflow.inverse.posterior import posterior_field
from rectiflow.inverse.rddm import Clocks, of_velocity, two_clocks
from rectiflow.inverse.red_diff import Adam, Plain, red_diff
from rectiflow.inverse.sensing import projection, sensors
from rectiflow.inverse.total_variation import TotalVariation

__all__ = [
    "METHODS",
    "MRS",
    "STFT",
    "Adam",
    "AlongStack",
    "AroundEstimate",
    "Blur",
    "Clipped",
    "Clocks",
    "Constrained",
    "Cyclic",
    "DataConsistency",
    "Downsample",
    "Energy",
    "FlowChef",
    "Gaussian",
    "Laplace",
    "Linear",
    "LinearOperator",
    "Mask",
    "Matrix",
    "MeanReverting",
    "Measurement",
    "Method",
    "NoiseModel",
    "Plain",
    "Poisson",
    "Posterior",
    "Projected",
    "Projection",
    "Recording",
    "RedDiff",
    "Replaced",
    "Replacement",
    "Solved",
    "Start",
    "TotalVariation",
    "around",
    "check_adjoint",
    "compare_methods",
    "conjugate_gradients",
    "hooks",
    "noised",
    "of_velocity",
    "posterior_field",
    "projection",
    "red_diff",
    "restore",
    "select_start",
    "sensors",
    "two_clocks",
]
