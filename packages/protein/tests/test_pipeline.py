import functools
import itertools
import json
import operator

import numpy as np
import pytest
import torch
from rectiflow.costs import Load, fit_costs, peak_memory
from rectiflow.solvers import Euler, Midpoint
from rectiflow_protein.flow import (
    ExactExponentialSchedule,
    FrameAncestral,
    FrameEuler,
    LinearSchedule,
)
from rectiflow_protein.networks import ReQFlowConfig
from rectiflow_protein.pipeline import BackbonePipeline
from rectiflow_protein.sampling import batches, draw_noise

CPU = torch.device("cpu")
TINY = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


def test_one_sample_per_length_in_the_order_asked_for(pipe):
    result = pipe([12, 20, 9], steps=4)
    assert [len(s.atoms) for s in result.samples] == [12, 20, 9]
    assert [s.index for s in result.samples] == [0, 1, 2]
    assert all(np.isfinite(s.atoms).all() for s in result.samples)
    assert result.settings["nfe"] == 4


def test_a_sample_does_not_depend_on_its_batch(pipe):
    together = pipe([20, 19, 20, 12], steps=5, seed=3).samples
    for i, length in enumerate([20, 19, 20, 12]):
        (alone,) = pipe([length], steps=5, seed=3, indices=[i]).samples
        np.testing.assert_allclose(together[i].atoms, alone.atoms, atol=5e-3)
    again = pipe([20, 19, 20, 12], steps=5, seed=3).samples
    assert all(np.array_equal(a.atoms, b.atoms) for a, b in zip(together, again, strict=True))
    other = pipe([20], steps=5, seed=4).samples[0]
    assert np.abs(other.atoms - together[0].atoms).max() > 0.1


def test_similar_lengths_share_a_batch_within_the_budget():
    groups = list(batches([100, 50, 95, 91, 89, 50, 51], 30_000))
    assert groups == [[0, 2, 3], [4], [6, 1, 5]]
    assert sorted(functools.reduce(operator.iadd, groups, [])) == list(range(7))


def test_network_calls_are_steps_and_progress_counts_them(pipe):
    calls, seen = [], []
    hook = pipe.network.register_forward_pre_hook(lambda m, args: calls.append(float(args[1][0])))
    pipe([10, 10], steps=6, progress=lambda done, total: seen.append((done, total)))
    hook.remove()
    assert len(calls) == 6
    assert calls[0] == pytest.approx(0.01)
    assert calls[-1] == calls[-2]  # the authors repeat the time of the call before the last
    assert seen == [(i, 6) for i in range(1, 7)]


def test_solvers_of_several_stages_are_counted(pipe):
    seen = []
    result = pipe([10], steps=4, solver=Midpoint(), progress=lambda *x: seen.append(x))
    assert result.settings["nfe"] == 7
    assert seen[-1] == (7, 7)


def test_the_last_call_can_be_given_another_time(pipe):
    calls = []
    hook = pipe.network.register_forward_pre_hook(lambda m, args: calls.append(float(args[1][0])))
    pipe([10], steps=4, last_time=1.0)
    hook.remove()
    assert calls[-1] == 1.0


@pytest.mark.parametrize(
    "solver",
    [FrameEuler(LinearSchedule()), FrameEuler(ExactExponentialSchedule()), Euler(), Midpoint()],
)
def test_other_solvers(pipe, solver):
    assert np.isfinite(pipe([10], steps=4, solver=solver).samples[0].atoms).all()


def test_fresh_noise_belongs_to_the_sample(pipe):
    solver = FrameAncestral(0.6)
    together = pipe([20, 19, 20], steps=5, seed=3, solver=solver).samples
    (alone,) = pipe([19], steps=5, seed=3, indices=[1], solver=solver).samples
    np.testing.assert_allclose(together[1].atoms, alone.atoms, atol=5e-3)
    (plain,) = pipe([19], steps=5, seed=3, indices=[1]).samples
    assert np.abs(plain.atoms - alone.atoms).max() > 0.1
    assert "temperature=0.6" in pipe([9], steps=2, solver=solver).settings["solver"]


def test_trajectories_start_at_the_noise(pipe):
    sample = pipe([11], steps=4, trajectory=True).samples[0]
    assert sample.trajectory.shape == (4, 11, 5, 3)
    assert sample.predictions.shape == (4, 11, 5, 3)
    noise = draw_noise(11, 0, 0)
    np.testing.assert_allclose(sample.trajectory[0][:, 1], noise["trans"].numpy(), atol=1e-4)
    np.testing.assert_allclose(sample.predictions[-1], sample.atoms, atol=1e-5)


def test_noise_is_centred_and_keyed_by_the_index():
    noise = draw_noise(50, 0, 3)
    assert noise["trans"].mean(0).abs().max() < 1e-4
    assert torch.equal(noise["rot"], draw_noise(50, 0, 3)["rot"])
    assert not torch.equal(noise["rot"], draw_noise(50, 0, 4)["rot"])


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_saved_structures_read_back(pipe, tmp_path, suffix):
    from rectiflow_protein.io import read_structure

    result = pipe([10, 14], steps=3, trajectory=True)
    paths = result.save(tmp_path, suffix=suffix)
    assert len(paths) == 6
    for path, sample in zip(paths[::3], result.samples, strict=True):
        coords = read_structure(path).coords
        np.testing.assert_allclose(coords, sample.atoms[:, [0, 1, 2, 4]], atol=2e-3)
    assert read_structure(tmp_path / f"{result.samples[0].name}_trajectory{suffix}", model=3)
    summary = json.loads((tmp_path / "result.json").read_text())
    assert [s["length"] for s in summary["samples"]] == [10, 14]
    assert len(summary["settings"]["weights_hash"]) == 64
    assert not list(tmp_path.glob("*.partial"))


def test_weights_are_found_by_folder_or_refused(pipe, tmp_path):
    pipe.network.save_pretrained(tmp_path / "mine")
    again = BackbonePipeline.from_pretrained(tmp_path / "mine", dtype=torch.bfloat16)
    assert again.network.sizes == TINY
    assert again.network.edge_dtype == torch.bfloat16
    with pytest.raises(FileNotFoundError, match="no weights at 'smal'"):
        BackbonePipeline.from_pretrained("smal")


def test_official_checkpoints_load(pipe, tmp_path):
    from rectiflow_protein.weights import to_official

    torch.save({"state_dict": to_official(pipe.network)}, tmp_path / "a.ckpt")
    again = BackbonePipeline.from_pretrained(tmp_path / "a.ckpt")
    assert again.network.sizes.c_s == TINY.c_s


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "at least 2 residues"),
        (([1],), "at least 2 residues"),
        (([10], 0), "steps must be at least 1"),
    ],
)
def test_bad_requests(pipe, arguments, message):
    lengths, *steps = arguments
    with pytest.raises(ValueError, match=message):
        pipe(lengths, steps=steps[0] if steps else 3)
    with pytest.raises(ValueError, match="one distinct number"):
        pipe([10, 10], indices=[1, 1])


def test_memory_is_predicted_to_15_per_cent(pipe):
    clock = itertools.count(step=1.0).__next__
    work = pipe.work()
    model = fit_costs(work, resting=0.0, device=CPU, clock=clock)
    for load in (Load(3, 100, 4), Load(2, 200, 3), Load(1, 300, 3)):
        found = peak_memory(lambda load=load: work.run(load), CPU)
        assert model.bytes(load) == pytest.approx(found, rel=0.15)
