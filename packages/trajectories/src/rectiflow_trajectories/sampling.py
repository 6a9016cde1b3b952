"""From records to trajectories: noise, reference, flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.diagnostics import zero_mean_basis
from rectiflow.fields import VelocityField
from rectiflow.flow import Flow
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing
from rectiflow.states import State
from torch import Tensor

from rectiflow_trajectories.data.prepared import padded
from rectiflow_trajectories.diffusion import Diffusion
from rectiflow_trajectories.networks.graph import Told, centred

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

Key = tuple[int, int]
"""Number of a graph, and of a sample of it: with the seed, they fix the noise."""

MOST = 1_000_000
"""Samples of one graph."""


def told_of(
    pipe: TrajectoryPipeline, records: Sequence[dict[str, Tensor]], nodes: int | None = None
) -> Told:
    """Return what the network is told of records, padded alike, in its own lengths.

    Records are as those of prepared folders; frames after the given ones are not read.
    """
    most, given = nodes or max(len(each["positions"]) for each in records), pipe.network.given
    rows = [padded(each, most) for each in records]
    told = {name: torch.stack([row[name] for row in rows]).to(pipe.device) for name in rows[0]}
    positions = told.pop("positions")
    if given:
        told["given"] = positions[:, :, :given] / pipe.settings.scale
        told["reference"] = pipe.network.reference(told)
    return told


def noise_of(pipe: TrajectoryPipeline, told: Told, keys: Sequence[Key], seed: int) -> Tensor:
    """Return the noise of each key, the same in any company; 0 of padding."""
    real = told["real"]
    size = pipe.network.frames, pipe.settings.dimensions
    noise = torch.zeros(*real.shape, *size)
    for row, key in enumerate(keys):
        count = int(real[row].sum())
        drawn = torch.randn(count, *size, generator=counter_generator("future", seed, *key))
        noise[row, :count] = drawn
    noise = noise.to(pipe.device) * pipe.settings.noise
    return noise if pipe.network.given else centred(noise, real)


def field_of(pipe: TrajectoryPipeline, told: Told) -> VelocityField:
    """Return the velocity, of the checkpoint's flow or of its diffusion as a flow."""
    settings, network = pipe.settings, pipe.network
    if settings.diffusion:
        diffusion = Diffusion(settings.diffusion, rescale=settings.rescale)
        return diffusion.velocity(_told_steps(network), told)
    return Flow().velocity(network, told)


def diagnosed_batch(
    pipe: TrajectoryPipeline, records: Sequence[dict[str, Tensor]], count: int, seed: int
) -> tuple[VelocityField, Tensor]:
    """Return a field of one tensor without padding, and its unit noise.

    Graphs take turns of those with as many nodes as the first. What is told no frames flows without
    its mean: its state has coordinates of that space, ``(count, n * t - 1, d)``.
    """
    size = len(records[0]["positions"])
    like = [each for each in records if len(each["positions"]) == size]
    told = told_of(pipe, [like[i % len(like)] for i in range(count)])
    y, velocity = noise_of(pipe, told, [(i, 0) for i in range(count)], seed), field_of(pipe, told)
    noise, shape = pipe.settings.noise, y.shape
    whole = bool(pipe.network.given)
    basis = None if whole else zero_mean_basis(shape[1] * shape[2]).to(y)

    def field(z: State, t: float | Tensor) -> State:
        assert isinstance(z, Tensor)
        y = z if basis is None else (basis @ z).reshape(shape)
        v = velocity(noise * y, t)
        assert isinstance(v, Tensor)
        return v / noise if basis is None else basis.T @ v.flatten(1, 2) / noise

    z0 = y / noise
    return field, z0 if basis is None else basis.T @ z0.flatten(1, 2)


@torch.no_grad()
def flowed(
    pipe: TrajectoryPipeline,
    y: Tensor,
    told: Told,
    keys: Sequence[Key],
    *,
    steps: int,
    seed: int = 0,
    solver: Solver | None = None,
    grid: Spacing | None = None,
) -> Tensor:
    """Return what noise flows to, less the reference."""
    moves = plan((grid or uniform)(steps), solver or Euler())
    numbers = [graph * MOST + sample for graph, sample in keys]
    return integrate(field_of(pipe, told), y, moves, noise=KeyedNoise(seed, numbers))


@torch.no_grad()
def diffused(
    pipe: TrajectoryPipeline, y: Tensor, told: Told, keys: Sequence[Key], *, seed: int = 0
) -> Tensor:
    """Return what noise becomes in the authors' own random steps, less the reference."""
    settings, real = pipe.settings, told["real"]
    if not settings.diffusion:
        raise ValueError("the weights are of a straight flow; leave ancestral steps out.")
    diffusion = Diffusion(settings.diffusion, rescale=settings.rescale)
    generators = [counter_generator("ancestral", seed, *key) for key in keys]
    shape = y.shape[1:]

    def noises() -> Any:
        while True:
            drawn = torch.stack([torch.randn(shape, generator=each) for each in generators])
            yield drawn.to(y) * real[..., None, None]

    network = _told_steps(network=pipe.network)
    project = (lambda y: y) if pipe.network.given else (lambda y: centred(y, real))
    found = diffusion.sample(lambda y, k: network(y, k, told), y, noises(), project=project)
    return project(found)  # whose mean the authors leave random


def _told_steps(network: Any) -> Any:
    """Return a network that is told steps of 1000, not times."""
    return lambda y, k, told: network(y, 1 - k.to(y) / 1000, told)
