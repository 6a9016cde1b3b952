"""AirPhyNet's right-hand side as published, from the golden files: supports, output, gradients."""

import sys
from pathlib import Path

import pytest
import torch
from rectiflow_pde.networks.air import PublishedAir, support

sys.path.insert(0, str(Path(__file__).parent))
from text2pde_golden import cases, load


@pytest.mark.parametrize("case", cases("airphynet_"))
def test_published_right_hand_side(case):
    c, adjacency, wind = case.config, case.given("adj"), case.given("wind")
    supports = len(wind) if "adv" in c["filter_type"] else 0
    network = PublishedAir(c["num_nodes"], c["latent_dim"], c["num_units"], supports, c["coeff"])
    load(network, case)
    case.assert_near("support_diff0", support(adjacency).float())
    for i, found in enumerate(network.wind_support(wind) if supports else ()):
        case.assert_near(f"support_adv{i}", found)
    found = network(case.given("y"), adjacency, wind)
    case.assert_near("out", found)
    case.assert_gradients({"out": found}, dict(network.named_parameters()))


def test_samples_of_a_batch_leak_into_each_other_as_published():
    torch.manual_seed(0)
    network = PublishedAir(4, 2, 8, wind_supports=2)
    y, adjacency, wind = torch.randn(2, 8), torch.rand(4, 4), torch.randn(2, 4, 2)
    other = wind.clone()
    other[1] = torch.randn(4, 2)
    first = [network(y, adjacency, each)[0] for each in (wind, other)]
    assert not torch.allclose(*first)
