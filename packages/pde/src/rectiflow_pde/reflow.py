"""Rectification of simulation: pairs of noise and the latents it flows to, with their condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rectiflow.fields import VelocityField
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.rectify import Pair
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing
from torch import Tensor

from rectiflow_pde.data.rasters import still
from rectiflow_pde.flow import guided_field
from rectiflow_pde.networks.simulator import beside
from rectiflow_pde.sampling import latents, noise_of

if TYPE_CHECKING:
    from rectiflow_pde.pipeline import SimulationPipeline


class Examples(Protocol):
    """Flows by number and draw: :class:`~rectiflow_pde.data.rasters.RasteredFlows`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: tuple[int, int], /) -> Mapping[str, Tensor]: ...


def pair_sampler(
    pipe: SimulationPipeline,
    examples: Examples,
    *,
    steps: int,
    seed: int,
    solver: Solver | None = None,
    grid: Spacing | None = None,
    guidance: float = 1.0,
    real: bool = False,
) -> Callable[[list[int]], list[Pair]]:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to make pairs.

    Candidate i is told numbers and first frame of flow ``i % n`` in its draw ``i // n``; every
    fourth is told no frame, as in training. What the teacher was told is stored with the pair.

    Parameters
    ----------
    pipe : SimulationPipeline
        The teacher.
    examples : Examples
    steps : int
        Of the solver.
    seed : int
        With the number of a candidate, fixes its noise.
    solver : Solver, optional
        Euler's method if absent.
    grid : Spacing, optional
        Where its steps lie; equal ones if absent.
    guidance : float
        Goes into the pair: the student needs none.
    real : bool
        Take the true latents, and the noise that the teacher maps to them.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023); Lee et al., "Improving the Training of
    Rectified Flows" (NeurIPS 2024), section 4.3, for true latents.
    """
    moves = plan((grid or uniform)(steps), solver or Euler())

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        truth, cond = _encoded(pipe, examples, indices)
        if real:
            x1 = truth
            x0 = integrate(guided_field(pipe.network, cond, 1.0), x1, reverse(moves))
        else:
            x0 = noise_of(pipe, indices, seed)
            x1 = integrate(guided_field(pipe.network, cond, guidance), x0, moves)
        told = [{name: value[row].cpu() for name, value in cond.items()} for row in range(len(x0))]
        return [
            Pair(index=i, x0=x0[row].cpu(), x1=x1[row].cpu(), cond=told[row])
            for row, i in enumerate(indices)
        ]

    return sample


def diffusion_pair_sampler(
    pipe: SimulationPipeline, examples: Examples, *, steps: int, seed: int
) -> Callable[[list[int]], list[Pair]]:
    """Return what makes pairs of the noise and the scaled latents of the authors' diffusion.

    Candidate i is told the first frame of flow ``i % n`` in its draw ``i // n``. The student keeps
    the form of the teacher: see :class:`~rectiflow_pde.latent_objective.DiffusionObjective`.

    Parameters
    ----------
    pipe : SimulationPipeline
        The teacher, with its conditioner.
    examples : FlowWindows
    steps : int
        Of DDIM.
    seed : int
        With the number of a candidate, fixes its noise.

    References
    ----------
    Wang et al., "Rectified Diffusion" (ICLR 2025), algorithm 1.
    """

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        x0, pairs = noise_of(pipe, indices, seed), []
        for row, i in enumerate(indices):  # each flow has a mesh of its own
            example = examples[i % len(examples), i // len(examples)]
            cloud = pipe.conditioner.place(example["points"]).to(pipe.device)
            context = pipe.conditioner(example["fields"][:, 0].to(pipe.device), cloud)
            told = {"context": context}
            x1 = latents(pipe, told, [i], steps=steps, seed=seed)[0] * pipe.codec.scale
            pairs.append(Pair(i, x0[row].cpu(), x1.cpu(), {"context": context[0].cpu()}))
        return pairs

    return sample


@torch.no_grad()
def started(
    pipe: SimulationPipeline,
    examples: Examples,
    indices: Sequence[int],
    *,
    seed: int,
    guidance: float,
) -> tuple[VelocityField, Tensor]:
    """Return field and noise of some candidates; arguments as for the sampler."""
    _, cond = _encoded(pipe, examples, indices)
    return guided_field(pipe.network, cond, guidance), noise_of(pipe, indices, seed)


def _encoded(
    pipe: SimulationPipeline, examples: Examples, indices: Sequence[int]
) -> tuple[Tensor, dict[str, Any]]:
    items = [examples[i % len(examples), i // len(examples)] for i in indices]
    flow = torch.stack([item["flow"] for item in items]).to(pipe.device)
    numbers = torch.stack([item["numbers"] for item in items]).to(pipe.device)
    given = torch.tensor([i % 4 != 3 for i in indices])
    cond = {"numbers": numbers, "beside": beside(pipe.codec.encode(still(flow)), given)}
    return pipe.codec.encode(flow), cond
