"""Files of users: each is read right, or refused with one clear sentence."""

import numpy as np
import pytest
from rectiflow_trajectories.data.prepare import Windows, prepare, record_of
from rectiflow_trajectories.data.prepared import PreparedTrajectories
from rectiflow_trajectories.io import TrajectoryFileError, read_trajectories, write_runs
from rectiflow_trajectories.simulators import Charged
from rectiflow_trajectories.trajectory import Trajectory
from rectiflow_trajectories.units import factor

RNG = np.random.default_rng(1)


def table(path, rows, head="frame,node,x,y"):
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def xyz(path, frames, comment="", symbols="COH"):
    lines = []
    for places in frames:
        lines += [str(len(places)), comment]
        lines += [f"{s} {x} {y} {z}" for s, (x, y, z) in zip(symbols, places, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def refused(path, said, **told):
    with pytest.raises(TrajectoryFileError, match=said):
        read_trajectories(path, **told)


def test_authors_arrays(tmp_path):
    runs = Charged().simulate(range(3), steps=500)
    write_runs(tmp_path, "charged_5", runs)
    found = read_trajectories(tmp_path / "loc_charged_5.npy")
    assert len(found) == 3
    np.testing.assert_array_equal(found[2].positions, runs.loc[2])
    np.testing.assert_array_equal(found[2].edges, runs.edges[2])
    np.testing.assert_array_equal(found[2].charges, runs.charges[2, :, 0])
    np.save(tmp_path / "charges_charged_5.npy", runs.charges[:2])
    refused(tmp_path / "loc_charged_5.npy", "it has 2 runs; expected 3")
    np.save(tmp_path / "loc_flat.npy", runs.loc[0])
    refused(tmp_path / "loc_flat.npy", "expected .runs, frames, nodes, 2 or 3.")
    np.save(tmp_path / "vel.npy", runs.vel)
    refused(tmp_path / "vel.npy", "does not begin with loc")


@pytest.mark.parametrize(("places", "numbers"), [("R", "z"), ("coords", "nuclear_charges")])
def test_molecules(tmp_path, places, numbers):
    path, x = tmp_path / "ethanol.npz", RNG.standard_normal((5, 3, 3))
    np.savez(path, **{places: x, numbers: np.array([6, 8, 1], dtype=np.uint8)})
    [found] = read_trajectories(path)
    assert found.unit == "angstrom"
    np.testing.assert_array_equal(found.positions, x)
    assert found.charges.tolist() == [6, 8, 1]
    refused(path, "it is in angstrom, got unit nm", unit="nm")
    np.savez(path, **{places: x})
    refused(path, f"{places} without {numbers}")
    np.savez(path, other=x)
    refused(path, "it has arrays other; expected positions")
    path.write_bytes(b"PK\x03\x04 cut short")
    refused(path, "it cannot be read")


def test_arrays_by_name(tmp_path):
    path, x = tmp_path / "a.npz", RNG.standard_normal((5, 2, 2))
    np.savez(path, positions=x, charges=[1, -1], names=["a", "b"], unit="mm", box=[9, 9])
    [found] = read_trajectories(path)
    assert (found.labels, found.unit, found.dimensions) == (("a", "b"), "mm", 2)
    assert found.measured_in("m").positions[0, 0, 0] == pytest.approx(x[0, 0, 0] / 1000)
    for told, said in (
        ({"positions": x, "charges": [1.0]}, r"charges of 2 nodes have shape \(1,\)"),
        ({"positions": x[0]}, "positions have shape"),
        ({"positions": np.full_like(x, np.inf)}, "infinite"),
        ({"positions": np.array(["a"])}, "could not convert"),
        ({"positions": x, "unit": "feet"}, "unknown unit 'feet'"),
        ({"positions": x, "names": ["a", "a"]}, "2 nodes have 1 names"),
    ):
        np.savez(path, **told)
        refused(path, said)


def test_pedestrians_come_and_go(tmp_path):
    path = tmp_path / "zara.txt"
    lines = [f"{10 * t}\t1.0\t{t}\t0.5" for t in range(6)]
    path.write_text("\n".join([*lines, "30 2 1 1", "40 2 1 2"]) + "\n")
    [found] = read_trajectories(path)
    assert (found.frames, found.nodes, found.unit, found.names) == (6, 2, "m", ("1", "2"))
    whole, notes = found.complete()
    assert whole.names == ("1",)
    assert "1 of 2 nodes are not seen in every frame" in notes[0]
    path.write_text("\n".join([*lines[:2], *lines[3:], "30 2 1 1", "40 2 1 2"]) + "\n")
    [gap] = read_trajectories(path)  # a frame that nobody is seen in
    whole, notes = gap.complete()
    np.testing.assert_allclose(whole.positions, found.positions[:, :1])
    assert notes[1] == "1 missing places are filled in on a line"
    path.write_text("0 1 2\n")
    refused(path, "line 1 is '0 1 2'; expected frame, pedestrian, x, y")
    path.write_text("0 1 2 3\n10 1 2 3\n25 1 2 3\n")
    refused(path, "not evenly spaced")
    path.write_text("0 1 2 3\n0 1 2 4\n")
    refused(path, "two places in one frame")
    path.write_text("")
    refused(path, "no rows")


def test_tables_in_any_order_with_gaps(tmp_path):
    seen = [(t, n) for n in ("b", "a") for t in (2, 0, 1, 3) if (t, n) != (1, "a")]
    rows = [(t, n, t + (n == "a"), -t) for t, n in seen]
    path = table(tmp_path / "walk.csv", rows)
    [found] = read_trajectories(path)
    assert found.names == ("a", "b")
    assert np.isnan(found.positions[1, 0]).all()
    whole, notes = found.complete()
    np.testing.assert_allclose(whole.positions[1, 0], [2, -1])
    assert notes == ("1 missing places are filled in on a line",)
    [flat] = read_trajectories(table(path, [(0, 1, 2, 3, 4)], "frame,node,x,y,z"))
    assert flat.dimensions == 3
    for rows, head, said in (
        ([(0, 1, "x", 3)], "frame,node,x,y", "a cell is no number"),
        ([(0, 1, 2)], "frame,node,x", "y"),
        ([(0, 1, 2, 3, 1), (1, 1, 2, 3, -1)], "frame,node,x,y,charge", "another charge"),
        ([(0, 1, 2, 3), (1e12, 1, 2, 3), (1, 1, 2, 3)], "frame,node,x,y", "at most"),
    ):
        with pytest.raises(ValueError, match=said):
            read_trajectories(table(path, rows, head))


@pytest.mark.parametrize(
    ("missing", "said"),
    [([0], "not seen in the first or last"), ([5], "first or last"), ([1, 2, 3], "3 frames in a")],
)
def test_long_gaps_are_refused(walk, missing, said):
    trajectory = walk(6)
    trajectory.positions[missing, 1] = np.nan
    with pytest.raises(ValueError, match=f"node 1 is not seen in .*{said.split()[-1]}"):
        trajectory.complete()


def test_atoms_in_another_order(tmp_path):
    frames = RNG.standard_normal((1, 3, 3)) * 3 + 0.01 * RNG.standard_normal((4, 3, 3))
    path = xyz(tmp_path / "m.xyz", frames)
    [found] = read_trajectories(path)
    np.testing.assert_allclose(found.positions, frames)
    assert found.charges.tolist() == [6, 8, 1]
    text = path.read_text().splitlines()
    text[7:9] = text[8], text[7]  # of the second frame
    path.write_text("\n".join(text))
    refused(path, "frame 2 lists other atoms in another order")
    frames[2, [0, 2]] = frames[2, [2, 0]]
    refused(xyz(path, frames, symbols="HOH"), "atoms 1 and 3 have changed places in frame 3")
    path.write_text("3\n\nC 0 0 0\n")
    refused(path, "frame 1 is cut short")
    refused(xyz(path, frames[:1], symbols=("C", "Xx", "H")), "elements Xx")


def test_periodic_boxes(tmp_path):
    frames = np.arange(6.0)[:, None, None] * [0.4, 0, 0] + RNG.random((1, 3, 3)) * 2
    comment = 'Lattice="2 0 0 0 9 0 0 0 9" pbc="T T T"'
    path = xyz(tmp_path / "m.xyz", frames % [2, 9, 9], comment)
    [wrapped] = read_trajectories(path)
    with pytest.raises(ValueError, match=r"the box is periodic .2 x 9 x 9.*--unwrap"):
        wrapped.complete()
    [found] = read_trajectories(path, unwrap=True)
    assert found.box is None
    moved = np.diff(found.positions, axis=0)
    np.testing.assert_allclose(moved, np.broadcast_to([0.4, 0, 0], moved.shape), atol=1e-9)
    path = xyz(path, frames * 2.4 % [2, 9, 9], comment)
    refused(path, "nearly half of the periodic box", unwrap=True)
    refused(xyz(path, frames, 'Lattice="2 1 0 0 9 0 0 0 9"'), "not a right-angled")
    [free] = read_trajectories(xyz(path, frames, 'Lattice="2 1 0 0 9 0 0 0 9" pbc="F F F"'))
    assert free.box is None


def test_other_files(tmp_path):
    refused(tmp_path / "a.pdb", r"it ends in .pdb; expected one of .csv, .npy, .npz, .txt, .xyz")
    with pytest.raises(OSError, match="no such file"):
        read_trajectories(tmp_path / "a.csv")
    assert factor("nm", "angstrom") == pytest.approx(10)


def test_prepared_windows(tmp_path, walk):
    files = tmp_path / "files"
    (files / "train").mkdir(parents=True)
    np.savez(files / "train" / "a.npz", positions=walk(12).positions + 1e6)
    np.savez(files / "long.npz", positions=walk(60, 5).positions, charges=np.arange(5))
    np.savez(files / "one.npz", positions=walk(1).positions)
    np.savez(files / "flat.npz", positions=walk(12, dimensions=2).positions)
    (files / "bad.npz").write_bytes(b"")
    windows = Windows(given=4, frames=6)
    shares = {"train": 0.5, "valid": 0.0, "test": 0.5}
    report = prepare(files, tmp_path / "shards", windows=windows, fractions=shares)
    prepared = PreparedTrajectories(tmp_path / "shards")
    names = dict(zip(prepared.table["name"].tolist(), prepared.table["split"], strict=True))
    assert names["train/a"] == "train"
    long = {name: split for name, split in names.items() if name.startswith("long")}
    assert list(long.values()) == ["train"] * 3 + ["test"] * 3
    reasons = (tmp_path / "shards" / "rejected.csv").read_text()
    assert report.rejected == 3
    assert "1 frames; expected at least 10" in reasons
    assert "2 dimensions; expected 3" in reasons
    record = prepared.records[names and list(names).index("train/a")]
    assert record["positions"].abs().max() < 100  # about its own place
    assert record["positions"][:, 3].mean((0,)).abs().max() < 1e-5


def test_windows_across_splits_in_time_are_left_out(tmp_path, walk):
    (tmp_path / "files").mkdir()
    np.savez(tmp_path / "files" / "a.npz", positions=walk(20).positions)
    windows, shares = Windows(given=2, frames=2, stride=1), {"train": 0.5, "test": 0.5}
    prepare(tmp_path / "files", tmp_path / "out", windows=windows, fractions=shares)
    prepared = PreparedTrajectories(tmp_path / "out")
    starts = {s: prepared.table["start"][prepared.rows(s)] for s in ("train", "test")}
    assert starts["train"].max() + 4 <= 10 <= starts["test"].min()


@pytest.mark.parametrize(
    ("kind", "trajectory", "said"),
    [
        ("molecule", {}, "elements of the atoms are missing"),
        ("molecule", {"charges": np.array([6.0, 17.0, 1.0])}, "atomic number 17 is not known"),
    ],
)
def test_features_that_cannot_be_made(walk, kind, trajectory, said):
    with pytest.raises(ValueError, match=said):
        record_of(walk(12, **trajectory), Windows(kind, 4, 8))


def test_pedestrian_features(walk):
    record, _ = record_of(walk(12, dimensions=2), Windows("pedestrians", 4, 8))
    assert record["nodes"].shape == (3, 12, 2)
    assert record["nodes"][..., 0].sum(1).tolist() == [4.0] * 3
    assert record["linked"].all()  # loops included
    speed = record["nodes"][..., 1]
    assert (speed - speed[:, :1]).abs().max() < 1e-6  # who goes straight on has one speed


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"kind": "cars"}, "kind must be one of"),
        ({"frames": 0}, "frames must be at least 1"),
        ({"kind": "pedestrians", "given": 1}, "two given frames"),
        ({"unit": "feet"}, "unknown unit"),
    ],
)
def test_unusable_windows(told, said):
    with pytest.raises(ValueError, match=said):
        Windows(**told)


def test_nothing_to_prepare(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected files of trajectories"):
        prepare(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected files that end in"):
        prepare(tmp_path / "empty", tmp_path / "out")


def test_a_trajectory_has_places():
    with pytest.raises(ValueError, match=r"expected .frames, nodes, 2 or 3."):
        Trajectory(np.zeros((3, 0, 3)))
