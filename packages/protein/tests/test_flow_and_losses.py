import math

import pytest
import torch
from rectiflow.integrate import integrate, plan
from rectiflow.randomness import KeyedNoise
from rectiflow.solvers import Midpoint
from rectiflow.sources import NORMAL
from rectiflow.spaces import Rotations, rotation_angle
from rectiflow_protein.flow import (
    FRAME_PATH,
    AnnealedFrames,
    ClampedExponentialSchedule,
    ExactExponentialSchedule,
    ExponentialSchedule,
    FrameAncestral,
    FrameEuler,
    FrameNoise,
    LinearSchedule,
    backbone_flow,
)
from rectiflow_protein.frames import FRAME_SPACE, backbone_from_frames
from rectiflow_protein.losses import BackboneLoss, ContactDistances, LocalDistances
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.objective import BackboneObjective


def chains(b=3, n=10, seed=0, spread=6.0):
    g = torch.Generator().manual_seed(seed)
    trans = spread * torch.randn(b, n, 3, generator=g)
    return {
        "trans": trans - trans.mean(1, keepdim=True),
        "rot": Rotations().prior((b, n), generator=g),
    }


def ones(b=3, n=10):
    return torch.ones(b, n)


def corrupt(x1, x0, t, real=None, moving=None):
    real, moving = (ones().bool() if mask is None else mask.bool() for mask in (real, moving))
    (point,) = backbone_flow().points(x1, x0=x0, t=t, mask=real, moving=real & moving)
    return point.x


def test_training_noise_has_the_stated_law():
    x1 = chains(b=400, n=16)
    flow = backbone_flow()
    noise = flow.coupling.draw(x1, flow.noise, generator=torch.Generator().manual_seed(1))
    assert noise["trans"].mean(1).abs().max() < 1e-4
    assert noise["trans"].std().item() == pytest.approx(10 * math.sqrt(15 / 16), rel=0.02)
    turn = rotation_angle(
        FRAME_SPACE.parts["rot"].exp(
            torch.tensor([1.0, 0, 0, 0]).expand(400, 16, 4),
            FRAME_SPACE.parts["rot"].log(x1["rot"], noise["rot"]),
        )
    )
    from rectiflow_protein.igso3 import angle_cdf

    omega, cdf = angle_cdf(1.5)
    median = omega[(cdf < 0.5).sum()]
    assert turn.median().item() == pytest.approx(median, abs=0.05)


def test_ends_of_the_path_are_noise_and_data():
    x1, x0 = chains(), chains(seed=1)
    start, end = corrupt(x1, x0, torch.zeros(3)), corrupt(x1, x0, torch.ones(3))
    torch.testing.assert_close(start["trans"], x0["trans"])
    torch.testing.assert_close(end["trans"], x1["trans"], atol=1e-5, rtol=0)
    assert ((end["rot"] * x1["rot"]).sum(-1).abs() > 1 - 1e-5).all()


def test_given_and_padded_residues():
    x1, x0 = chains(), chains(seed=1)
    real, moving = ones(), ones()
    real[:, 8:] = 0
    moving[:, :3] = 0
    x1["trans"][:, 8:], x1["rot"][:, 8:] = 0, torch.tensor([1.0, 0, 0, 0])  # as in a batch
    xt = corrupt(x1, x0, torch.full((3,), 0.4), real, moving)
    assert torch.equal(xt["trans"][:, :3], x1["trans"][:, :3])
    assert torch.equal(xt["rot"][:, :3], x1["rot"][:, :3])
    assert (xt["trans"][:, 8:] == 0).all()
    assert (xt["rot"][:, 8:] == torch.tensor([1.0, 0, 0, 0])).all()


def test_the_velocity_reaches_the_endpoint():
    x, target = chains(), chains(seed=2)
    v = FRAME_PATH.from_data(target, x, 0.25)
    end = FRAME_SPACE.move(x, v, 0.75)
    torch.testing.assert_close(end["trans"], target["trans"], atol=1e-4, rtol=0)
    assert ((end["rot"] * target["rot"]).sum(-1).abs() > 1 - 1e-5).all()


def test_schedules_cover_what_they_say():
    assert LinearSchedule().fraction(0.5, 0.75) == pytest.approx(0.5)
    assert ExponentialSchedule(10).fraction(0.1, 0.3) == pytest.approx(2.0)
    assert ClampedExponentialSchedule(10).fraction(0.1, 0.3) == 1.0
    assert ExactExponentialSchedule(10).fraction(0.1, 0.3) == pytest.approx(1 - math.exp(-2))


