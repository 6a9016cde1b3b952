"""PDE-Refiner from the golden files: network, schedule, targets, chain, gradients."""

import sys
from pathlib import Path

import pytest
import torch
from rectiflow_pde.networks.circle import CircleUnet
from rectiflow_pde.refinement import Refinement

sys.path.insert(0, str(Path(__file__).parent))
from text2pde_golden import cases, load


@pytest.mark.parametrize("case", cases("pderefiner_"))
def test_pde_refiner(case):
    c = case.config
    way = Refinement(c["K"], c["min_noise_std"])
    network = load(CircleUnet.from_official(c["unet"]), case)
    given = {name: case.given(name) for name in ("x", "z", "noises", "y", "noise")}
    u, numbers, y, noise = (given[k] for k in ("x", "z", "y", "noise"))
    u, y, noise = (each.flatten(1, 2) for each in (u, y, noise))
    assert torch.allclose(way.betas, case.tensors["out/betas"], rtol=1e-12)
    case.assert_near("alphas_cumprod", way.kept.float())

    draws = iter(given["noises"].flatten(2, 3))
    with torch.no_grad():
        chain, said = way.chain(network, u, numbers, lambda: next(draws))
    case.assert_near("preds", torch.stack(said)[:, :, None])
    case.assert_near("chain", torch.stack(chain)[:, :, None])

    levels = [torch.full((len(y),), level) for level in range(way.calls)]
    noised = [way.noised(y, noise, level) for level in levels]
    case.assert_near("y_noised", torch.stack([seen for seen, _ in noised])[:, :, None])
    case.assert_near("target", torch.stack([target for _, target in noised])[:, :, None])

    times = torch.full((len(u),), way.clock(1))
    found = network(torch.cat([u, noised[1][0]], 1), times, numbers)[:, None]
    case.assert_near("train_pred", found)
    case.assert_gradients({"train_pred": found}, dict(network.named_parameters()))
