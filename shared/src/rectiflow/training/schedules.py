"""Learning-rate schedules, as partials for :class:`FlowTraining`'s ``scheduler``."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def trapezoid(optimizer: Optimizer, *, warm_up: int, hold_until: int, decay: int) -> LambdaLR:
    """Rise linearly, hold, and fall linearly to zero.

    Parameters
    ----------
    optimizer : Optimizer
        Its learning rates are the plateau.
    warm_up : int
        Steps of the rise, from a hundredth of the plateau.
    hold_until : int
        Step where the fall begins. A run whose length is not known beforehand holds until it is.
    decay : int
        Steps of the fall.

    Raises
    ------
    ValueError
        When the phases overlap or the fall has no steps.

    Examples
    --------
    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    >>> schedule = trapezoid(optimizer, warm_up=2, hold_until=4, decay=2)
    >>> rates = []
    >>> for _ in range(7):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
    ...     optimizer.step()
    ...     schedule.step()
    >>> rates
    [0.01, 0.505, 1.0, 1.0, 1.0, 0.5, 0.0]
    """
    if not 0 <= warm_up <= hold_until or decay < 1:
        raise ValueError(
            f"phases must follow one another, got warm_up={warm_up}, hold_until={hold_until}, "
            f"decay={decay}; expected 0 <= warm_up <= hold_until and decay >= 1."
        )

    def factor(step: int) -> float:
        rise = 1.0 if step >= warm_up else 0.01 + 0.99 * step / warm_up
        return rise * min(1.0, max(0.0, (hold_until + decay - step) / decay))

    return LambdaLR(optimizer, factor)
