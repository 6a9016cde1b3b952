"""How likely trajectories are under the authors' diffusion: the variational bound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from rectiflow.randomness import counter_generator
from torch import Tensor

from rectiflow_trajectories.data.prepared import padded
from rectiflow_trajectories.diffusion import Diffusion
from rectiflow_trajectories.networks.graph import Graph
from rectiflow_trajectories.sampling import Key, told_of

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline


@torch.no_grad()
def likelihood_bound(
    pipe: TrajectoryPipeline,
    records: Sequence[dict[str, Tensor]],
    keys: Sequence[Key],
    *,
    seed: int = 0,
) -> Tensor:
    """Return the bound on the negative log-likelihood of each graph's frames, in nats.

    In lengths of the network's scale; of whole trajectories it is that of their shape, without the
    place of their mean. It takes a call of the network for each step of the diffusion.

    Parameters
    ----------
    pipe : TrajectoryPipeline
        With weights of a diffusion.
    records : sequence of dict
        As in prepared folders, whole.
    keys : sequence of (int, int)
        Of each record; with the seed they fix the noise.

    Raises
    ------
    ValueError
        When the weights are of a straight flow.
    """
    network, settings = pipe.network, pipe.settings
    if not settings.diffusion:
        raise ValueError(
            "the weights are of a straight flow; expected those of a diffusion, which has a bound."
        )
    diffusion, given = Diffusion(settings.diffusion, rescale=settings.rescale), network.given
    told = told_of(pipe, records)
    graph, real = Graph.of(told), told["real"]
    nodes, seen = told["nodes"][real], told["given"][real] if given else None
    reference = told["reference"][real] if given else 0.0

    def centred(x: Tensor) -> Tensor:
        return x if given else x - graph.mean(x)

    def noise_of(y: Tensor, step: Tensor) -> Tensor:
        return centred(network.moved(centred(y) + reference, step, nodes, graph, seen)[0])

    whole = torch.stack([padded(each, real.shape[1])["positions"] for each in records])
    frames = whole.to(pipe.device)[real][:, given:] / settings.scale
    generators = [counter_generator("bound", seed, *key) for key in keys]
    counts = real.sum(1).tolist()

    def noises() -> Iterator[Tensor]:
        shape = frames.shape[1:]
        for _ in range(diffusion.steps):
            pairs = zip(generators, counts, strict=True)
            drawn = [torch.randn(count, *shape, generator=each) for each, count in pairs]
            yield centred(torch.cat(drawn).to(frames))

    sizes = torch.bincount(graph.batch)[graph.batch]
    lost = 0.0 if given else frames.shape[-1] / sizes
    found = diffusion.bound(noise_of, centred(frames - reference), noises(), lost=lost)
    return torch.zeros(graph.graphs, device=pipe.device).index_add(0, graph.batch, found.total)
