"""Trains the next rectified flow on the pairs of the last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from rectiflow.couplings import Annealed, Coupling, Paired
from rectiflow.flow import Flow
from rectiflow.training.ema import DecayProfile
from rectiflow.training.objective import FlowObjective
from rectiflow.training.stream import shuffled

if TYPE_CHECKING:
    from rectiflow.training.data import FlowData
    from rectiflow.training.flow_training import FlowTraining


def reflow(
    teacher: nn.Module,
    flow: Flow,
    pairs: Any,
    *,
    batch_size: int,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
    ema: Sequence[float | DecayProfile] = (0.999,),
    grad_clip: float | None = None,
    seed: int = 0,
    coupling: Coupling | None = None,
    student: nn.Module | None = None,
    validation: Any = None,
    **loader: Any,
) -> tuple[FlowTraining, FlowData]:
    """Assemble the training of a rectified flow on stored pairs; run it with ``fit``.

    The student is a copy of the teacher and starts from its weights, or a network of another size
    from scratch; the teacher is left as it is.

    Parameters
    ----------
    teacher : nn.Module
        Network of the flow that made the pairs.
    flow : Flow
        The teacher's flow; its coupling is replaced.
    pairs : Dataset
        Records with ``x0`` and ``x1``: a :class:`~rectiflow.rectify.pairs.PairDataset`, or a
        :class:`~rectiflow.rectify.mixing.Mixed` one.
    batch_size, optimizer, scheduler, ema, grad_clip, seed
        As for :class:`~rectiflow.training.flow_training.FlowTraining`.
    coupling : Coupling, default :class:`~rectiflow.couplings.Paired`
        Or :class:`~rectiflow.couplings.Annealed`, for students from scratch (SlimFlow).
    student : nn.Module, optional
        What is trained instead of a copy of the teacher.
    validation : iterable of batches, optional
        Held-out pairs.
    **loader
        Passed to the training ``DataLoader``.

    Returns
    -------
    FlowTraining, FlowData
        ``training.network`` is the student.

    Raises
    ------
    TypeError
        When the coupling would draw fresh noise.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023), algorithm 1.
    """
    from rectiflow.training.data import FlowData
    from rectiflow.training.flow_training import FlowTraining

    used = coupling if coupling is not None else Paired()
    if not isinstance(used, Paired | Annealed):
        raise TypeError(
            f"reflow needs a coupling that keeps stored pairs, got {type(used).__name__}; "
            "expected Paired or Annealed."
        )
    student = copy.deepcopy(teacher) if student is None else student
    student = student.requires_grad_(True).train()
    objective = FlowObjective(student, replace(flow, coupling=used))
    training = FlowTraining(
        objective, optimizer, scheduler=scheduler, ema=ema, grad_clip=grad_clip, seed=seed
    )
    batches = shuffled(len(pairs), batch_size, seed)
    return training, FlowData(pairs, batches, validation, **loader)
