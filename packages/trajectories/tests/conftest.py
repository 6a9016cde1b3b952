"""Trajectories that tests of this package share."""

import numpy as np
import pytest
from rectiflow_trajectories.trajectory import Trajectory


@pytest.fixture
def walk():
    """Return a trajectory of a few nodes that go straight on."""

    def make(frames=12, nodes=3, dimensions=3, **told):
        rng = np.random.default_rng(0)
        start, speed = rng.standard_normal((2, nodes, dimensions))
        return Trajectory(start + 0.1 * np.arange(frames)[:, None, None] * speed, **told)

    return make
