"""Exponential moving averages of a network's parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from rectiflow.training.sharding import copy_into, laid_out, part_of, whole_of

DecayProfile: TypeAlias = Callable[[int], float]
"""Decay of the n-th update, n = 1, 2, ...; ``average <- decay average + (1 - decay) value``."""


@dataclass(frozen=True)
class ConstantDecay:
    """The same decay at every update.

    The average starts at the initial parameters, which weigh ``decay**n`` after n updates.
    """

    decay: float

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def __call__(self, n: int) -> float:
        """Return ``decay``."""
        return self.decay

    def __str__(self) -> str:
        return f"constant {self.decay:g}"


@dataclass(frozen=True)
class WarmUpDecay:
    """Decay ``min(decay, (1 + n) / (10 + n))``, so that early averages forget the start.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023), official training code; n counts from 1.
    """

    decay: float

    def __post_init__(self) -> None:
        _check_decay(self.decay)

    def __call__(self, n: int) -> float:
        """Return the decay of update ``n``."""
        return min(self.decay, (1 + n) / (10 + n))

    def __str__(self) -> str:
        return f"{self.decay:g}"


@dataclass(frozen=True)
class PowerDecay:
    r"""Power-function average: the weight of step s after n updates grows as ``s**gamma``.

    The decay of update n is ``(1 - 1/n)**(gamma + 1)``. The profile's standard deviation is
    ``sigma_rel`` times n, which fixes gamma by

    .. math:: \sigma_{rel}^2 = \frac{\gamma + 1}{(\gamma + 2)^2 (\gamma + 3)}.

    Parameters
    ----------
    sigma_rel : float
        Relative width in (0, 0.288); 0.05 to 0.10 is usual.

    References
    ----------
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models"
    (CVPR 2024), section 3.1.
    """

    sigma_rel: float

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_rel < 12**-0.5:
            raise ValueError(
                f"sigma_rel must lie in (0, 0.288), got {self.sigma_rel}; 0.288 would weigh all "
                "steps alike. Usual values are 0.05 to 0.10."
            )

    @property
    def gamma(self) -> float:
        """Return the exponent of the profile."""
        inverse = self.sigma_rel**-2
        roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
        return float(roots.real.max())

    def __call__(self, n: int) -> float:
        """Return the decay of update ``n``."""
        return (1.0 - 1.0 / n) ** (self.gamma + 1.0)

    def __str__(self) -> str:
        return f"power {self.sigma_rel:g}"


def _check_decay(decay: float) -> None:
    if not 0.0 <= decay < 1.0:
        raise ValueError(
            f"decay must lie in [0, 1), got {decay}; it is the weight of the old average, "
            "for example 0.999."
        )


def as_profile(profile: float | DecayProfile) -> DecayProfile:
    """Return a profile; a plain number means :class:`WarmUpDecay`."""
    return profile if callable(profile) else WarmUpDecay(float(profile))


class Ema:
    """A moving average of a module's parameters, kept in float32 beside it.

    Buffers are not averaged: whoever loads the average keeps the module's own.

    Parameters
    ----------
    module : nn.Module
        Its parameters are the first value of the average.
    profile : float or callable
        A decay (with warm-up), or a :data:`DecayProfile`.

    Examples
    --------
    >>> network = torch.nn.Linear(2, 2)
    >>> ema = Ema(network, 0.999)
    >>> ema.update(network)
    >>> with ema.averaged(network):
    ...     y = network(torch.zeros(1, 2))
    """

    def __init__(self, module: nn.Module, profile: float | DecayProfile) -> None:
        self.profile = as_profile(profile)
        self.updates = 0
        self.average = {
            name: value.detach().to(torch.float32, copy=True)
            for name, value in module.named_parameters()
        }

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards the module's present parameters."""
        self.updates += 1
        weight = 1.0 - self.profile(self.updates)
        current = dict(module.named_parameters())
        averages = [part_of(self.average[name]) for name in current]
        values = [part_of(value.detach()).float() for value in current.values()]
        torch._foreach_lerp_(averages, values, weight)

    def copy_to(self, module: nn.Module) -> None:
        """Overwrite the module's parameters with the average."""
        for name, value in module.named_parameters():
            copy_into(value, self.average[name])

    @contextmanager
    def averaged(self, module: nn.Module) -> Iterator[nn.Module]:
        """Give the module the averaged parameters inside the block, its own after it."""
        own = {name: value.detach().clone() for name, value in module.named_parameters()}
        self.copy_to(module)
        try:
            yield module
        finally:
            for name, value in module.named_parameters():
                copy_into(value, own[name])

    def follow(self, module: nn.Module) -> None:
        """Bring the average to where the module's parameters are, shared out as they are."""
        for name, value in module.named_parameters():
            self.average[name] = laid_out(self.average[name].to(value.device), value)

    def whole(self) -> dict[str, Tensor]:
        """Return the averages whole; where they are shared out, all processes take part."""
        return {name: whole_of(value) for name, value in self.average.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the profile's name, the number of updates and the averages, whole."""
        return {"profile": str(self.profile), "updates": self.updates, "average": self.whole()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved average.

        Raises
        ------
        ValueError
            When the saved average is of another profile or of another network.
        """
        if state["profile"] != str(self.profile):
            raise ValueError(
                f"saved average has profile {state['profile']!r}, got {str(self.profile)!r} now; "
                "expected the same ema setting as in the run that is resumed."
            )
        saved: Mapping[str, Tensor] = state["average"]
        if saved.keys() != self.average.keys():
            differing = sorted(saved.keys() ^ self.average.keys())
            raise ValueError(
                f"saved average does not fit the network, {len(differing)} names differ: "
                f"{differing[:5]}; expected the network of the run that is resumed."
            )
        self.updates = int(state["updates"])
        for name, value in saved.items():
            copy_into(self.average[name], value)
