"""The official ReQFlow network, flow, losses and sampler, from the golden files.

Every ``reqflow_*`` pair of json and safetensors in ``tests/golden``, and in the folder named by
``RECTIFLOW_GOLDEN``, is checked by the same code. Weights are made anew by the rule in the json.
"""

import hashlib
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rectiflow.integrate import integrate
from rectiflow.solvers import Context
from rectiflow.spaces import (
    Rotations,
    quat_multiply,
    quat_to_rotmat,
    rotmat_to_quat,
    rotvec_to_quat,
)
from rectiflow_protein.constraints import Chains
from rectiflow_protein.flow import (
    FRAME_PATH,
    ExponentialSchedule,
    FrameEuler,
    LinearSchedule,
    backbone_flow,
)
from rectiflow_protein.frames import FRAME_SPACE, atoms_from_frames, rotmat_from_backbone
from rectiflow_protein.igso3 import angle_cdf
from rectiflow_protein.losses import BackboneLoss
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.networks.embedders import (
    distogram_bins,
    index_embedding,
    time_embedding,
)
from rectiflow_protein.sampling import SampleBatch, sampling_plan
from rectiflow_protein.weights import load_official, sizes_from_config
from safetensors.torch import load_file

POSITION = 1e-4  # Å, of coordinates up to 35 Å
ROTATION = 1e-5
FOLDERS = [Path(__file__).parents[1] / "golden"]
if "RECTIFLOW_GOLDEN" in os.environ:
    FOLDERS.append(Path(os.environ["RECTIFLOW_GOLDEN"]))
FILES = sorted(
    path
    for folder in FOLDERS
    for path in folder.glob("reqflow_*.safetensors")
    if "cases" in json.loads(path.with_suffix(".json").read_text())
)
SMALL = FOLDERS[0] / "reqflow_small.safetensors"


def weights(network: ReQFlowNetwork, seed: int) -> dict[str, torch.Tensor]:
    """Draw the weights of a golden file by its rule."""
    drawn = {}
    for key, like in network.state_dict().items():
        z = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(like.shape)
        if like.ndim >= 2:
            z = z / np.sqrt(like.shape[-1]) * (0.1 if "bb_update_" in key else 1.0)
        elif "head_weights" in key:
            z = 0.5413 + 0.1 * z
        else:
            z = 1 + 0.1 * z if key.endswith("weight") else 0.05 * z
        drawn[key] = torch.from_numpy(np.asarray(z, dtype=np.float32))
    return drawn


@pytest.fixture(scope="module")
def network_of(tmp_path_factory):
    made = {}

    def make(path: Path) -> ReQFlowNetwork:
        if path not in made:
            about = json.loads(path.with_suffix(".json").read_text())
            config = tmp_path_factory.mktemp("config") / "config.yaml"
            config.write_text(json.dumps({"model": about["config"]}))  # JSON is YAML
            network = ReQFlowNetwork(sizes_from_config(config)).eval()
            drawn = weights(network, about["weights_seed"])
            if "weights" in about:
                blob = b"".join(drawn[k].numpy().tobytes() for k in sorted(drawn))
                assert hashlib.sha256(blob).hexdigest() == about["weights"]["sha256"]
                shapes = {k: list(v.shape) for k, v in drawn.items()}
                assert shapes == about["weights"]["shapes"]
            network.load_state_dict(drawn)
            assert sum(p.numel() for p in network.parameters()) == about["num_params"]
            made[path] = network
        return made[path]

    return make


@pytest.fixture(scope="module")
def small():
    return load_file(SMALL), json.loads(SMALL.with_suffix(".json").read_text())


def group(tensors, prefix):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def call(network, given):
    return network(
        {"trans": given["trans_t"], "rot": given["rotquats_t"]},
        given["so3_t"][:, 0],
        res_idx=given["res_idx"],
        diffuse_mask=given["diffuse_mask"],
        res_mask=given["res_mask"],
        trans_sc=given.get("trans_sc"),
    )


