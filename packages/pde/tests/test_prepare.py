"""Prepared folders: whole, in SI units, the same however they were made."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from rectiflow.execution import Processes
from rectiflow_pde.data import PreparedFlows
from rectiflow_pde.data.grids import KsDraws, PreparedGrids, SmokeDraws, solve_grids
from rectiflow_pde.data.prepare import Reading, prepare
from rectiflow_pde.data.solve import draw, solve_flows
from rectiflow_pde.io import Boundaries
from rectiflow_pde.io.write import write_trajectory
from rectiflow_pde.solvers.draws import CylinderRanges
from rectiflow_pde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky
from rectiflow_pde.units import Units

RANGES = CylinderRanges(reynolds=(40.0, 60.0), radius=(0.05, 0.06))
TIMES = (0.01, 0.02)
ALL_TRAIN = {"train": 1.0}


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def solved(work):
    out = work / "solved"
    solve_flows(out, RANGES, TIMES, 2, edge=0.02, seed=4, fractions=ALL_TRAIN)
    return out


def test_solved_flows_are_prepared_with_their_numbers(solved):
    flows = PreparedFlows(solved)
    assert len(flows) == 2
    assert len({flow.mesh.n_nodes for flow in flows}) > 1
    for i, flow in enumerate(flows):
        asked = draw(RANGES, TIMES, 4, i, edge=0.02)
        assert flow.parameters["reynolds"] == pytest.approx(asked.reynolds, rel=1e-5)
        assert flow.times.tolist() == list(TIMES)
        assert flow.fields["u"].shape == (2, flow.mesh.n_nodes)
        assert f"Reynolds number is {asked.reynolds:.0f}" in flow.caption
    values = np.concatenate([flow.stacked.reshape(-1, 3) for flow in flows])
    assert np.allclose(flows.statistics.mean, values.mean(0), rtol=1e-4, atol=1e-6)
    assert np.allclose(flows.statistics.std, values.std(0), rtol=1e-4)
    assert [flow.caption for flow in flows[:2]] == flows.table["caption"][:2].tolist()


def test_a_killed_solve_continues_to_the_same_bytes(solved, tmp_path, monkeypatch):
    import rectiflow_pde.data.solve as module

    original, seen = module._solve, []

    def killed(named):
        seen.append(named[0])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return original(named)

    monkeypatch.setattr(module, "_solve", killed)
    told = tmp_path / "out", RANGES, TIMES, 2
    with pytest.raises(KeyboardInterrupt):
        solve_flows(*told, edge=0.02, seed=4, fractions=ALL_TRAIN)
    monkeypatch.setattr(module, "_solve", original)
    solve_flows(*told, edge=0.02, seed=4, fractions=ALL_TRAIN)
    assert seen == ["cylinder_4_00000", "cylinder_4_00001"]
    assert bytes_of(tmp_path / "out") == bytes_of(solved)


@pytest.mark.slow
def test_two_workers_solve_the_same_flows(solved, tmp_path):
    told = {"edge": 0.02, "seed": 4, "fractions": ALL_TRAIN}
    solve_flows(tmp_path / "out", RANGES, TIMES, 2, executor=Processes(2), **told)
    assert bytes_of(tmp_path / "out") == bytes_of(solved)


def test_draws_depend_on_seed_and_index_alone():
    first = [draw(CylinderRanges(), TIMES, 0, i) for i in range(5)]
    assert first == [draw(CylinderRanges(), TIMES, 0, i) for i in range(5)]
    assert len({flow.u_mean for flow in first}) == 5
    assert draw(CylinderRanges(), TIMES, 1, 0) != first[0]
    for flow in first:
        assert 25 <= flow.reynolds <= 190
        assert 0.25 * 0.97 <= flow.u_mean <= 1.7 * 1.03


def test_given_numbers_are_kept_and_the_impossible_refused():
    fixed = CylinderRanges.of(u_mean=(0.7, 0.7), radius=(0.04, 0.04))
    assert draw(fixed, TIMES, 0, 0).reynolds == pytest.approx(56)
    assert draw(CylinderRanges.of(reynolds=(300.0, 300.0)), TIMES, 0, 0).reynolds > 299
    with pytest.raises(ValueError, match="Reynolds number must be positive, got -5"):
        CylinderRanges.of(reynolds=(-5.0, -5.0))
    with pytest.raises(ValueError, match="hardly any flow"):
        draw(CylinderRanges(reynolds=(1e4, 1e5)), TIMES, 0, 0)


@pytest.fixture
def folder(tmp_path, arrays, flow, vtu):
    """Return a folder with a good file, three bad ones, a series and an own shard."""
    source = tmp_path / "in"
    source.mkdir()
    np.savez(source / "a.npz", **arrays)
    velocity = arrays["velocity"].copy()
    velocity[2, 5] = np.inf
    np.savez(source / "b_nan.npz", **arrays | {"velocity": velocity})
    (source / "c_cut.npz").write_bytes((source / "a.npz").read_bytes()[:900])
    (source / "d.tfrecord").write_bytes(b"1")
    write_trajectory(flow, source / "series" / "run.pvd")
    return source


def test_prepare_goes_on_past_bad_files(folder, tmp_path):
    reading = Reading(Units(1e-3, 1.0), boundaries=Boundaries(infer=True))
    told = {"reading": reading, "splits": {"run": "test"}, "fractions": ALL_TRAIN}
    report = prepare(folder, tmp_path / "out", **told)
    assert (report.inputs, report.accepted, report.rejected) == (5, 2, 3)
    with (tmp_path / "out" / "rejected.csv").open() as file:
        reasons = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert "not finite" in reasons["b_nan.npz"]
    assert "cut short" in reasons["c_cut.npz"]
    assert "TFRecord" in reasons["d.tfrecord"]
    flows = PreparedFlows(tmp_path / "out")
    assert dict(zip(flows.table["name"], flows.table["split"], strict=True)) == {
        "a": "train",
        "run": "test",
    }
    notes = (tmp_path / "out" / "notes.csv").read_text()
    assert 'series/run.pvd,"kinds of boundary edges inferred' in notes


def test_prepared_folders_are_joined(solved, folder, tmp_path):
    report = prepare(solved, tmp_path / "out", fractions=ALL_TRAIN)
    assert report.accepted == 2
    joined, own = PreparedFlows(tmp_path / "out"), PreparedFlows(solved)
    assert joined.table["reynolds"].tolist() == own.table["reynolds"].tolist()
    assert np.array_equal(joined[1].stacked, own[1].stacked)
    assert joined.table["regime"].tolist() == own.table["regime"].tolist()


def test_a_field_that_never_changes_is_normalised_by_one(tmp_path, arrays):
    still = arrays | {"velocity": arrays["velocity"] * [1, 0]}
    np.savez(tmp_path / "a.npz", **still)
    prepare(tmp_path / "a.npz", tmp_path / "out", fractions=ALL_TRAIN)
    statistics = PreparedFlows(tmp_path / "out").statistics
    assert statistics.std[1] == 1
    assert statistics.mean[1] == 0


def test_arguments_are_checked(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected files of flows"):
        prepare(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ValueError, match=r"unknown splits \['trian'\]"):
        prepare(tmp_path, tmp_path / "out", splits={"a": "trian"})
    with pytest.raises(ValueError, match="must not lie inside"):
        prepare(tmp_path, tmp_path / "out")


def test_smoke_and_ks_are_solved_into_shards(tmp_path):
    solve_grids(tmp_path / "smoke", SmokeDraws(cells=16, steps=(2, 3)), 2, fractions=ALL_TRAIN)
    smoke = PreparedGrids(tmp_path / "smoke")
    assert smoke.records[1]["fields"].shape == (2, 16, 16, 3)
    assert smoke.records[1]["times"].tolist() == [3.0, 4.5]
    assert f"buoyancy factor is {smoke.table['buoyancy'][0]:.3f}" in smoke.table["caption"][0]
    draws = KsDraws(KuramotoSivashinsky(points=32), (0.5, 1.0))
    solve_grids(tmp_path / "ks", draws, 2, seed=3)
    ks = PreparedGrids(tmp_path / "ks")
    assert ks.records[0]["fields"].shape == (2, 32, 1)
    assert not np.allclose(ks.records[0]["fields"], ks.records[1]["fields"])