def test_exact_schedule_does_not_depend_on_the_steps():
    """With a fixed prediction the exact rule gives one rotation, however finely it is cut."""
    x0, target = chains(), chains(seed=2)

    def end(schedule, steps):
        grid = [0.01 + 0.8 * i / steps for i in range(steps + 1)]
        field = lambda x, t: FRAME_PATH.from_data(target, x, t)  # noqa: E731
        return integrate(field, x0, plan(grid, FrameEuler(schedule)), space=FRAME_SPACE)["rot"]

    exact = ExactExponentialSchedule(5.0)
    torch.testing.assert_close(end(exact, 2), end(exact, 32), atol=1e-4, rtol=0)
    euler = ExponentialSchedule(5.0)
    errors = [(end(euler, n) - end(exact, n)).abs().max() for n in (16, 32, 64)]
    assert errors[0] > 1.8 * errors[1] > 3.2 * errors[2]


@pytest.mark.parametrize("schedule", [LinearSchedule(), ExponentialSchedule(8.0)])
def test_at_temperature_zero_ancestral_sampling_is_the_flow(schedule):
    x0, x1 = chains(seed=1), chains()
    grid = [0.01, 0.1, 0.4, 0.7, 1.0]
    ends = [
        integrate(
            lambda x, t: FRAME_PATH.from_data(x1, x, t),
            x0,
            plan(grid, solver),
            space=FRAME_SPACE,
            noise=KeyedNoise(5, range(3)),
        )
        for solver in (FrameEuler(schedule), FrameAncestral(0.0, schedule))
    ]
    for name in ("trans", "rot"):
        torch.testing.assert_close(*(end[name] for end in ends), atol=2e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.4, 1.0])
def test_fresh_noise_leaves_the_law_of_the_states(temperature):
    # One chain is all there is, so the prediction is exact: x_t = t x1 + (1 - t) noise.
    b, n = 300, 8
    x1 = {name: part.expand(b, *part.shape[1:]) for name, part in chains(b=1, n=n).items()}
    g = torch.Generator().manual_seed(2)
    x0 = {
        "trans": 10 * torch.randn(b, n, 3, generator=g),
        "rot": Rotations().prior((b, n), generator=g),
    }
    solver = FrameAncestral(temperature, LinearSchedule())
    grid = [0.01, 0.1, 0.25, 0.4, 0.6, 0.8]
    end = integrate(
        lambda x, t: FRAME_PATH.from_data(x1, x, t),
        x0,
        plan(grid, solver),
        space=FRAME_SPACE,
        noise=KeyedNoise(5, range(b)),
    )
    left = end["trans"] - 0.8 * x1["trans"]
    assert left.std().item() == pytest.approx(2.0, rel=0.03)
    assert left.mean(0).abs().max() < 0.5
    turn = FRAME_SPACE.parts["rot"].log(end["rot"], x1["rot"])
    assert turn.square().mean().sqrt().item() == pytest.approx(0.2 * 1.3, rel=0.25)
    correlation = (left * x0["trans"]).mean() / (2.0 * 10.0)
    assert correlation < 0.95 if temperature < 1 else correlation < 0.3


def test_temperatures_have_a_range_and_need_noise():
    with pytest.raises(ValueError, match=r"got 1\.5"):
        FrameAncestral(1.5)
    with pytest.raises(ValueError, match="draws noise, got none"):
        integrate(
            lambda x, t: FRAME_PATH.from_data(chains(), x, t),
            chains(seed=1),
            plan([0.1, 0.5], FrameAncestral(0.5)),
            space=FRAME_SPACE,
        )


def test_core_solvers_run_on_frames():
    x0, target = chains(), chains(seed=2)
    moves = plan([0.01, 0.3, 0.6, 0.9], Midpoint())
    end = integrate(lambda x, t: FRAME_PATH.from_data(target, x, t), x0, moves, space=FRAME_SPACE)
    straight = FRAME_SPACE.geodesic(x0, target, (0.9 - 0.01) / 0.99)
    torch.testing.assert_close(end["trans"], straight["trans"], atol=1e-3, rtol=0)