def test_the_released_sizes_are_the_default():
    assert ReQFlowConfig() == ReQFlowConfig(256, 128, 128, 128, 64, 22, 128, 8, 8, 12, 4, 2, 6)
    with torch.device("meta"):
        network = ReQFlowNetwork()
    assert sum(p.numel() for p in network.parameters()) == 16_779_268
    assert len(network.state_dict()) == 382


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_network_outputs(network_of, path, grad):
    network, tensors = network_of(path), load_file(path)
    for case in json.loads(path.with_suffix(".json").read_text())["cases"]:
        with torch.set_grad_enabled(grad):
            found = call(network, group(tensors, f"{case}/in/"))
        wanted = group(tensors, f"{case}/out/")
        torch.testing.assert_close(found["trans"], wanted["pred_trans"], atol=POSITION, rtol=0)
        torch.testing.assert_close(found["rot"], wanted["pred_rotquats"], atol=ROTATION, rtol=0)
        rotmat = quat_to_rotmat(found["rot"])
        torch.testing.assert_close(rotmat, wanted["pred_rotmats"], atol=ROTATION, rtol=0)


def test_grouped_edges_give_the_same_numbers(network_of, small, monkeypatch):
    from rectiflow_protein.networks import reqflow

    network, (tensors, _) = network_of(SMALL), small
    given, wanted = group(tensors, "len60/in/"), group(tensors, "len60/out/")
    monkeypatch.setattr(reqflow, "PAIRS_PER_CHUNK", 1000)
    monkeypatch.setattr(reqflow, "PAIRS_KEPT", 0)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            found = call(network, given)
        torch.testing.assert_close(found["trans"], wanted["pred_trans"], atol=POSITION, rtol=0)


def test_activations_of_every_module(network_of, small):
    network, (tensors, _) = network_of(SMALL), small
    given, wanted = group(tensors, "len24/in/"), group(tensors, "len24/act/")
    seen = {}
    hooks = [
        module.register_forward_hook(lambda m, i, out, name=name: seen.update({name: out}))
        for name, module in network.trunk.items()
    ]
    hooks.append(
        network.node_feature_net.register_forward_hook(
            lambda m, i, out: seen.update(node_feature_net=out)
        )
    )
    call(network, given)
    for hook in hooks:
        hook.remove()
    checked = 0
    real = given["res_mask"].bool()
    for key, value in wanted.items():
        name = key.removeprefix("trunk.")
        if name not in seen or not isinstance(seen[name], torch.Tensor):
            continue
        found = seen[name]
        if value.shape != found.shape:
            continue
        keep = real if value.ndim == 3 else real[:, :, None] & real[:, None, :]
        scale = value[keep].abs().max()
        assert (found - value)[keep].abs().max() < 2e-5 * scale, name
        checked += 1
    assert checked >= 8


def test_embeddings(small):
    tensors, _ = small
    torch.testing.assert_close(
        index_embedding(tensors["embed/index_in"], 32), tensors["embed/index_32"], atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        time_embedding(tensors["embed/time_in"], 32), tensors["embed/time_32"], atol=1e-4, rtol=0
    )
    bins = distogram_bins(tensors["embed/dgram_in"], 22)
    one_hot = torch.nn.functional.one_hot(bins, 23)[..., :22].float()
    torch.testing.assert_close(one_hot, tensors["embed/dgram_22"], atol=0, rtol=0)


def test_quaternion_algebra(small):
    q, unit = group(small[0], "quat/"), lambda x: x / x.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(quat_multiply(q["q0"], q["q1"]), q["mul"], atol=1e-6, rtol=0)
    torch.testing.assert_close(quat_to_rotmat(q["q0"]), q["rotmat_q0"], atol=1e-6, rtol=0)
    space = Rotations()
    t = q["t"]
    found = space.geodesic(unit(q["q0"]), unit(q["q1"]), t)
    assert_same_rotation(found, q["slerp"])
    torch.testing.assert_close(space.log(q["q0"], q["q1"]), q["log_vf"], atol=ROTATION, rtol=0)
    assert_same_rotation(rotmat_to_quat(q["rotmat_q0"]), q["rot_to_quat_up_to_sign"])
    m = group(small[0], "rotmat/")
    exp = quat_to_rotmat(rotvec_to_quat(m["rotvec_q0"]))
    torch.testing.assert_close(exp, m["exp_of_rotvec"], atol=ROTATION, rtol=0)


def assert_same_rotation(found, wanted):
    """Compare quaternions up to sign."""
    error = torch.minimum((found - wanted).abs().amax(-1), (found + wanted).abs().amax(-1))
    assert error.max() < ROTATION


