"""Every number of ``geometric/*.npz``: GeoTDM's layers, networks, diffusion, data and score.

The files are those of ``tests/golden/geometric`` and of that folder in ``RECTIFLOW_GOLDEN``.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_trajectories.diffusion import Diffusion
from rectiflow_trajectories.features import molecule, molecule_fully
from rectiflow_trajectories.metrics import marginal_score
from rectiflow_trajectories.networks import EGTN, Graph, SpatialLayer, TemporalLayer, waves
from rectiflow_trajectories.simulators import Charged, Gravity, Springs
from rectiflow_trajectories.trajectory import Trajectory

FOLDERS = [Path(__file__).resolve().parents[1] / "golden" / "geometric"]
if "RECTIFLOW_GOLDEN" in os.environ:
    FOLDERS.append(Path(os.environ["RECTIFLOW_GOLDEN"]) / "geometric")
FILES = {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.npz"))}
NETWORKS = [name for name in FILES if name.startswith("egtn")]


@cache
def load(name):
    return {key: torch.from_numpy(value) for key, value in np.load(FILES[name]).items()}


def close(found, true, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(found, true, atol=atol, rtol=rtol)


def part(a, prefix):
    return {key.removeprefix(prefix): v for key, v in a.items() if key.startswith(prefix)}


def ours(x):
    """Turn the authors' frames, which are last."""
    return x.movedim(-1, -2)


def test_all_files_are_tested():
    known = {"schedule", "marginal_score", "layers", "egtn", "md17", "sim"}
    assert FILES
    assert all(name in known or name.split("_")[0] in known for name in FILES)


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith("layers")])
def test_layers(name):
    a = load(name)
    graph = Graph(a["edge_index"], ours(a["edge_attr"]), a["batch"], 2)
    x, h = ours(a["x"]), ours(a["h"])
    spatial, temporal = SpatialLayer(16, 2, pre_norm=name.endswith("1")), TemporalLayer(16, 8)
    spatial.load_state_dict(part(a, "es/"))
    temporal.load_state_dict(part(a, "et/"))
    for layer, told, key in ((spatial, (x, h, graph), "es"), (temporal, (x, h), "et")):
        moved, features = layer(*told)
        close(ours(moved), a[f"{key}_x"])
        close(ours(features), a[f"{key}_h"])


class Case:
    """A network of a golden file, and its calls in the authors' order of axes."""

    def __init__(self, name):
        self.a = a = load(name)
        cfg = part(a, "cfg/")
        self.batch = a["batch"]
        self.count = int(self.batch.max()) + 1
        attributes = a.get("edge_attr", torch.zeros(a["edge_index"].shape[1], 0))
        self.graph = Graph(a["edge_index"], attributes, self.batch, self.count)
        self.before = int(a.get("cond_len", torch.tensor(0)))
        self.nodes = ours(a["h"]) if a["h"].ndim == 3 else a["h"]
        self.given = ours(a["x"])[:, : self.before] if self.before else None
        self.network = EGTN(
            *(int(cfg[k]) for k in ("node_dim", "edge_dim", "hidden_dim", "n_layers")),
            time_dim=int(cfg["time_emb_dim"]),
            given=self.before,
            frames=int(cfg["num_w"]),
            prior="learned" if cfg["learn_ref_frame"] else "centre",
            prior_layers=int(cfg["n_layers_ref"]),
            pre_norm=bool(cfg.get("pre_norm", False)),
        ).eval()
        self.network.load_state_dict(part(a, "sd/"))
        self.diffusion = Diffusion(int(a["num_steps"]), rescale=bool(a["rescale"]))

    def centre(self, y):
        """Take the mean of each graph away, where no frames are given."""
        return y if self.before else y - ours(self.graph.mean(ours(y)))

    @torch.no_grad()
    def reference(self):
        if not self.before:
            return 0.0
        return ours(self.network.reference_of(self.given, self.nodes, self.graph))

    @torch.no_grad()
    def moved(self, x, step):
        found = self.network.moved(ours(x), step, self.nodes, self.graph, self.given)
        return tuple(map(ours, found))

    def noise_of(self, y, step):
        """Return the noise in ``y``, a trajectory less its reference or its mean."""
        return self.centre(self.moved(self.centre(y) + self.reference(), step.float())[0])


