"""Every batch verb of every domain makes the same on every engine, and goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rectiflow_audio.examples import CLOCK_TICK, RAIN
from rectiflow_cli.main import main

ENGINES = {
    "processes": ("--workers", "2"),
    "ray": ("--on", "ray", "--workers", "2"),
    "slurm": ("--on", "slurm:local", "--workers", "1"),
}
QUICK = {
    "processes": (
        *("protein sample", "protein eval", "audio separate", "audio pairs"),
        *("shape prepare", "pde simulate", "pde solve", "trajectories forecast"),
    ),
    "ray": ("protein sample", "pde eval"),
    "slurm": ("protein sample", "protein prepare"),
}
"""Verbs of each kind; the others on each engine are slow."""
ON_SLURM = ("protein sample", "protein pairs", "protein prepare", "protein eval")
TOLD = ("result.json", "rain.json")
"""Listings, which tell when and how long as well."""


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """Weights whose samples have a surface, meshes, and shards of them."""
    import trimesh
    from rectiflow_shape import MosaicTransformer, ShapePipeline, ShapeSettings
    from rectiflow_shape.data.synthetic import sphere
    from rectiflow_shape.mosaic import FitSettings
    from rectiflow_shape.mosaic.fit import start

    folder = tmp_path_factory.mktemp("shapes")
    torch.manual_seed(0)
    network = MosaicTransformer(3, 16, 2, 1, classes=2)
    generator = torch.Generator().manual_seed(0)
    ball = start(*sphere(0.5, generator), FitSettings(24, 3, steps=0, pool=64), generator).mosaic
    network.measure(ball.centres, ball.scales * torch.linspace(0.9, 1.1, 24), ball.values)
    settings = ShapeSettings(steps=2, tokens=24, depth=4, classes=("ball", "block"))
    ShapePipeline(network, settings=settings).save_pretrained(folder / "weights")
    (folder / "meshes").mkdir()
    for i in range(2):
        trimesh.creation.box((2.0, 1.0, 0.5 + i)).export(folder / "meshes" / f"box{i}.ply")
    return folder


@pytest.fixture(scope="module")
def flows(tmp_path_factory):
    """Prepared flows, solved flows of others, and a network that simulates."""
    from rectiflow_pde.data.synthetic import prepare_synthetic

    folder = tmp_path_factory.mktemp("flows")
    prepare_synthetic(folder / "shards", num=2, frames=25)
    words = ("experiment=small", "debug=tiny", f"data.dir={folder / 'shards'}")
    assert main(["pde", "train", *words, f"hydra.run.dir={folder / 'run'}"]) == 0
    return folder


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    """Phantoms, and a network that restores."""
    from rectiflow_imaging.data.synthetic import phantom_files
    from rectiflow_imaging.networks import MeanFlowNetwork
    from rectiflow_imaging.restoration import RestorationPipeline

    folder = tmp_path_factory.mktemp("bodies")
    phantom_files(folder / "raw", 2, shape=(2, 16, 16))
    network = MeanFlowNetwork(side=16, width=8, multipliers=(1, 2))
    RestorationPipeline(network).save_pretrained(folder / "weights")
    return folder


@pytest.fixture(scope="module")
def movers(tmp_path_factory):
    """Short runs of particles, windows of them, and a network that forecasts."""
    from rectiflow_trajectories.data.synthetic import synthetic_trajectories

    folder = tmp_path_factory.mktemp("movers")
    synthetic_trajectories(folder / "data", num=4, given=3, frames=4)
    words = ("debug=tiny", f"data.dir={folder / 'data'}", f"hydra.run.dir={folder / 'run'}")
    assert main(["trajectories", "train", *words]) == 0
    return folder


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """A network that separates, prepared sounds, and recordings with captions."""
    folder = tmp_path_factory.mktemp("sounds")
    fast = ("trainer.max_steps=1", "trainer.validate_every=1", "trainer.checkpoint_every=1")
    words = ("debug=tiny", *fast, "validation=none", f"hydra.run.dir={folder / 'run'}")
    assert main(["audio", "train", *words]) == 0
    (folder / "raw").mkdir()
    for path in (RAIN, CLOCK_TICK):
        shutil.copy(path, folder / "raw")
    rows = [f"{Path(path).name},some sound" for path in (RAIN, CLOCK_TICK)]
    (folder / "raw" / "metadata.csv").write_text("\n".join(["file,caption", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def chains(tmp_path_factory, narrow):
    """Structures to measure and to prepare, made by the network of the fixture."""
    folder = tmp_path_factory.mktemp("chains")
    words = ("--length", "12", "--num", "3", "--steps", "2", "--weights", narrow)
    assert main(["protein", "sample", *words, "-o", str(folder / "backbones")]) == 0
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Return what is in a folder of results: digests of files, and the rows of listings."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != ".rectiflow"):
        content = path.read_bytes()
        if path.name in TOLD:
            listed = json.loads(content)
            content = json.dumps([listed["samples"], listed.get("failed")]).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(content).hexdigest()
    return found


CASES = {
    "protein sample": "--lengths 12,16 --num 4 --steps 2 --max-pairs 600 --weights {narrow}",
    "protein pairs": "--lengths 12,16 --num 6 --batch 2 --steps 2 --keep-all --weights {narrow}",
    "protein prepare": "{chains}/backbones --min-length 5 --splits 1,0,0",
    "protein eval": "{chains}/backbones",
    "audio separate": "{sounds}/raw --query rain --steps 1 --weights {sounds}/run",
    "audio pairs": "{sounds}/run/data --num 4 --batch 2 --steps 1 --weights {sounds}/run",
    "audio prepare": "{sounds}/raw --splits 1,0,0",
    "audio eval": "{sounds}/run/data --num 2 --seconds 0.64 --split train --steps 1 "
    "--weights {sounds}/run",
    "shape sample": "--num 2 --category ball --weights {shapes}/weights --seed 3",
    "shape pairs": "--num 4 --batch 2 --weights {shapes}/weights",
    "shape fit": "{shapes}/meshes --grids 24 --resolution 3 --batch 1",
    "shape prepare": "{shapes}/meshes --surface 64 --near 64 --volume 64 --splits 1,0,0",
    "pde simulate": "--prompt 'flow past a cylinder of radius 0.05 m at Re 100' --num 5 --steps 1 "
    "--weights {flows}/run",
    "pde pairs": "{flows}/shards --num 2 --batch 1 --steps 1 --weights {flows}/run",
    "pde solve": "ks --num 2 --frames 4 --points 32",
    "pde prepare": "{flows}/shards --splits 1,0,0",
    "imaging prepare": "{bodies}/raw --side 16 --splits 1,0,0",
    "imaging reconstruct": "{bodies}/raw/ellipsoids_0000.npz {bodies}/raw/ellipsoids_0001.npz "
    "--side 16 --views 4",
    "imaging restore": "{bodies}/raw/ellipsoids_0000.npz {bodies}/raw/ellipsoids_0001.npz "
    "--steps 2 --trial --weights {bodies}/weights",
    "pde eval": "{flows}/shards --split train --steps 1 --weights {flows}/run",
    "trajectories simulate": "charged --num 3 --steps 300",
    "trajectories prepare": "{movers}/data_runs --given 3 --frames 4 --splits 1,0,0",
    "trajectories sample": "{movers}/data --split train --num 20 --steps 2 --weights {movers}/run",
    "trajectories forecast": "{movers}/data_runs/valid/loc_charged.npy --num 2 --steps 2 "
    "--weights {movers}/run",
    "trajectories pairs": "{movers}/data --num 4 --batch 2 --steps 1 --weights {movers}/run",
    "trajectories eval": "{movers}/data --split train --num 2 --steps 2 --weights {movers}/run",
}


@pytest.fixture
def words_of(request):
    """Return what gives the words of a verb, with the folders of its domain."""

    def words(verb: str) -> list[str]:
        import re
        import shlex

        names = set(re.findall(r"{(\w+)}", CASES[verb]))
        places = {name: request.getfixturevalue(name) for name in names}
        return [*verb.split(), *shlex.split(CASES[verb].format(**places))]

    return words


@pytest.fixture(scope="module")
def expected():
    """What each verb makes in this process, once it was asked for."""
    return {}


@pytest.mark.parametrize(
    ("verb", "engine"),
    [
        pytest.param(
            verb,
            engine,
            marks=() if verb in QUICK[engine] else pytest.mark.slow,
            id=f"{verb}-{engine}",
        )
        for verb in CASES
        for engine in ENGINES
        if engine != "slurm" or verb in ON_SLURM  # one of each kind: its jobs take seconds to start
    ],
)
def test_every_verb_makes_the_same_on_every_engine(
    verb, engine, words_of, expected, request, tmp_path, monkeypatch
):
    if engine == "ray":
        request.getfixturevalue("ray_here")
    if engine == "slurm":
        pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)
    words = words_of(verb)
    if verb not in expected:
        assert main([*words, "-o", "here"]) == 0
        expected[verb] = hashes(tmp_path / "here")
        assert len(expected[verb]) >= 2
    assert main([*words, *ENGINES[engine], "-o", "there"]) == 0
    assert hashes(tmp_path / "there") == expected[verb]
    assert not list(tmp_path.rglob(".*.partial"))


def test_one_bad_recording_costs_itself(sounds, tmp_path, capsys):
    shutil.copytree(sounds / "raw", tmp_path / "raw")
    (tmp_path / "raw" / "bad.wav").write_bytes(b"no sound")
    words = ["audio", "separate", str(tmp_path / "raw"), "--query", "rain", "--steps", "1"]
    words += ["--weights", str(sounds / "run"), "-o", str(tmp_path / "out"), "--json"]
    assert main([*words, "--workers", "2"]) == 0
    told, said = capsys.readouterr()
    assert len(json.loads(told)["samples"]) == 2
    assert list(json.loads(told)["failed"]) == ["bad"]
    assert "passed over" in said
    # One that was named itself: the others are made, then the command says that it failed.
    named = [str(path) for path in sorted((tmp_path / "raw").glob("*.[fw]*"))]
    assert main([*words[:2], *named, *words[3:-2], str(tmp_path / "again"), "--workers", "2"]) == 2
    assert "bad.wav" in capsys.readouterr().err.splitlines()[-1]
    assert len(list((tmp_path / "again").rglob("*.wav"))) == 2


def test_a_killed_driver_goes_on_with_what_is_missing(narrow, tmp_path):
    """SIGKILL of the driver in the middle; the same command sweeps, and makes what is not there."""
    out = tmp_path / "out"
    words = ["protein", "sample", "--length", "24", "--num", "24", "--steps", "8", "--max-pairs"]
    words += ["576", "--weights", narrow, "--device", "cpu", "--workers", "2", "-o"]
    command = [sys.executable, "-m", "rectiflow_cli", *words, str(out)]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 240
    while len(list(out.glob("*.pdb"))) < 3:
        assert driver.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    driver.kill()
    driver.wait()
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("*.pdb")}
    assert 3 <= len(there) < 24
    assert main([*words, str(out)]) == 0
    assert main([*words[:-3], "-o", str(tmp_path / "whole")]) == 0
    assert hashes(out) == hashes(tmp_path / "whole")
    listed = {row["files"][0] for row in json.loads((out / "result.json").read_text())["samples"]}
    assert len(listed) == 24
    kept = [name for name in there if (out / name).stat().st_mtime_ns == there[name]]
    assert len(kept) >= len(there) - 1  # one may have been moved and not yet listed
    assert not list(out.glob(".*.partial"))