def test_igso3_table(small):
    omega, cdf = angle_cdf(1.5)
    grid = small[0]["igso3/omega_grid"].numpy()
    table = small[0]["igso3/cdf_sigma1.5"].numpy()
    np.testing.assert_allclose(omega, grid, atol=1e-6)
    np.testing.assert_allclose(cdf, table, atol=1e-6)


def test_frames_and_atoms(small):
    tensors, _ = small
    n, ca, c = tensors["frames/atoms_N_CA_C"].unbind(1)
    rotmat = rotmat_from_backbone(n, ca, c)
    torch.testing.assert_close(rotmat, tensors["frames/rotmats"], atol=1e-6, rtol=0)
    frames = {"trans": tensors["corrupt/trans_1"], "rot": tensors["corrupt/rotquats_1"]}
    atoms = atoms_from_frames(frames, tensors["corrupt/res_mask"].bool())
    torch.testing.assert_close(atoms, tensors["atoms/with_oxygen"], atol=1e-5, rtol=0)
    bare = tensors["atoms/atom37_bb5"][..., :4, :]
    torch.testing.assert_close(atoms[..., :4, :], bare, atol=1e-5, rtol=0)


def frames_at(tensors, name):
    return {"trans": tensors[f"corrupt/trans_{name}"], "rot": tensors[f"corrupt/rotquats_{name}"]}


def test_corruption(small):
    tensors, _ = small
    real = tensors["corrupt/res_mask"].bool()
    x1 = frames_at(tensors, 1)
    x1["trans"] = torch.where(real.unsqueeze(-1), x1["trans"], 0.0)  # as batches are padded
    (point,) = backbone_flow().points(
        x1,
        x0=frames_at(tensors, 0),
        t=tensors["corrupt/t"][:, 0],
        mask=real,
        moving=real & tensors["corrupt/diffuse_mask"].bool(),
    )
    found: Any = point.x
    wanted = frames_at(tensors, "t")
    torch.testing.assert_close(found["trans"], wanted["trans"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["rot"], wanted["rot"], atol=1e-6, rtol=0)


@pytest.mark.parametrize(("t", "dt"), [(0.01, 0.05), (0.5, 0.1), (0.9, 0.1)])
@pytest.mark.parametrize(
    ("name", "schedule"), [("linear", LinearSchedule()), ("exp", ExponentialSchedule(10.0))]
)
def test_euler_steps(small, t, dt, name, schedule):
    tensors, _ = small
    prediction = {"trans": tensors["euler/pred_trans"], "rot": tensors["euler/pred_rotquats"]}
    found, _ = FrameEuler(schedule).step(
        lambda x, t: FRAME_PATH.from_data(prediction, x, t),
        frames_at(tensors, "t"),
        t,
        t + dt,
        Context(FRAME_SPACE),
    )
    trans = tensors[f"euler/trans_t{t}_dt{dt}"]
    torch.testing.assert_close(found["trans"], trans, atol=2e-5, rtol=0)
    assert_same_rotation(found["rot"], tensors[f"euler/rot_{name}_t{t}_dt{dt}"])


LOSSES = {
    "translation": "trans_loss",
    "rotation": "rots_quats_vf_loss",
    "auxiliary": "auxiliary_loss",
    "loss": "se3_vf_loss",
}


def test_losses(small):
    tensors, _ = small
    mask = tensors["corrupt/res_mask"] * tensors["corrupt/diffuse_mask"]
    prediction = {"trans": tensors["euler/pred_trans"], "rot": tensors["euler/pred_rotquats"]}
    late = {**prediction, "trans": tensors["loss2/pred_trans"]}
    turned = {"trans": tensors["corrupt/trans_t"], "rot": tensors["loss2/rotquats_t"]}
    cases = [
        ("loss", prediction, frames_at(tensors, "t"), tensors["corrupt/t"]),
        ("loss2", late, turned, tensors["loss2/t"]),
    ]
    for name, guess, xt, t in cases:
        found = BackboneLoss()(guess, frames_at(tensors, 1), xt, t[:, 0], mask)
        for ours, theirs in LOSSES.items():
            wanted = tensors[f"{name}/{theirs}"]
            torch.testing.assert_close(found[ours], wanted, rtol=1e-5, atol=1e-6)


def test_training_losses_and_gradients(network_of, small):
    network, (tensors, about) = network_of(SMALL), small
    xt, t = frames_at(tensors, "t"), tensors["corrupt/t"][:, 0]
    n = xt["trans"].shape[1]
    mask = tensors["corrupt/res_mask"]
    moving = tensors["corrupt/diffuse_mask"]
    prediction = network(
        xt,
        t,
        res_idx=torch.arange(1, n + 1).float().expand(len(t), n),
        res_mask=mask,
        diffuse_mask=moving,
    )
    terms = BackboneLoss()(prediction, frames_at(tensors, 1), xt, t, mask * moving)
    for ours, theirs in LOSSES.items():
        torch.testing.assert_close(terms[ours], tensors[f"train/{theirs}"], rtol=2e-5, atol=1e-6)
    network.zero_grad()
    terms["loss"].mean().backward()
    for key, wanted in group(tensors, "train/grad/").items():
        found = network.get_parameter(key).grad
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * wanted.abs().max())
    for key, norm in about["grad_norms"].items():
        found = network.get_parameter(key).grad.norm().item()
        assert found == pytest.approx(norm, rel=1e-3, abs=1e-5), key
    network.zero_grad()