@pytest.fixture(params=NETWORKS, scope="module")
def case(request):
    return Case(request.param)


def test_networks(case):
    x, h = case.moved(case.a["net_in"], case.a["net_t"].float())
    close(x, case.a["net_x"])
    close(h, case.a["net_h"])
    if case.before:
        close(case.reference(), case.a["x_ref"].expand(case.a["net_in"].shape))


def test_training_loss(case):
    noise, step = case.centre(case.a["train_noise"]), case.a["t_graph"][case.batch]
    data = case.centre(case.a["x_target"] - case.reference())
    y = case.diffusion.noised(data, step, noise)
    error = case.noise_of(y, case.diffusion.told(step)) - noise
    close(error.square().mean((1, 2)), case.a["train_loss_per_node"])


@pytest.mark.parametrize("k", [0, 1, 20, 39])
def test_reverse_steps(case, k):
    y = case.a["net_in"]
    law = case.diffusion.reverse(case.noise_of, case.centre(y), torch.full((len(y),), k))
    for name, found in zip(("mean", "variance", "log_variance", "pred_xstart"), law, strict=True):
        close(found, case.a[f"pmv_t{k}_{name}"], rtol=2e-4)


def test_chain(case):
    tape, y = case.a["chain_noise_tape"], case.a["net_in"]
    diffusion = Diffusion(1000, rescale=case.diffusion.rescale)
    found = diffusion.sample(case.noise_of, y, tape, first=9, project=case.centre)
    close(found + case.reference(), case.a["chain_T1000_from_t9"])


def test_likelihood(case):
    data = case.centre(case.a["x_target"] - case.reference())
    tape = [case.centre(noise) for noise in case.a["bpd_noise_tape"]]
    sizes = torch.bincount(case.batch)[case.batch]
    lost = 0 if case.before else data.shape[1] / sizes
    found = case.diffusion.bound(case.noise_of, data, tape, lost=lost)
    names = ("total_bpd", "prior_bpd", "vb", "xstart_mse", "mse")
    for name, value in zip(names, found, strict=True):
        close(value, case.a[f"bpd_{name}"], atol=1e-4, rtol=2e-4)


def test_schedule():
    a = load("schedule")
    for steps in (100, 1000):
        close(torch.from_numpy(Diffusion(steps).betas), a[f"beta_linear_{steps}"], 1e-12, 1e-12)
        close(torch.from_numpy(Diffusion(steps).kept), a[f"acp_linear_{steps}"], 1e-12, 1e-12)
    for width in (8, 32):
        close(waves(a["time_emb_t"].float(), width), a[f"time_emb_{width}"])


@pytest.mark.parametrize(("tell", "name"), [(molecule, "fc0"), (molecule_fully, "fc1")])
def test_molecule_features(tell, name):
    a = load(f"md17_features_{name}")
    told = tell(Trajectory(a["pos"][None].double().numpy(), charges=a["z"].double().numpy()), 0, 1)
    close(torch.from_numpy(told.nodes), a["h"])
    at = torch.from_numpy(np.stack(told.linked.nonzero()))
    assert torch.equal(at, a["edge_index"])
    assert torch.equal(torch.from_numpy(told.edges)[at[0], at[1]].long(), a["edge_attr"])


@pytest.mark.parametrize(
    "system", [Charged(), Springs(), Gravity()], ids=lambda s: type(s).__name__
)
def test_simulators(system):
    a = {k: v.numpy() for k, v in load(f"sim_{type(system).__name__.lower()}").items()}
    x, v = a["pos0"][None], a["vel0"][None]
    edges = a["charges"] * a["charges"].T if "charges" in a else a.get("edges", np.zeros((6, 6)))
    loc, vel = system.run(x, v, edges[None], int(a["T"]), int(a["sample_freq"]))
    np.testing.assert_allclose(loc[0], a["loc"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(vel[0], a["vel"], rtol=0, atol=1e-9)


def test_marginal_score():
    a = {k: v.numpy() for k, v in load("marginal_score").items()}
    real, made = (a[k].astype(float).reshape(-1, 3) for k in ("x_real", "x_fake"))
    assert marginal_score(real, made) == pytest.approx(float(a["score"]), rel=1e-3)
