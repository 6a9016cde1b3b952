"""Linear layers with the initialisation that the released networks were trained from.

Biases are zero. Truncated normals are cut at two standard deviations and rescaled to keep the
wanted variance.
"""

from __future__ import annotations

import math

from torch import nn

_TRUNCATED_STD = 0.87962566103423978  # of a unit normal cut at ±2


def default_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """Draw weights from a truncated normal of variance ``1 / fan_in``."""
    return _truncated(fan_in, fan_out, scale=1.0)


def relu_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """Draw weights of variance ``2 / fan_in``, for layers followed by a ReLU."""
    return _truncated(fan_in, fan_out, scale=2.0)


def zero_linear(fan_in: int, fan_out: int) -> nn.Linear:
    """Set all to zero: the last layer of a residual branch, which starts as the identity."""
    linear = nn.Linear(fan_in, fan_out)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _truncated(fan_in: int, fan_out: int, scale: float) -> nn.Linear:
    linear = nn.Linear(fan_in, fan_out)
    std = math.sqrt(scale / fan_in) / _TRUNCATED_STD
    nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(linear.bias)
    return linear
