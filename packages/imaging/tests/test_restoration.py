"""Metrics against closed forms and scikit-image; what restorers do with exact networks."""

import math

import numpy as np
import pytest
import torch
from rectiflow.grids import uniform
from rectiflow.integrate import plan
from rectiflow.inverse import restore
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import Euler
from rectiflow_imaging import rddm
from rectiflow_imaging.metrics import dice, energy_distance, psnr, ssim, stack_variation
from rectiflow_imaging.networks import MeanFlowNetwork, ResidualNetwork
from rectiflow_imaging.objective import MeanFlowObjective, ResidualObjective


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_metrics():
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = x + 0.1 * randn(3, 16, 16)
    assert psnr(x + 0.1, x) == pytest.approx(20)
    assert psnr(x, x) == math.inf
    assert ssim(x, x) == pytest.approx(1)
    metrics = pytest.importorskip("skimage.metrics")
    told = {"data_range": 1.0, "win_size": 7}
    wanted = [
        metrics.structural_similarity(a.numpy(), b.numpy(), **told)
        for a, b in zip(x, y, strict=True)
    ]
    assert ssim(y, x) == pytest.approx(np.mean(wanted), rel=1e-6)
    a, b = torch.tensor([1, 1, 0, 0]), torch.tensor([1, 0, 1, 0])
    assert (dice(a, b), dice(a, a), dice(a * 0, a * 0)) == (0.5, 1.0, 1.0)
    assert stack_variation(torch.arange(4.0)[:, None, None].expand(4, 8, 8)) == 1
    assert stack_variation(x[:1]) == 0
    assert energy_distance(randn(300, 4), randn(300, 4, seed=1)) < 0.05
    assert energy_distance(randn(300, 4), 1.5 * randn(300, 4, seed=1)) > 0.1


OBJECTIVES = [rddm.ResidualNoise(), rddm.ResidualAlone(), rddm.NoiseAlone(), rddm.DataNoise()]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize(("count", "eta"), [(1, 0.0), (7, 0.0), (100, 0.0), (100, 1.0)])
def test_exact_networks_restore_exactly(objective, count, eta):
    """A network that knows the data, whatever it is made to say of it, finds the data."""
    model = rddm.ResidualDiffusion(objective, steps=100)
    if count == 1 and isinstance(objective, rddm.NoiseAlone):
        pytest.skip("all of the residual is in the first point, which noise says nothing of")
    data, degraded = 0.9 * torch.tanh(randn(2, 1, 8, 8)), torch.tanh(randn(2, 1, 8, 8, seed=1))
    residual = degraded - data
    shares, levels = (
        torch.tensor(c[::-1]).double() for c in (model.clocks.shares, model.clocks.levels)
    )

    def network(seen, k):
        x = seen[:, :1]
        a, b = shares[k].reshape(-1, 1, 1, 1), levels[k].reshape(-1, 1, 1, 1)
        return objective.targets(rddm.Parts(residual, (x - data - a * residual) / b, data))

    found = model.sample(
        network, degraded, randn(2, 1, 8, 8, seed=2), count=count, eta=eta,
        noise=KeyedNoise(0, range(2)),
    )  # fmt: skip
    # Residuals are clipped to [-1, 1] as the authors have it.
    inside = residual.abs() < 1
    assert (found - data)[inside].abs().max() < 1e-3


def test_the_flow_from_the_mean_trades_error_for_looks():
    """Its error is between the mean's and a posterior sample's, its distribution the data's."""
    c, noise, sigma = 1.0, 0.7, 0.1
    x = randn(400, 16)
    y = x + noise * randn(400, 16, seed=1)
    share = c / (c + noise**2)
    mean, best = share * y, share * c

    def velocity(z, t):  # of jointly normal estimate and data, for each pixel
        top = t * (c - best) - (1 - t) * sigma**2
        spread = (1 - t) ** 2 * (best + sigma**2) + t**2 * c + 2 * t * (1 - t) * best
        return z * top / spread

    generator = torch.Generator().manual_seed(2)
    moves = plan(uniform(25), Euler())
    found = restore(velocity, mean, moves, sigma=sigma, generator=generator)
    sampled = mean + (c - best) ** 0.5 * randn(400, 16, seed=3)
    errors = [(z - x).square().mean() for z in (mean, found, sampled)]
    assert errors[0] < 0.95 * errors[1] < 0.8 * errors[2]
    other = randn(400, 16, seed=4)
    assert energy_distance(found, other) < 0.2 * energy_distance(mean, other)


@pytest.mark.parametrize(
    ("network", "objective", "share"),
    [(MeanFlowNetwork, MeanFlowObjective, 0.6), (ResidualNetwork, ResidualObjective, 0.85)],
)
def test_restorers_learn_one_image(network, objective, share):
    torch.manual_seed(0)
    restorer = network(blur=0.6, noise=1.0, side=16, width=16, multipliers=(1, 2))
    learn, generator = objective(restorer), torch.Generator().manual_seed(0)
    image = torch.zeros(4, 1, 16, 16) - 1
    image[:, :, 4:12, 5:9] = 1
    optimizer = torch.optim.Adam(restorer.parameters(), 3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = learn({"x1": image}, generator)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < share * np.mean(losses[:5])
    assert all(p.grad is not None for p in restorer.parameters())
