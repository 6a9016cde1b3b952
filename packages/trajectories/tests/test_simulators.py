"""Conservation laws and repeatability of the simulators."""

import numpy as np
import pytest
from rectiflow_trajectories.simulators import STEP, Charged, Gravity, Springs, energy

SYSTEMS = pytest.mark.parametrize(
    ("system", "drift"), [(Charged(), 1e-3), (Springs(), 1e-4), (Gravity(), 1e-2)],
    ids=["charged", "springs", "gravity"],
)  # fmt: skip


def far_apart(system, seed=5):
    """Return the start of a run without close encounters."""
    x, v, charges, edges = system.start(np.random.default_rng(seed))
    return (3 * x if isinstance(system, Charged) else x)[None], v[None], charges, edges[None]


@SYSTEMS
def test_energy_and_momentum(system, drift):
    x, v, _, edges = far_apart(system)
    loc, vel = system.run(x, v, edges, 2000, 100)
    # Velocities lie half a step beside places where the integrator kicks once.
    half = 0 if isinstance(system, Gravity) else STEP / 2
    frames = zip(loc[0], vel[0], strict=True)
    found = np.array([energy(system, p[None] - half * w, w[None], edges)[0] for p, w in frames])
    kinetic = 0.5 * (vel[0] ** 2).sum((-1, -2)).mean()
    assert np.ptp(found) < drift * max(abs(found[0]), kinetic)
    momentum = vel[0].sum(-2)
    assert np.abs(momentum - momentum[0]).max() < 1e-12


def test_gravity_can_be_run_back():
    system = Gravity()
    x, v, _, edges = far_apart(system)
    loc, vel = system.run(x, v, edges, 1001, 1000)
    back, _ = system.run(loc[:, -1], -vel[:, -1], edges, 1001, 1000)
    np.testing.assert_allclose(back[:, -1], x, atol=1e-10)


@SYSTEMS
def test_a_run_is_the_same_in_any_company(system, drift):
    told = {"seed": 3, "steps": 400, "every": 100}
    both, one = system.simulate([4, 9], **told), system.simulate([9], **told)
    for many, single in zip(vars(both).values(), vars(one).values(), strict=True):
        np.testing.assert_array_equal(many[1:], single)
    assert both.loc.shape[1] == (4 if isinstance(system, Gravity) else 3)
    assert not np.array_equal(both.loc[0], both.loc[1])
    assert np.allclose(both.edges, both.edges.swapaxes(1, 2))
