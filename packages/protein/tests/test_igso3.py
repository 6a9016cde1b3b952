import math

import numpy as np
import torch
from rectiflow.spaces import rotation_angle
from rectiflow_protein.igso3 import angle_cdf, sample_igso3
from scipy.stats import kstest


def test_sampled_angles_follow_the_table():
    g = torch.Generator().manual_seed(0)
    angle = rotation_angle(sample_igso3((20_000,), 0.7, generator=g)).double().numpy()
    omega, cdf = angle_cdf(0.7)
    assert kstest(angle, lambda x: np.interp(x, omega, cdf, left=0.0)).statistic < 0.012


def test_wide_noise_is_nearly_uniform_and_narrow_noise_is_not():
    omega, cdf = angle_cdf(1.5)
    uniform = (omega - np.sin(omega)) / math.pi
    assert 1e-3 < np.abs(cdf - uniform).max() < 0.2
    omega, cdf = angle_cdf(0.1)
    assert np.interp(0.5, omega, cdf) > 0.99


def test_draws_are_unit_and_repeat_with_the_generator():
    draws = [sample_igso3((50,), 1.5, generator=torch.Generator().manual_seed(3)) for _ in "ab"]
    torch.testing.assert_close(draws[0].norm(dim=-1), torch.ones(50))
    assert torch.equal(*draws)
    other = sample_igso3((50,), 1.5, generator=torch.Generator().manual_seed(4))
    assert not torch.equal(draws[0], other)
