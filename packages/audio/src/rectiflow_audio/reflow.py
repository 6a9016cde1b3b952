"""Rectification of separation: pairs of noise and the latents it flows to, with their condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rectiflow.fields import VelocityField
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.randomness import counter_generator
from rectiflow.rectify import Pair, sample_generator
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing
from torch import Tensor

from rectiflow_audio.flow import condition, guided_field, whole_frames
from rectiflow_audio.frontend import LogMel

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline


class Examples(Protocol):
    """Mixtures by number: a :class:`~rectiflow_audio.data.dataset.MixtureDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: tuple[int, int], /) -> Mapping[str, Any]: ...


def pair_sampler(
    pipe: SeparationPipeline,
    examples: Examples,
    *,
    steps: int,
    seed: int,
    solver: Solver | None = None,
    grid: Spacing = uniform,
    guidance: float | None = None,
) -> Callable[[list[int]], list[Pair]]:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to make pairs.

    Candidate i is mixture ``i % n`` in its draw ``i // n``. The student is trained under the very
    condition the teacher sampled with, so latents of the mixture and states of the query are
    stored with the pair. Guidance goes into the pair: the student needs none.

    Parameters
    ----------
    pipe : SeparationPipeline
        The teacher, in its dtype.
    examples : Examples
        Mixtures with their queries.
    steps : int
        Steps of the solver.
    seed : int
        With the number of a candidate, fixes its noise.
    solver : Solver, optional
        Euler's method if absent.
    grid : Spacing, default uniform
        Where its steps lie.
    guidance : float, optional
        Its weight; the checkpoint's own if absent.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023), with conditions as in InstaFlow (ICLR 2024).
    """
    moves = plan(grid(steps), Euler() if solver is None else solver)
    weight = pipe.settings.guidance if guidance is None else guidance

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        with _autocast(pipe):
            field, x0, cond = started(pipe, examples, indices, seed=seed, guidance=weight)
            x1 = integrate(field, x0, moves)
        return _pairs(indices, x0, x1, cond)

    return sample


@torch.no_grad()
def started(
    pipe: SeparationPipeline,
    examples: Examples,
    indices: Sequence[int],
    *,
    seed: int,
    guidance: float,
) -> tuple[VelocityField, Tensor, dict[str, Tensor]]:
    """Return field, noise and condition of some candidates; arguments as for the sampler."""
    _, cond, null = _encoded(pipe, examples, indices, seed)
    shape = cond["mixture"].shape[1:]
    noise = [torch.randn(shape, generator=sample_generator(seed, i)) for i in indices]
    x0 = pipe.unet.start(torch.stack(noise).to(pipe.device), cond)
    return guided_field(pipe.unet, cond, null, guidance), x0, cond


def inverted_pair_sampler(
    pipe: SeparationPipeline, examples: Examples, *, steps: int, seed: int
) -> Callable[[list[int]], list[Pair]]:
    """Return what makes pairs of true targets, each with the noise that the teacher maps to it.

    Mixed into generated pairs they hold reflow to the data. Inversion takes no guidance, which
    has no inverse.

    Parameters
    ----------
    pipe, examples, steps, seed
        As for :func:`pair_sampler`.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.3.
    """
    moves = reverse(plan(uniform(steps), Euler()))

    @torch.no_grad()
    def sample(indices: list[int]) -> list[Pair]:
        with _autocast(pipe):
            x1, cond, null = _encoded(pipe, examples, indices, seed)
            x0 = integrate(guided_field(pipe.unet, cond, null, 1.0), x1, moves)
        return _pairs(indices, x0, x1, cond)

    return sample


def _autocast(pipe: SeparationPipeline) -> torch.autocast:
    enabled = pipe.dtype != torch.float32
    return torch.autocast(pipe.device.type, pipe.dtype if enabled else None, enabled=enabled)


def _encoded(
    pipe: SeparationPipeline, examples: Examples, indices: Sequence[int], seed: int
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Encode the mixtures of some candidates: target latents, condition, condition of no query."""
    items = [examples[i % len(examples), i // len(examples)] for i in indices]
    names = ("target", "mixture", "context", "context_mask", "null_context")
    batch = {name: torch.stack([item[name] for item in items]).to(pipe.device) for name in names}
    waves = torch.cat([batch["target"], batch["mixture"]])
    mels = whole_frames(LogMel().to(pipe.device)(waves)[:, None])
    posterior = pipe.vae.encode(mels)
    latents = posterior.mean.float()
    if pipe.settings.posterior_sample:
        # The same sample whatever the batch: noise by candidate, not by position.
        shape = latents.shape[1:]
        draws = [
            torch.randn(shape, generator=counter_generator("posterior", seed, i)) for i in indices
        ]
        latents = latents + posterior.std.float() * torch.stack([*draws, *draws]).to(latents)
    latents = latents * pipe.vae.scale_factor
    mixtures, mask = latents[len(items) :], batch["context_mask"]
    cond = condition(mixtures, batch["context"], mask)
    null = condition(
        mixtures, batch["null_context"], mask.new_ones(batch["null_context"].shape[:2])
    )
    return latents[: len(items)], cond, null


def _pairs(indices: list[int], x0: Tensor, x1: Tensor, cond: dict[str, Tensor]) -> list[Pair]:
    return [
        Pair(
            index=index,
            x0=x0[row].cpu(),
            x1=x1[row].cpu(),
            cond={name: value[row].cpu() for name, value in cond.items()},
        )
        for row, index in enumerate(indices)
    ]
