"""Rectification of separation: pairs of noise and the latents it flows to, with their condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from rectiflow.fields import bind
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.rectify import Pair
from rectiflow.rectify.generate import sample_generator
from rectiflow.solvers import Euler, Solver
from torch import Tensor

from rectiflow_audio.objective import SeparationObjective

if TYPE_CHECKING:
    from rectiflow_audio.networks.unet import SeparationUNet


class Examples(Protocol):
    """Mixtures by number: a :class:`~rectiflow_audio.data.dataset.MixtureDataset`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: tuple[int, int], /) -> Mapping[str, Any]: ...


def pair_sampler(
    objective: SeparationObjective,
    examples: Examples,
    *,
    steps: int,
    seed: int,
    solver: Solver | None = None,
) -> Callable[[list[int]], list[Pair]]:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to make pairs.

    Candidate i is mixture ``i % n`` in its draw ``i // n``. The student is trained under the very
    condition the teacher sampled with, so latents of the mixture and states of the query are
    stored with the pair.

    Parameters
    ----------
    objective : SeparationObjective
        Holds the teacher as ``network``, and says how mixtures are encoded.
    examples : Examples
        Mixtures with their queries.
    steps : int
        Steps of the solver.
    seed : int
        With the number of a candidate, fixes its noise.
    solver : Solver, optional
        Euler's method if absent.

    References
    ----------
    Liu et al., "Flow Straight and Fast" (ICLR 2023), with conditions as in InstaFlow (ICLR 2024).
    """
    moves = plan(uniform(steps), Euler() if solver is None else solver)

    def sample(indices: list[int]) -> list[Pair]:
        _, cond, device = _encoded(objective, examples, indices, seed)
        shape = cond["mixture"].shape[1:]
        noise = [torch.randn(shape, generator=sample_generator(seed, i)) for i in indices]
        x0 = objective.network.start(torch.stack(noise).to(device), cond)
        x1 = integrate(_field(objective.network, cond), x0, moves)
        return _pairs(indices, x0, x1, cond)

    return sample


def inverted_pair_sampler(
    objective: SeparationObjective, examples: Examples, *, steps: int, seed: int
) -> Callable[[list[int]], list[Pair]]:
    """Return what makes pairs of true targets, each with the noise that the teacher maps to it.

    Mixed into generated pairs they hold reflow to the data.

    Parameters
    ----------
    objective, examples, steps, seed
        As for :func:`pair_sampler`.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.3.
    """
    moves = reverse(plan(uniform(steps), Euler()))

    def sample(indices: list[int]) -> list[Pair]:
        x1, cond, _ = _encoded(objective, examples, indices, seed)
        x0 = integrate(_field(objective.network, cond), x1, moves)
        return _pairs(indices, x0, x1, cond)

    return sample


def _field(network: SeparationUNet, cond: dict[str, Tensor]) -> Any:
    network.eval()
    return bind(network, cond)


@torch.no_grad()
def _encoded(
    objective: SeparationObjective, examples: Examples, indices: Sequence[int], seed: int
) -> tuple[Tensor, dict[str, Tensor], torch.device]:
    """Encode the mixtures of some candidates: target latents, condition, device."""
    device = next(objective.network.parameters()).device
    items = [examples[i % len(examples), i // len(examples)] for i in indices]
    names = ("target", "mixture", "context", "context_mask")
    batch = {name: torch.stack([item[name] for item in items]).to(device) for name in names}
    waves = torch.cat([batch["target"], batch["mixture"]])
    latents = objective.vae.to_latent(objective.spectrogram(waves))
    if objective.posterior_sample:
        # The same sample whatever the batch: noise by candidate, not by position.
        std = objective.vae.encode(objective.spectrogram(waves)).std * objective.vae.scale_factor
        draws = [_posterior_noise(latents.shape[1:], seed, i) for i in indices]
        latents = latents + std * torch.stack([*draws, *draws]).to(device)
    cond = {
        "mixture": latents[len(items) :],
        "context": batch["context"],
        "context_mask": batch["context_mask"],
    }
    return latents[: len(items)], cond, device


def _posterior_noise(shape: Sequence[int], seed: int, index: int) -> Tensor:
    from rectiflow.randomness import counter_generator

    return torch.randn(*shape, generator=counter_generator("posterior", seed, index))


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