def test_a_perfect_prediction_costs_nothing():
    x1, x0, t = chains(), chains(seed=1), torch.tensor([0.1, 0.5, 0.95])
    xt = corrupt(x1, x0, t)
    perfect = {k: v.clone().requires_grad_() for k, v in x1.items()}
    terms = BackboneLoss()(perfect, x1, xt, t, ones())
    assert terms["loss"].max() < 1e-8
    terms["loss"].sum().backward()
    assert all(torch.isfinite(v.grad).all() for v in perfect.values())


def test_loss_does_not_see_a_global_turn_or_masked_residues():
    from rectiflow.spaces import quat_multiply, quat_to_rotmat

    x1, x0, guess = chains(), chains(seed=1), chains(seed=2)
    t, q = (
        torch.tensor([0.3, 0.6, 0.8]),
        Rotations().prior((1,), generator=torch.Generator().manual_seed(9)),
    )
    xt = corrupt(x1, x0, t)
    mask = ones()
    mask[:, 7:] = 0
    loss = BackboneLoss(clamp=1e9)
    plain = loss(guess, x1, xt, t, mask)["loss"]
    turn = lambda x: {  # noqa: E731
        "trans": x["trans"] @ quat_to_rotmat(q)[0].T,
        "rot": quat_multiply(q.expand_as(x["rot"]), x["rot"]),
    }
    torch.testing.assert_close(
        loss(turn(guess), turn(x1), turn(xt), t, mask)["loss"], plain, rtol=1e-3, atol=1e-3
    )
    guess["trans"][:, 7:] += 100
    torch.testing.assert_close(loss(guess, x1, xt, t, mask)["loss"], plain)


def test_auxiliary_loss_starts_late_and_clamped_samples_are_counted():
    x1, x0, guess = chains(), chains(seed=1), chains(seed=2, spread=40)
    t = torch.tensor([0.2, 0.6, 0.6])
    xt = corrupt(x1, x0, t)
    terms = BackboneLoss(auxiliary_from=0.5)(guess, x1, xt, t, ones())
    assert terms["auxiliary"].tolist() == [0.0, 5.0, 5.0]
    assert terms["clamped"].tolist() == [1.0, 1.0, 1.0]


def test_local_distances_are_those_of_near_residues():
    x1, guess, t = chains(), chains(seed=2), torch.tensor([0.2, 0.5, 0.95])
    mask = ones()
    mask[1, 7:] = 0
    xt = corrupt(x1, chains(seed=3), t, mask)
    plain = BackboneLoss()(guess, x1, xt, t, mask)
    local = BackboneLoss(further=[LocalDistances(weight=3.0, reach=2, after=0.3)])
    found = local(guess, x1, xt, t, mask)
    torch.testing.assert_close(found["loss"], plain["loss"] + found["local_distances"])
    for b, (length, scale) in enumerate([(10, 0.8), (7, 0.5), (10, 0.1)]):
        wanted, got = (backbone_from_frames(x)[b].double() / 10 for x in (x1, guess))
        errors = [
            (wanted[i, p] - wanted[j, q]).norm() - (got[i, p] - got[j, q]).norm()
            for i in range(length)
            for j in range(i + 1, min(i + 3, length))
            for p in range(3)
            for q in range(3)
        ]
        mean = 3.0 * torch.stack(errors).square().mean() / scale**2
        expected = 0.0 if b == 0 else mean.item()
        assert found["local_distances"][b].item() == pytest.approx(expected, rel=1e-4)


def test_local_distances_of_a_chain_shorter_than_their_reach():
    x1, t = chains(n=2), torch.full((3,), 0.5)
    term = LocalDistances(reach=3)
    atoms = backbone_from_frames(x1)
    assert term(atoms, atoms, t, 1 - t, torch.ones(3, 2)).eq(0).all()


def test_contact_distances_are_those_of_residues_near_in_space_alone():
    x1, guess, t = chains(), chains(seed=2), torch.tensor([0.2, 0.5, 0.95])
    mask = ones()
    mask[1, 7:] = 0
    wanted, got = (backbone_from_frames(x) / 10 for x in (x1, guess))
    scale = 1 - t.clamp(max=0.9)
    term = ContactDistances(weight=3.0, radius=9.0, beyond=2, after=0.3)
    found = term(got, wanted, t, scale, mask)
    for b, length in ((1, 7), (2, 10)):
        x, y = wanted[b].double(), got[b].double()
        errors = [
            (x[i, p] - x[j, q]).norm() - (y[i, p] - y[j, q]).norm()
            for i in range(length)
            for j in range(length)
            if abs(i - j) > 2 and (x[i, 1] - x[j, 1]).norm() < 0.9
            for p in range(3)
            for q in range(3)
        ]
        expected = 3.0 * torch.stack(errors).square().mean() / scale[b] ** 2
        assert found[b].item() == pytest.approx(expected.item(), rel=1e-4)
    assert found[0] == 0
    alone = ContactDistances(radius=0.1)(got, wanted, t, scale, mask)
    assert alone.eq(0).all()  # no two residues are that near


