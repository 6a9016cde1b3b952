"""Sources and couplings: their laws, their densities, and who is paired with whom."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.couplings import (
    Annealed,
    CosineAnnealing,
    Coupling,
    ExponentialAnnealing,
    GeodesicCost,
    Independent,
    LinearAnnealing,
    MinibatchOT,
    Paired,
    SquaredDistance,
)
from rectiflow.sources import Empirical, Mixture, Normal, Prior
from rectiflow.spaces import Euclidean, Product, Rotations
from rectiflow.states import State
from torch.testing import assert_close

GOLDEN = np.load(Path(__file__).resolve().parents[2] / "tests" / "golden" / "core_analytic.npz")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def golden(key: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[key])


# ---------------------------------------------------------------- sources


def test_normal_has_its_moments_and_its_density() -> None:
    mean, scale = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    source = Normal(mean, scale)
    x = source.sample((50_000, 2), generator=generator(), dtype=torch.float64)
    assert_close(x.mean(0), mean.double(), atol=0.06, rtol=0)
    assert_close(x.std(0), scale.double(), rtol=0.02, atol=0)
    exact = torch.distributions.Normal(mean.double(), scale.double()).log_prob(x).sum(1)
    assert_close(source.log_prob(x), exact)
    z = x[:9].requires_grad_()
    (score,) = torch.autograd.grad(source.log_prob(z).sum(), z)
    assert_close(source.score(z), score)
    assert_close(source.at_score(score), z)


def test_density_sums_over_any_event_shape() -> None:
    x = torch.randn(3, 2, 4, 5, generator=generator())
    assert_close(Normal().log_prob(x), Normal().log_prob(x.flatten(1)))
    assert Normal().log_prob(x).shape == (3,)


def test_mixture_has_its_weights_and_its_density() -> None:
    source = Mixture([Normal(-4.0, 0.5), Normal(4.0, 1.0)], [1.0, 3.0])
    x = source.sample((20_000, 1), generator=generator(), dtype=torch.float64)
    assert (x < 0).double().mean().item() == pytest.approx(0.25, abs=0.01)
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None]
    assert torch.trapezoid(source.log_prob(grid).exp(), grid[:, 0]).item() == pytest.approx(1.0)


def test_mixture_draws_whole_points_from_one_component() -> None:
    x = Mixture([Normal(-9.0, 0.1), Normal(9.0, 0.1)]).sample((64, 3, 2), generator=generator())
    signs = x.sign().flatten(1)
    assert (signs == signs[:, :1]).all()
    assert 16 < (signs[:, 0] > 0).sum() < 48


def test_empirical_source_returns_points_of_the_set_and_keeps_parts_together() -> None:
    points = {"a": torch.arange(10.0)[:, None], "b": torch.arange(10)[:, None].double()}
    like = {"a": torch.zeros(200, 1), "b": torch.zeros(200, 1)}
    x = Empirical(points).sample_like(like, generator=generator())
    assert_close(x["a"], x["b"])
    assert x["b"].dtype == torch.float32
    assert set(x["a"].flatten().tolist()) == set(map(float, range(10)))
    flat = Empirical(points["a"]).sample((5, 1), generator=generator())
    assert flat.shape == (5, 1)


def test_prior_fits_points_of_every_space() -> None:
    x1 = {"trans": torch.zeros(4, 7, 3), "rot": torch.zeros(4, 7, 4).double()}
    x0 = Prior(Product({"trans": Euclidean(), "rot": Rotations()})).sample_like(
        x1, generator=generator()
    )
    assert x0["trans"].shape == (4, 7, 3)
    assert x0["rot"].shape == (4, 7, 4)
    assert x0["rot"].dtype == torch.float64
    assert_close(x0["rot"].norm(dim=-1), torch.ones(4, 7).double())
    assert Prior(Rotations()).sample((5, 4), generator=generator()).shape == (5, 4)


def test_draws_are_reproducible_and_use_no_global_state() -> None:
    sources = [Normal(), Mixture([Normal(), Normal(3.0)]), Empirical(torch.randn(9, 2))]
    sources += [Prior(Euclidean())]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for source in sources:
        a = source.sample((6, 2), generator=generator(5))
        assert torch.equal(a, source.sample((6, 2), generator=generator(5)))
        assert not torch.equal(a, source.sample((6, 2), generator=generator(6)))
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_sources() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        Normal(scale=0.0)
    with pytest.raises(ValueError, match="one positive weight per component, got 1 comp"):
        Mixture([Normal()], [0.5, 0.5])
    with pytest.raises(ValueError, match="one positive weight per component, got 0"):
        Mixture([])
    with pytest.raises(TypeError, match=r"a mixture has a density if its parts do, got Prior"):
        Mixture([Prior(Euclidean())]).log_prob(torch.zeros(1, 1))
    with pytest.raises(ValueError, match=r"one number of points in all parts, got \[2, 3\]"):
        Empirical({"a": torch.zeros(2), "b": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"event shape \(3,\) does not match the data set, got"):
        Empirical(torch.zeros(2, 4)).sample((5, 3))


@pytest.mark.parametrize(
    "source", [Normal(), Normal((1.0, -2.0), 0.5), Mixture([Normal(), Normal(3.0)], [1.0, 3.0])]
)
def test_sources_are_values(source) -> None:
    again = eval(repr(source))
    assert again == source
    assert hash(again) == hash(source)
    assert Normal(torch.tensor([1.0, -2.0]), 0.5) == Normal([1, -2], 0.5)


# ---------------------------------------------------------------- couplings


@dataclasses.dataclass(frozen=True)
class Around(Coupling):
    """Noise around the data."""

    width: float

    def fresh(self, x1, source, mask, generator):
        z = source.sample_like(x1, generator=generator)
        return torch.where(mask[..., None], x1 + self.width * z, 0.0)


def test_noise_may_depend_on_the_data_and_its_mask() -> None:
    x1, mask = torch.full((5000, 2, 3), 7.0), torch.tensor([True, False]).expand(5000, 2)
    x0 = Around(0.1).draw(x1, Normal(), mask=mask, generator=generator())
    assert x0[:, 0].mean().item() == pytest.approx(7.0, abs=0.01)
    assert x0[:, 0].std().item() == pytest.approx(0.1, abs=0.01)
    assert (x0[:, 1] == 0).all()


@pytest.mark.parametrize("coupling", [
    Independent(), Paired(), MinibatchOT(), Annealed(LinearAnnealing(10)), Around(2.0),
])  # fmt: skip
def test_couplings_are_values(coupling) -> None:
    again = eval(repr(coupling))
    assert again == coupling
    assert hash(again) == hash(coupling)
    assert coupling.in_loader == isinstance(coupling, MinibatchOT)


def test_noise_that_comes_with_the_data_is_paired_already() -> None:
    x1, x0 = torch.randn(8, 2), torch.randn(8, 2)
    for coupling in (Independent(), Paired(), MinibatchOT()):
        assert coupling.draw(x1, Normal(), x0=x0) is x0


def test_independent_noise_is_fresh_or_the_callers() -> None:
    x1, x0 = torch.zeros(4, 2), torch.ones(4, 2)
    assert Independent().draw(x1, Normal(), x0=x0) is x0
    drawn = Independent().draw(x1, Normal(), generator=generator())
    assert_close(drawn, torch.randn(4, 2, generator=generator()))


def test_golden_assignment() -> None:
    x0, x1, perm = golden("ot/x0"), golden("ot/x1"), golden("ot/perm")
    paired = MinibatchOT().assign(x0, x1)
    assert torch.equal(paired[perm], x0)  # x1[perm[i]] is what x0[i] goes to
    cost = (paired - x1).square().sum(1).mean()
    assert_close(cost, golden("ot/cost_mean"), rtol=1e-12, atol=0)


def test_assignment_is_the_best_of_all_permutations() -> None:
    x0 = torch.randn(6, 3, generator=generator()).double()
    x1 = torch.randn(6, 3, generator=generator(1)).double()
    cost = SquaredDistance()(x0, x1)
    assert_close(cost[2, 4], (x0[2] - x1[4]).square().sum())
    best = min(
        sum(cost[order[j], j].item() for j in range(6))
        for order in itertools.permutations(range(6))
    )
    paired = MinibatchOT().assign(x0, x1)
    assert (paired - x1).square().sum().item() == pytest.approx(best)


def test_assignment_only_permutes_the_noise() -> None:
    x1 = torch.randn(32, 2, generator=generator(1))
    kept = x1.clone()
    fresh = torch.randn(32, 2, generator=generator())
    paired = MinibatchOT().draw(x1, Normal(), generator=generator())
    assert torch.equal(x1, kept)
    assert torch.equal(paired.sort(0).values, fresh.sort(0).values)
    assert (
        SquaredDistance()(paired, x1).diag().sum() < 0.8 * SquaredDistance()(fresh, x1).diag().sum()
    )


def test_assignment_on_rotations_uses_the_geodesic() -> None:
    """q and -q are one point: the flat cost sees them far apart, the geodesic one does not."""
    space = Rotations()
    x1 = space.prior((12,), generator=generator(), dtype=torch.float64)
    order = torch.randperm(12, generator=generator(1))
    paired = MinibatchOT(GeodesicCost(space)).assign(-x1[order], x1)
    assert_close(paired, -x1)


def test_assignment_keeps_the_parts_of_a_state_together() -> None:
    x1 = {"a": torch.arange(5.0)[:, None], "b": torch.zeros(5, 1)}
    x0: State = {"a": torch.arange(5.0).flip(0)[:, None], "b": torch.arange(5.0).flip(0)[:, None]}
    paired = MinibatchOT().assign(x0, x1)
    assert torch.equal(paired["a"], x1["a"])
    assert torch.equal(paired["b"], x1["a"])


def test_bad_costs() -> None:
    x = torch.zeros(3, 2)
    with pytest.raises(ValueError, match=r"finite matrix of shape \(3, 3\), got shape \(3,\)"):
        MinibatchOT(lambda a, b: torch.zeros(3)).assign(x, x)
    with pytest.raises(ValueError, match="with finite=False"):
        MinibatchOT().assign(x * torch.nan, x)


@pytest.mark.parametrize("coupling", [Paired(), Annealed(LinearAnnealing(10))])
def test_stored_pairs_never_draw_fresh_noise_instead(coupling) -> None:
    with pytest.raises(ValueError, match="needs the stored noise of each sample, got x0=None"):
        coupling.draw(torch.zeros(2, 2), Normal())
    x0 = torch.randn(2, 2)
    assert torch.equal(coupling.at(10).draw(torch.zeros(2, 2), Normal(), x0=x0), x0)


@pytest.mark.parametrize(("key", "schedule"), [
    ("linear", LinearAnnealing), ("cos", CosineAnnealing), ("exp", ExponentialAnnealing),
])  # fmt: skip
def test_golden_annealing(key: str, schedule) -> None:
    beta = schedule(300_000)
    found = [beta(int(step)) for step in GOLDEN["slimflow/step"]]
    np.testing.assert_allclose(found, GOLDEN[f"slimflow/beta_{key}"], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.7, 1.0])
def test_annealed_noise_keeps_its_law(beta: float) -> None:
    """Acceptance 15: unit variance at every beta, correlation sqrt(1 - beta²) with the pair."""
    x0 = Normal(2.0, 3.0).sample((100_000, 1), generator=generator(), dtype=torch.float64)
    coupling = Annealed(lambda step: beta)
    out = coupling.draw(x0, Normal(2.0, 3.0), x0=x0, generator=generator(1))
    assert_close(out.mean(), torch.tensor(2.0).double(), atol=0.05, rtol=0)
    assert_close(out.std(), torch.tensor(3.0).double(), atol=0.03, rtol=0)
    correlation = torch.corrcoef(torch.cat([x0, out], 1).T)[0, 1].item()
    assert correlation == pytest.approx(math.sqrt(1 - beta**2), abs=0.02)
    if beta == 0:
        assert torch.equal(out, x0)


def test_annealing_is_at_the_step_it_is_given_and_holds_no_state() -> None:
    coupling = Annealed(LinearAnnealing(4))
    x0 = torch.zeros(20_000, 1)
    spread = [
        coupling.at(step).draw(x0, Normal(), x0=x0, generator=generator()).std().item()
        for step in (0, 2, 4, 9)
    ]
    assert spread == pytest.approx([1.0, 0.5, 0.0, 0.0], abs=0.01)
    assert coupling.step == 0
    assert Independent().at(7) == Independent()


def test_bad_annealing() -> None:
    x = torch.zeros(2, 2)
    with pytest.raises(ValueError, match="normal source, got Prior"):
        Annealed(LinearAnnealing(5)).draw(x, Prior(Euclidean()), x0=x)
    with pytest.raises(ValueError, match=r"\[0, 1\], got 1.5 at step 3"):
        Annealed(lambda step: 1.5, step=3).draw(x, Normal(), x0=x)
    for schedule in (LinearAnnealing, CosineAnnealing, ExponentialAnnealing):
        with pytest.raises(ValueError, match="at least one warm-up step, got 0"):
            schedule(0)
