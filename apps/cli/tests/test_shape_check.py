"""``rectiflow shape prepare``, ``check`` and ``repair``: what they tell and leave."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rectiflow_cli.main import main
from rectiflow_shape.geometry.solids import ball, box
from rectiflow_shape.io import write_mesh


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    write_mesh(tmp_path / "in" / "ball.stl", ball())
    write_mesh(tmp_path / "in" / "open.ply", box().of_faces(np.arange(2, 12)))
    (tmp_path / "in" / "empty.stl").write_text("solid\nendsolid\n")
    return tmp_path / "in"


def test_check_tells_what_each_file_is_like(folder, capsys):
    names = [str(folder / name) for name in ("ball.stl", "open.ply")]
    assert main(["shape", "check", *names, "--faces", "100"]) == 0
    told = capsys.readouterr().out
    assert "ball.stl: not passed: watertight, manifold, outward, more than 100 faces" in told
    assert "open.ply: not passed: manifold, outward, not watertight" in told
    assert "inside and outside are sure" in told
    assert "it is not closed: 4 boundary edges are open" in told
    assert main(["shape", "check", names[0], "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["meshes"]
    assert row["passed"]
    assert (row["components"], row["sign"]) == (1, "sure")


def test_check_refuses_what_it_cannot_read(folder, capsys):
    assert main(["shape", "check", str(folder / "empty.stl")]) == 2
    assert "empty.stl: it has no faces" in capsys.readouterr().err
    assert main(["shape", "check", str(folder / "empty.stl"), str(folder / "ball.stl")]) == 2
    told = capsys.readouterr()
    assert "empty.stl: it has no faces" in told.err
    assert "ball.stl: passed" in told.out


def test_prepare_writes_shards_and_says_what_was_left_out(folder, tmp_path, capsys):
    out = tmp_path / "out"
    sizes = ["--surface", "10", "--near", "10", "--volume", "10", "--views", "1", "--pixels", "16"]
    assert main(["shape", "prepare", str(folder), "-o", str(out), *sizes, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["accepted"], report["rejected"]) == (2, 1)
    assert (out / "metadata.csv").is_file()
    assert main(["shape", "prepare", str(folder), "-o", str(folder / "out")]) == 2
    assert "out must not lie inside the input folder" in capsys.readouterr().err


def test_repair_writes_a_watertight_copy(folder, capsys):
    words = ["shape", "repair", str(folder / "open.ply"), "-o", str(folder / "out.glb")]
    assert main([*words, "--depth", "5", "--faces", "500", "--size", "3", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["certificate"]["passed"]
    assert told["certificate"]["faces"] <= 500
    assert told["certificate"]["volume"] == pytest.approx(27, rel=0.2)
    assert told["distances"]["mean"] < told["distances"]["cell"]
    assert main(words) == 2
    assert "out.glb" in capsys.readouterr().err
