"""Preparing folders of meshes: complete, resumable, the same for any number of workers."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest
import torch
from rectiflow.execution import Processes
from rectiflow_shape.data import PreparedShapes, Samples, mesh_of, prepare
from rectiflow_shape.geometry import BOX, HALF_EXTENT, Mesh, SignedDistance
from rectiflow_shape.geometry.solids import ball, box, joined, turned
from rectiflow_shape.io import write_mesh

SAMPLES = Samples(surface=300, near=200, volume=100, views=2, pixels=32)
SHEET = Mesh([[-1, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]], [[0, 2, 1], [0, 3, 2]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight rows of a table, three of them unusable."""
    inputs = tmp_path_factory.mktemp("meshes")
    write_mesh(inputs / "brick.ply", box((0, 0, 0), (1, 2, 3)))
    write_mesh(inputs / "ball.stl", ball())
    write_mesh(
        inputs / "turned.off", turned(joined(box(), box((0, -0.5, -0.5), (2, 0.5, 0.5))), [2, 4])
    )
    write_mesh(inputs / "sheet.obj", SHEET)
    shutil.copy(inputs / "ball.stl", inputs / "again.stl")
    (inputs / "empty.stl").write_text("solid\nendsolid\n")
    rows = [
        ("brick.ply", "block", "a brick", "train"),
        ("ball.stl", "round", "a ball", "val"),
        ("turned.off", "block", "two boxes", "test"),
        ("sheet.obj", "flat", "", ""),
        ("again.stl", "round", "a ball", "train"),
        ("empty.stl", "", "", ""),
        ("absent.stl", "", "", ""),
        ("brick.ply", "block", "a brick", "later"),
    ]
    with (inputs / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "class", "caption", "split"])
        writer.writerows(rows)
    return inputs


@pytest.fixture(scope="module")
def shapes(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    report = prepare(folder, out, samples=SAMPLES)
    assert (report.inputs, report.accepted, report.rejected) == (8, 4, 4)
    assert report.counts == {"classes": 3, "repaired": 1, "unsure": 1}
    return PreparedShapes(out, verify=True)


def test_every_row_is_used_or_refused_with_a_reason(shapes):
    with (shapes.folder / "rejected.csv").open(newline="") as file:
        refused = [(row["file"], row["line"], row["reason"]) for row in csv.DictReader(file)]
    expected = [
        ("again.stl", "6", "the same vertices as ball.stl"),
        ("empty.stl", "7", "it has no faces"),
        ("absent.stl", "8", "there is no such file"),
        ("brick.ply", "9", "unknown split 'later'"),
    ]
    assert [row[:2] for row in refused] == [row[:2] for row in expected]
    for (*_, reason), (*_, words) in zip(refused, expected, strict=True):
        assert words in reason
    table = shapes.table
    assert table["class"].tolist() == ["block", "round", "block", "flat"]
    assert table["split"].tolist()[:3] == ["train", "valid", "test"]
    assert table["caption"].tolist() == ["a brick", "a ball", "two boxes", "flat"]
    assert "turned the winding of 2 faces" in table["repairs"][2]
    np.testing.assert_allclose(table["confidence"], [1, 1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(table["sheets"], [0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(table["scale"], np.array([1.5, 1, 1.5, 1]) / HALF_EXTENT, rtol=1e-4)


def test_samples_are_what_they_are_called(shapes):
    for index, record in enumerate(shapes.records):
        mesh = mesh_of(record)
        assert float(np.abs(mesh.vertices).max()) == pytest.approx(HALF_EXTENT)
        distance = SignedDistance(mesh, SAMPLES.thickness)
        assert record["surface"].shape == (300, 3)
        assert distance(record["surface"]).abs().max() < 1e-4
        assert distance(record["surface"] + 2e-3 * record["normals"].float()).min() > 0
        for name, count in (("near", 200), ("volume", 100)):
            points, values = record[name], record[f"{name}_sdf"]
            assert points.shape == (count, 3)
            assert points.abs().max() <= BOX
            torch.testing.assert_close(values, distance(points), atol=1e-5, rtol=0)
        assert record["near_sdf"].abs().median() < 0.05
        assert bool((record["near_sdf"] < 0).any())  # the sheet has a thickness, and an inside
        assert record["views"].shape == (2, 3, 32, 32)
        assert record["cameras"].shape == (2, 4)
        assert record["views"].amin() < 200 < record["views"].amax(), index


def test_workers_and_interruption_change_nothing(folder, shapes, tmp_path):
    prepare(folder, tmp_path / "two", samples=SAMPLES, executor=Processes(2))
    for name in ("metadata.csv", "rejected.csv", "manifest.json"):
        assert (tmp_path / "two" / name).read_bytes() == (shapes.folder / name).read_bytes()
    with pytest.raises(ValueError, match="surface is 300 there, got 301 now"):
        prepare(folder, tmp_path / "two", samples=Samples(301, 200, 100, views=2, pixels=32))


def test_a_folder_without_a_table_is_read_by_its_names(tmp_path):
    (tmp_path / "in" / "chair").mkdir(parents=True)
    write_mesh(tmp_path / "in" / "chair" / "Old_Chair-2.ply", box())
    prepare(tmp_path / "in", tmp_path / "out", samples=Samples(10, 10, 10), up="z")
    table = PreparedShapes(tmp_path / "out").table
    assert table["class"].tolist() == ["chair"]
    assert table["caption"].tolist() == ["a chair: old chair 2"]


def test_packed_meshes_are_those_of_the_table(tmp_path):
    meshes = {"a": box(), "b": ball(4)}
    sizes = [[len(getattr(m, what)) for m in meshes.values()] for what in ("vertices", "faces")]
    (tmp_path / "in").mkdir()
    np.savez(
        tmp_path / "in" / "meshes.npz",
        vertices=np.concatenate([m.vertices for m in meshes.values()]).astype("f4"),
        faces=np.concatenate([m.faces for m in meshes.values()]).astype("u2"),
        vertex_offsets=np.cumsum([0, *sizes[0]]),
        face_offsets=np.cumsum([0, *sizes[1]]),
        names=np.array(list(meshes)),
    )
    (tmp_path / "in" / "metadata.csv").write_text("name,class\nb,round\na,block\nc,none\n")
    report = prepare(tmp_path / "in", tmp_path / "out", samples=Samples(10, 10, 10))
    assert (report.accepted, report.rejected) == (2, 1)
    table = PreparedShapes(tmp_path / "out").table
    assert table["faces"].tolist() == [len(ball(4).faces), 12]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": {"train": 0.5}}, "split fractions must share 1"),
    ],
)
def test_unusable_arguments_are_refused(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "out", samples=SAMPLES, **options)


def test_unusable_folders_and_samples_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="out must not lie inside"):
        prepare(folder, folder / "out")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        prepare(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="has no meshes"):
        prepare(tmp_path, tmp_path.with_name("elsewhere"))
    with pytest.raises(ValueError, match="thickness must lie between 0 and"):
        Samples(thickness=0)
    with pytest.raises(ValueError, match="near must be at least 1, got 0"):
        Samples(near=0)
