"""DRDM, RDDM and DiffusionMBIR, from the golden files of their authors' code."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.inverse import Matrix, Measurement, TotalVariation
from rectiflow_imaging import drdm, rddm
from rectiflow_imaging.deformation import RandomField, compose, integrate, warp
from rectiflow_imaging.networks import RecoveryNetwork
from rectiflow_imaging.weights import load_official

sys.path.insert(0, str(Path(__file__).parent))
from text2pde_golden import FOLDERS, cases

NEAR = 1e-5


def arrays(name):
    path = next(folder / f"{name}.npz" for folder in FOLDERS if (folder / f"{name}.npz").is_file())
    return {key: torch.from_numpy(a) for key, a in np.load(path).items() if a.dtype.kind != "U"}


def near(found, wanted, atol=NEAR):
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol, check_dtype=False)


def drawn(case):
    network = RecoveryNetwork(case.config["n_steps"], case.config["ndims"])
    lacking, unexpected = network.load_state_dict(case.weights(), strict=False)
    assert (lacking, unexpected) == (["time_embed.weight"], [])
    return network.eval()


@pytest.mark.parametrize("case", cases("drdm_net2d_"))
def test_drdm_network(case):
    network, image = drawn(case), case.given("img")
    outputs = {
        f"t{t}_rec{count}": network(image, torch.tensor([t]), count)
        for t in case.config["t"]
        for count in (1, 2)
    }
    for name, value in outputs.items():
        case.assert_near(name, value)
    case.assert_gradients(outputs, dict(network.named_parameters()))
    assert sum(p.numel() for p in network.parameters()) == 443_435


@pytest.mark.weights
def test_drdm_released_checkpoint():
    a = arrays("drdm_net2d_checkpoint")
    folder = Path(os.environ["RECTIFLOW_WEIGHTS"])
    [path] = folder.rglob("000000_cmr_recresacnet.pth")
    network = load_official(path).eval()
    for t in (0, 10, 79):
        near(network(a["img"], torch.tensor([t])), a[f"net_t{t}_rec2"])
    near(network(a["img"], torch.tensor([10]), 1), a["net_t10_rec1"])


def test_drdm_operations_and_losses():
    a = arrays("drdm_ops")
    near(warp(a["img"], a["ddf"], padding="border"), a["warp_border"])
    near(warp(a["img"], a["ddf"]), a["warp_zeros"])
    near(compose(a["ddf"], a["ddf2"]), a["compose"])
    moved = warp(a["ddf2"], a["ddf"], padding="border")
    near(drdm.misfit(moved, a["ddf"])[0], a["loss_mrse"])
    near(drdm.alignment(moved, a["ddf"])[0], a["loss_ncc"])
    near(drdm.roughness(a["ddf2"], compat=True)[0], a["loss_grad_l1_negdetj"], 1e-8)
    whole = drdm.loss(a["ddf2"], a["ddf"], compat=True)
    near(whole[0], a["loss_mrse"] + a["loss_ncc"] + 10 * a["loss_grad_l1_negdetj"])


@pytest.mark.parametrize("t", [3, 40, 79])
def test_drdm_field(t):
    a = arrays("drdm_field")
    random = RandomField(scale=float(a[f"t{t}_v_scale"]))
    noise = [a[f"t{t}_noise{i:02d}"] for i in range(8)]
    assert [n.shape for n in random.noise(1, 2)] == [n.shape for n in noise]
    strong, mild = random.counts(torch.tensor([t]))
    assert (strong, mild) == (a[f"t{t}_mul_ddf"], a[f"t{t}_mul_dvf"])
    field, label = random(noise, torch.tensor([t]), 64)
    near(field, a[f"t{t}_ddf"])
    near(label, a[f"t{t}_dvf"])
    near(warp(a["img"], field), a[f"t{t}_warped"], 1e-4)
    # Rows of a batch stop by themselves.
    both = random([torch.cat([n, n]) for n in noise], torch.tensor([3, t]), 64)[1]
    near(both[1:], label)
    assert torch.equal(integrate(label, torch.tensor([0])), torch.zeros_like(label))


@pytest.mark.parametrize("case", cases("drdm_net2d_recipe"))
def test_drdm_recovery(case):
    a, network = arrays("drdm_recover"), drawn(case)
    near(warp(a["img"], a["ddf_rand"]), a["img_diff"], 1e-4)
    steps = range(int(a["steps"]) - 1, -1, -1)
    with torch.no_grad():
        field, image = drdm.recover(network, a["img"], a["ddf_rand"], steps)
    near(field, a["ddf_comp"], 1e-4)
    near(image, a["img_rec"], 1e-4)
    near(warp(a["msk"], field), a["msk_rec"], 1e-4)


OBJECTIVES = {
    "pred_res_noise": rddm.ResidualNoise(),
    "pred_res": rddm.ResidualAlone(),
    "pred_noise": rddm.NoiseAlone(),
    "pred_x0_noise": rddm.DataNoise(),
}
RDDM = sorted({path.stem for folder in FOLDERS for path in folder.glob("rddm_*.npz")})


class Tape:
    """Noise that was recorded."""

    def __init__(self, rows):
        self.rows = rows

    def later(self, step):
        return Tape(self.rows[step:])

    def like(self, x):
        return self.rows[0].to(x)


@pytest.mark.parametrize("name", RDDM)
def test_rddm(name):
    a = arrays(name)
    objective, _, kind = name.removeprefix("rddm_").rpartition("_")
    conditioned = kind == "cond"
    steps, total = int(a["num_timesteps"]), float(a["sum_scale"])
    model = rddm.ResidualDiffusion(OBJECTIVES[objective], steps, total, conditioned)
    near(torch.tensor(model.clocks.shares[::-1]), a["buf/alphas_cumsum"])
    near(torch.tensor(model.clocks.levels[::-1]), a["buf/betas_cumsum"])

    def stub(x, k):
        out = torch.einsum("oc,bchw->bohw", a["stub_w"][:, : x.shape[1]], x)
        return torch.tanh(out + 0.01 * k.reshape(-1, 1, 1, 1)).split(3, 1)

    data, degraded = 2 * a["gt"] - 1, 2 * a["inp"] - 1
    degraded = degraded if conditioned else torch.zeros_like(degraded)
    near(model.point(data, degraded, a["t"], a["noise"]), a["q_sample"])
    near(model.loss(stub, data, degraded, a["t"], a["noise"]).mean(), a["loss"])
    found = model.sample(stub, degraded, a["ddim_noise0"], count=5)
    near((found + 1) / 2, a["ddim5_out"])
    tape = a["ancestral_tape"]
    found = model.sample(stub, degraded, tape[0], eta=1.0, noise=Tape(tape[1:]))
    near((found + 1) / 2, a["ancestral_out"])


def test_mbir():
    a = arrays("mbir_admm_tv")
    measurement = Measurement(Matrix(a["A"], (6, 6)), a["y"][:, None])
    told = {"lam": float(a["lamb"]), "rho": float(a["rho"])}
    axes = {"x": 2, "y": 3, "z": 0}
    for name, axis in axes.items():
        along = TotalVariation(measurement, axis, **told)
        near(along._forward(a["vol"]), a[f"D{name}"])
        near(along._back(a["vol"]), a[f"D{name}T"])
    for name, axis in {"z": 0, "xyz": (2, 3, 0)}.items():
        between = TotalVariation(measurement, axis, **told)
        split = between.begin(a["x_init"])
        for _ in range(6):
            x = 0.98 * (split.x - 0.05 * torch.sin(3 * split.x))
            split = between.iterate(split._replace(x=x))
        near(split.x, a[f"recon_{name}"])
