"""Muon: steps of orthogonal matrices inside of a network, and those of AdamW for all else."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from jaxtyping import Float

_POLYNOMIAL = (3.4445, -4.7750, 2.0315)
"""Of a singular value, its third and its fifth power: pulls all towards 1 in few sweeps."""

_LIKE_ADAM = 0.2
"""Root mean square of a step of AdamW at a rate of 1."""


class Muon(Optimizer):
    """Orthogonalised momentum for matrices, AdamW for biases, norms, convolutions and thin maps.

    All directions that a matrix can move in then count alike, where Adam's steps lie in few. Each
    step has the size that AdamW's has, so that one learning rate serves both kinds and recipes for
    AdamW need no other.

    ``torch.optim.Muon`` takes matrices alone and multiplies them in bfloat16, which processors
    without such arithmetic do several times slower; here that is done on GPUs only.

    Parameters
    ----------
    params : iterable of Parameter
    lr : float
    momentum : float
        Of the gradients of matrices.
    betas : (float, float)
        Of AdamW's two means.
    eps : float
        Of AdamW.
    weight_decay : float
        Share of a parameter that a step at rate 1 takes away.
    smallest : int
        A matrix with fewer rows or columns is AdamW's: it maps from or to the outside.
    sweeps : int
        Of the iteration that orthogonalises.

    Raises
    ------
    ValueError
        If a number is out of range, or parameters are shared out among processes.

    References
    ----------
    Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); Liu et al.,
    "Muon is Scalable for LLM Training" (arXiv 2502.16982), section 2.2, for the size of a step.

    Examples
    --------
    >>> network = torch.nn.Linear(64, 64)
    >>> optimizer = Muon(network.parameters(), lr=1e-3)
    >>> [len(group["params"]) for group in optimizer.param_groups]
    [1, 1]
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        smallest: int = 64,
        sweeps: int = 5,
    ) -> None:
        if lr < 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ValueError(
                f"lr and weight_decay must not be negative and momentum lie in [0, 1), got {lr}, "
                f"{weight_decay} and {momentum}."
            )
        if smallest < 1 or sweeps < 1:
            raise ValueError(f"smallest and sweeps must be at least 1, got {smallest}, {sweeps}.")
        kinds: dict[bool, list[Tensor]] = {True: [], False: []}
        for parameter in params:
            if isinstance(parameter, DTensor):
                raise ValueError(
                    "Muon orthogonalises whole matrices, but these are shared out among processes; "
                    "expected optimizer=adamw with strategy=fsdp."
                )
            kinds[parameter.ndim == 2 and min(parameter.shape) >= smallest].append(parameter)
        groups = [{"params": found, "orthogonal": kind} for kind, found in kinds.items() if found]
        defaults = {"lr": lr, "momentum": momentum, "betas": tuple(betas), "eps": eps}
        super().__init__(groups, defaults | {"weight_decay": weight_decay, "sweeps": sweeps})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step; return what ``closure`` returns, which is called first."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            move = self._turn if group["orthogonal"] else self._adapt
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    move(parameter, group)
        return loss

    def _turn(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient, momentum = self.state[parameter], parameter.grad, group["momentum"]
        assert gradient is not None
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        mean.lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(mean, momentum)  # Nesterov
        size = _LIKE_ADAM * math.sqrt(max(parameter.shape))
        parameter.sub_(orthogonal(ahead, group["sweeps"]), alpha=group["lr"] * size)

    def _adapt(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state, gradient, (first, second) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if not state:
            state |= {"step": torch.zeros(()), "mean": torch.zeros_like(parameter)}
            state["square"] = torch.zeros_like(parameter)
        state["step"] += 1
        count = float(state["step"])
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (state["square"] / (1 - second**count)).sqrt_().add_(group["eps"])
        parameter.addcdiv_(state["mean"], spread, value=-group["lr"] / (1 - first**count))


def orthogonal(matrix: Float[Tensor, "m n"], sweeps: int = 5) -> Float[Tensor, "m n"]:
    """Return about ``U V'`` of a matrix ``U S V'``: singular values from 0.7 to 1.2."""
    dtype = torch.bfloat16 if matrix.is_cuda else matrix.dtype
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if is_tall else matrix).to(dtype)
    x = x / (x.norm() + 1e-12)
    a, b, c = _POLYNOMIAL
    for _ in range(sweeps):
        square = x @ x.T
        x = a * x + torch.addmm(square, square, square, beta=b, alpha=c) @ x
    return (x.T if is_tall else x).to(matrix.dtype)
