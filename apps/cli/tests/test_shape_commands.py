"""The verbs of shapes, end to end on small networks and meshes made here."""

import json

import numpy as np
import pytest
import torch
from rectiflow_cli.main import main
from rectiflow_shape import (
    MosaicTransformer,
    ShapePipeline,
    ShapeSettings,
    TripoSGDiT,
    TripoSGVae,
)
from rectiflow_shape.data.synthetic import sphere
from rectiflow_shape.geometry import certificate
from rectiflow_shape.io import read_mesh
from rectiflow_shape.mosaic import FitSettings, read_mosaic
from rectiflow_shape.mosaic.fit import start
from rectiflow_shape.training import RECIPE
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def mosaics(tmp_path_factory):
    """Weights whose samples are noise around a ball, so that there is a surface."""
    torch.manual_seed(0)
    network = MosaicTransformer(3, 16, 2, 1, classes=2)
    generator = torch.Generator().manual_seed(0)
    ball = start(*sphere(0.5, generator), FitSettings(24, 3, steps=0, pool=64), generator).mosaic
    network.measure(ball.centres, ball.scales * torch.linspace(0.9, 1.1, 24), ball.values)
    folder = tmp_path_factory.mktemp("weights") / "mosaics"
    settings = ShapeSettings(steps=2, tokens=24, depth=5, classes=("ball", "block"))
    ShapePipeline(network, settings=settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights") / "latents"
    vae = TripoSGVae(4, 2, 8, 16, 1, 1, 3, truncation=0.3)
    settings = ShapeSettings(steps=2, tokens=16, depth=5, text_encoder="minilm")
    dit = TripoSGDiT(4, 16, 2, 3, context=384)
    ShapePipeline(dit, vae, settings=settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    import trimesh

    path = tmp_path_factory.mktemp("meshes") / "box.ply"
    trimesh.creation.box((2.0, 1.0, 0.5)).apply_translation((5, 0, 0)).export(path)
    return path


def run(capsys, *words):
    """Run a command that must succeed, and return its document."""
    assert main(["shape", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    assert main(["shape", *map(str, words)]) == 2
    return capsys.readouterr().err


def test_samples_are_closed_meshes_that_repeat(capsys, mosaics, tmp_path):
    words = ("sample", "--weights", mosaics, "--num", 2, "--category", "ball")
    found = run(capsys, *words, "-o", tmp_path / "a")
    assert [row["files"] for row in found["samples"]] == [["shape_0000.glb"], ["shape_0001.glb"]]
    for row in found["samples"]:
        mesh, _ = read_mesh(tmp_path / "a" / row["files"][0])
        assert certificate(mesh).passed
        assert row["certificate"]["passed"]
        assert row["category"] == "ball"
    assert found["settings"]["nfe"] == 2 * 2  # midpoint, no guidance
    run(capsys, *words, "-o", tmp_path / "b", "--shard", "1/2")
    first, again = (tmp_path / each / "shape_0001.glb" for each in "ab")
    assert first.read_bytes() == again.read_bytes()
    assert RECIPE.numbers(first).shape[1] == 3
    assert run(capsys, *words, "-o", tmp_path / "a")["made"] == 0
    assert main(["rerun", str(tmp_path / "a" / "result.json")]) == 0
    assert "2 of 2 files are equal" in capsys.readouterr().out


def test_what_weights_do_not_know_is_refused(capsys, mosaics, tmp_path):
    common = ("sample", "--weights", mosaics, "-o", tmp_path / "a")
    assert "known: ball, block" in refused(capsys, *common, "--category", "chair")
    assert "know no words" in refused(capsys, *common, "--prompt", "a chair")
    assert "depth must lie" in refused(capsys, *common, "--depth", 40)
    told = refused(
        capsys, "encode", "x.glb", "--weights", mosaics, "-o", tmp_path / "l.safetensors"
    )
    assert "has no autoencoder" in told


def test_a_mesh_becomes_a_mosaic_and_a_mesh_again(capsys, box, tmp_path):
    few = ("--grids", 48, "--resolution", 4, "--fit-steps", 5)
    file, cubes = tmp_path / "m.safetensors", tmp_path / "cubes.glb"
    told = run(capsys, "fit", box, "-o", file, "--boxes", cubes, *few)
    assert told["error"] < told["error_before"] < 0.02
    assert len(read_mosaic(file)) == told["grids"] == 48
    assert certificate(read_mesh(cubes)[0]).components == 48
    out = tmp_path / "out.glb"
    assert run(capsys, "decode", file, "-o", out, "--depth", 5)["certificate"]["passed"]
    told = run(capsys, "reconstruct", box, "-o", tmp_path / "r.stl", "--depth", 5, *few)
    assert told["certificate"]["passed"]
    assert told["errors"]["iou"] > 0.85
    assert told["errors"]["chamfer_l1"] < 0.05
    mesh, _ = read_mesh(tmp_path / "r.stl")  # back in its place and size
    assert np.abs(mesh.bounds.mean(0) - (5, 0, 0)).max() < 0.1
    assert np.ptp(mesh.bounds, axis=0)[0] == pytest.approx(2.0, abs=0.15)


def test_a_folder_of_meshes_becomes_data(capsys, box, tmp_path):
    import trimesh

    folder = tmp_path / "meshes"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        trimesh.creation.icosphere(1).export(folder / name / f"{name}.obj")
    (folder / "one" / "empty.obj").write_text("v 0 0 0\n")
    few = ("--grids", 12, "--resolution", 3, "--fit-steps", 0)
    told = run(capsys, "fit", folder, "-o", tmp_path / "mosaics", *few)
    assert (told["accepted"], told["rejected"]) == (2, 1)
    assert "empty.obj" in (tmp_path / "mosaics" / "rejected.csv").read_text()
    assert ",one," in (tmp_path / "mosaics" / "metadata.csv").read_text()


def test_latents_there_and_back(capsys, box, latents, tmp_path):
    file = tmp_path / "l.safetensors"
    told = run(capsys, "encode", box, "--weights", latents, "-o", file)
    assert (told["tokens"], told["channels"]) == (16, 4)
    alone = tmp_path / "alone.safetensors"  # the autoencoder by itself, as its training leaves it
    words = ("encode", box, "--weights", latents / "vae", "--tokens", 16, "-o", alone)
    assert run(capsys, *words)["channels"] == 4
    same = (load_file(each)["latents"] for each in (file, alone))
    torch.testing.assert_close(*same, rtol=0, atol=0)
    assert "expected --weights" in refused(capsys, "decode", file, "-o", tmp_path / "x.glb")
    official = run(capsys, "convert", latents, "--to", "official", "-o", tmp_path / "theirs")
    assert set(official["networks"]) == {"network", "vae"}
    back = run(capsys, "convert", tmp_path / "theirs", "-o", tmp_path / "ours")
    hashes = [
        {n: each["weights_hash"] for n, each in d["networks"].items()} for d in (official, back)
    ]
    assert hashes[0] == hashes[1]


def test_pairs_train_a_student(capsys, mosaics, tmp_path):
    pairs = tmp_path / "pairs"
    told = run(capsys, "pairs", "--weights", mosaics, "--num", 20, "--steps", 2, "-o", pairs)
    assert told["pairs"] == 20
    words = [f"data.dir={pairs}", f"weights={mosaics}", "experiment=small_rectify"]
    words += [
        "debug=tiny_pairs",
        "network=pretrained",
        "vae=of_teacher",
        f"hydra.run.dir={tmp_path}/run",
    ]
    assert main(["shape", "reflow", *words]) == 0
    assert ShapePipeline.from_pretrained(tmp_path / "run" / "export").settings.steps == 10


def test_a_plan_tells_what_shapes_take(capsys, mosaics, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ("sample", "--num", "3", "--weights", mosaics, "--plan", "-o", tmp_path / "out")
    few = run(capsys, *words, "--depth", "4")
    many = run(capsys, *words, "--depth", "6")
    assert few["samples"] == many["samples"] == 3
    assert 0 < few["seconds"] < many["seconds"]
    assert 0 < few["memory"] < many["memory"] < many["free"]
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("rectiflow.commands.plan.free_memory", lambda device: 1000)
    assert "fewer --tokens or a lower --depth" in refused(capsys, *words)


def test_a_scan_is_completed_and_a_mesh_edited(capsys, box, tmp_path):
    """A box of 2 x 1 x 0.5 around (5, 0, 0), of which the front was scanned."""
    from rectiflow_shape.scan import Scan

    mesh, _ = read_mesh(box)
    scan = Scan.of_mesh(mesh, torch.Generator().manual_seed(0), 4000)
    scan = scan.some(scan.points[:, 2] > 0)
    np.savez(tmp_path / "scan.npz", points=scan.points, normals=scan.normals)
    told = ("--weights", "small", "--category", "cabinet", "--steps", 2, "--depth", 5)
    words = ("complete", tmp_path / "scan.npz", "--box", 4, -0.5, -0.25, 6, 0.5, 0.25, *told)
    [row] = run(capsys, *words, "-o", tmp_path / "whole.glb")["samples"]
    assert row["certificate"]["passed"]
    assert "mirror x" in row["guess"]
    made = read_mesh(tmp_path / "whole.glb")[0].bounds
    np.testing.assert_allclose(made, mesh.bounds, atol=0.2)  # the guess, and what the flow adds
    assert run(capsys, *words, "-o", tmp_path / "whole.glb")["made"] == 0
    planned = run(capsys, *words, "-o", tmp_path / "other.glb", "--plan")
    assert planned["samples"] == 1
    assert planned["seconds"] > 0
    assert not (tmp_path / "other.glb").exists()
    there = run(capsys, *words, "-o", tmp_path / "there.glb", "--on", "processes", "--workers", 1)
    assert there["made"] == 1
    assert (tmp_path / "there.glb").read_bytes() == (tmp_path / "whole.glb").read_bytes()
    region = ("--region", 4, -0.5, -0.5, 5, 0.5, 0.5)
    document = run(capsys, "edit", box, *region, *told, "-o", tmp_path / "edited.ply")
    assert document["samples"][0]["grids_drawn"] > 0
    assert document["samples"][0]["certificate"]["passed"]
    missing = ("complete", tmp_path / "none.npz", *told, "-o", tmp_path / "n.glb")
    assert "none.npz" in refused(capsys, *missing)


def test_weights_of_latents_complete_nothing(capsys, box, latents, tmp_path):
    words = ("edit", box, "--region", 4, -1, -1, 5, 1, 1, "--weights", latents)
    assert "expected a Mosaic-SDF" in refused(capsys, *words, "-o", tmp_path / "e.glb")