def test_an_empty_sample_is_refused():
    x1, t, mask = chains(), torch.full((3,), 0.5), ones()
    mask[1] = 0
    with pytest.raises(ValueError, match=r"samples \[1\] have no residue"):
        BackboneLoss()(x1, x1, x1, t, mask)


def batch(b=2, n=12, seed=0):
    x1 = chains(b, n, seed)
    return {
        "x1.trans": x1["trans"],
        "x1.rot": x1["rot"],
        "res_mask": ones(b, n),
        "diffuse_mask": ones(b, n),
        "res_idx": torch.arange(1, n + 1).expand(b, n),
    }


TINY = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


def test_training_fits_one_batch():
    torch.manual_seed(0)
    loss_terms = BackboneLoss(clamp=1e9)
    objective = BackboneObjective(ReQFlowNetwork(TINY), loss=loss_terms, self_condition=0.0)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    losses = []
    for _ in range(50):
        loss = objective(batch(), torch.Generator().manual_seed(0))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_stored_noise_is_used_and_draws_follow_the_generator():
    torch.manual_seed(0)
    objective = BackboneObjective(ReQFlowNetwork(TINY))
    seen = []
    objective.network.register_forward_pre_hook(lambda m, args: seen.append(args))
    x0 = chains(2, 12, seed=3)
    paired = batch() | {"x0.trans": x0["trans"], "x0.rot": x0["rot"]}
    objective(paired, torch.Generator().manual_seed(0))
    (xt, t) = seen[-1][:2]
    expected = torch.lerp(x0["trans"], paired["x1.trans"], t[:, None, None])
    torch.testing.assert_close(xt["trans"], expected, atol=1e-4, rtol=0)
    first, again, other = (
        objective(batch(), torch.Generator().manual_seed(s))["loss"] for s in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(("share", "calls"), [(0.0, 1), (1.0, 2)])
def test_self_conditioning_calls_the_network_first(share, calls):
    torch.manual_seed(0)
    objective = BackboneObjective(ReQFlowNetwork(TINY), self_condition=share)
    seen = []
    objective.network.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    objective(batch(), torch.Generator().manual_seed(0))
    assert len(seen) == calls
    assert (seen[-1]["trans_sc"] is None) == (calls == 1)


@pytest.mark.gpu
def test_no_step_of_training_reads_the_device():
    network = ReQFlowNetwork(TINY).cuda()
    on_device = {name: value.cuda() for name, value in batch().items()}
    objective = BackboneObjective(network)
    generator = torch.Generator("cuda").manual_seed(0)
    objective(on_device, generator)["loss"].backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            objective(on_device, generator)["loss"].backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_annealed_frames_go_from_fresh_noise_to_the_stored_one():
    generator = torch.Generator().manual_seed(0)
    x1 = chains(b=64, n=32)
    x0 = FrameNoise().fresh(x1, NORMAL, None, generator)
    coupling = AnnealedFrames(beta=lambda step: (1.0, 0.6, 0.0)[step])
    drawn = [coupling.at(k).draw(x1, NORMAL, x0=x0, generator=generator) for k in range(3)]
    assert drawn[2] is x0
    kept = [float((noise["rot"] == x0["rot"]).all(-1).float().mean()) for noise in drawn[:2]]
    assert kept == [0.0, pytest.approx(1 - 0.6**2, abs=0.05)]
    for noise, share in zip(drawn, (0.0, 0.8, 1.0), strict=True):
        assert noise["trans"].std() == pytest.approx(10.0, rel=0.05)  # its law stays
        assert noise["trans"].mean(1).abs().max() < 1e-4
        along = (noise["trans"] * x0["trans"]).mean() / x0["trans"].square().mean()
        assert along == pytest.approx(share, abs=0.05)
    assert coupling.draw(x1, NORMAL, generator=generator)["trans"].shape == x1["trans"].shape