@pytest.mark.parametrize("name", ["exp12", "linear6", "exp6"])
def test_sampler_trajectories(network_of, small, name):
    network, (tensors, about) = network_of(SMALL), small
    wanted, steps = group(tensors, f"sample/{name}/"), about["samplers"][name]["num_timesteps"]
    schedule = LinearSchedule() if name.startswith("linear") else ExponentialSchedule(10.0)
    start = {"trans": wanted["trans_0"], "rot": rotmat_to_quat(wanted["rotmats_0"])}
    chains = Chains([start["trans"].shape[1]], [0], 0, torch.device("cpu"))
    batch = SampleBatch(network, chains, None, (), True, lambda: None)
    batch.x0 = start
    (sample,) = batch.run(sampling_plan(steps, FrameEuler(schedule)))
    assert len(batch.predictions) == about["samplers"][name]["network_calls"]
    # Rounding is amplified along the trajectory, most where a distance crosses a bin of the
    # distogram: 1.5e-4 Å were seen at the end of the longest one.
    tolerance = 1e-3
    found = torch.stack([p["trans"][0] for p in batch.predictions])
    torch.testing.assert_close(found, wanted["pred_trans"], atol=tolerance, rtol=0)
    states = torch.stack([x["trans"][0] for x in batch.states])
    torch.testing.assert_close(states, wanted["trans_t"], atol=tolerance, rtol=0)
    torch.testing.assert_close(
        sample.frames["trans"], wanted["final_trans"][0], atol=tolerance, rtol=0
    )
    rotmat = quat_to_rotmat(sample.frames["rot"])
    torch.testing.assert_close(rotmat, wanted["final_rotmats"][0], atol=2e-4, rtol=0)
    np.testing.assert_allclose(sample.atoms, wanted["final_atoms5"][0].numpy(), atol=tolerance)


def test_linear_schedule_is_the_cores_euler(network_of, small):
    from rectiflow.integrate import plan
    from rectiflow.solvers import Euler

    tensors, _ = small
    target, x0 = frames_at(tensors, 1), frames_at(tensors, 0)

    def field(x, t):
        return FRAME_PATH.from_data(target, x, t)

    grid = [0.01, 0.3, 0.7, 0.95]
    ours = integrate(field, x0, plan(grid, FrameEuler(LinearSchedule())), space=FRAME_SPACE)
    core = integrate(field, x0, plan(grid, Euler()), space=FRAME_SPACE)
    for name in ("trans", "rot"):
        torch.testing.assert_close(ours[name], core[name], atol=1e-5, rtol=0)


def test_official_checkpoint_gives_the_golden_numbers(network_of, small, tmp_path):
    from rectiflow_protein.weights import to_official

    torch.save({"state_dict": to_official(network_of(SMALL))}, tmp_path / "small.ckpt")
    (tmp_path / "config.yaml").write_text(json.dumps({"model": small[1]["config"]}))
    network = load_official(tmp_path)
    with torch.no_grad():
        found = call(network, group(small[0], "len24/in/"))
    wanted = small[0]["len24/out/pred_trans"]
    torch.testing.assert_close(found["trans"], wanted, atol=POSITION, rtol=0)
