"""Learning-rate schedules, as partials for :class:`FlowTraining`'s ``scheduler``."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def piecewise_linear(optimizer: Optimizer, points: Sequence[Sequence[float]]) -> LambdaLR:
    """Scale the learning rate by straight lines between points.

    Warm-up, plateau, fall and restarts are lists of points; two points at one step are a jump.
    After the last point its factor holds.

    Parameters
    ----------
    optimizer : Optimizer
        Its learning rates have the factor 1.
    points : sequence of (step, factor)
        At least one; steps do not decrease, factors are not negative.

    Raises
    ------
    ValueError
        When the points are out of order.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule = piecewise_linear(optimizer, [(0, 0.0), (2, 1.0), (4, 1.0), (6, 0.0)])
    >>> rates = []
    >>> for _ in range(7):
    ...     rates.append(optimizer.param_groups[0]["lr"])
    ...     optimizer.step()
    ...     schedule.step()
    >>> rates
    [0.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    steps = [float(step) for step, _ in points]
    factors = [float(factor) for _, factor in points]
    if not steps or steps != sorted(steps) or min(factors) < 0:
        raise ValueError(
            f"schedule points must be in the order of their steps, got {list(points)}; expected "
            "[step, factor] pairs with factors of at least 0."
        )

    def factor(step: int) -> float:
        after = bisect_right(steps, step)
        if after in (0, len(steps)):
            return factors[min(after, len(steps) - 1)]
        before = after - 1
        part = (step - steps[before]) / (steps[after] - steps[before])
        return factors[before] + part * (factors[after] - factors[before])

    return LambdaLR(optimizer, factor)
