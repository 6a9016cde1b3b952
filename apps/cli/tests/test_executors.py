"""Every batch verb of every domain makes the same on every engine, and goes on where it stopped.

And those that make results tell before what that takes, which is true to 15 % in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rectiflow.costs import peak_memory
from rectiflow.execution import Here
from rectiflow_audio.examples import CLOCK_TICK, RAIN
from rectiflow_cli.domains import DOMAINS, Verb
from rectiflow_cli.main import main
from rectiflow_protein.examples import PROTEIN_G

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
    from PIL import Image
    from rectiflow_shape import MosaicTransformer, ShapePipeline, ShapeSettings
    from rectiflow_shape.data.synthetic import sphere
    from rectiflow_shape.mosaic import FitSettings
    from rectiflow_shape.mosaic.fit import start
    from rectiflow_shape.networks import TripoSGDiT, TripoSGVae
    from rectiflow_shape.networks.dinov2 import ImageEncoder

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
    sizes = {"image_size": 224, "patch_size": 56, "hidden_size": 8, "num_hidden_layers": 1}
    image = ImageEncoder({**sizes, "num_attention_heads": 2})
    vae, told = TripoSGVae(4, 2, 8, 16, 1, 1, 3, truncation=0.3), ShapeSettings(tokens=16, depth=4)
    network = TripoSGDiT(4, 16, 2, 3, context=8)
    ShapePipeline(network, vae, image, settings=told).save_pretrained(folder / "told")
    Image.new("RGB", (32, 32), "grey").save(folder / "photo.png")
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
    """Phantoms, and networks that restore, draw and deform."""
    from rectiflow_imaging.data.synthetic import phantom_files
    from rectiflow_imaging.networks import ImageUNet, MeanFlowNetwork, RecoveryNetwork
    from rectiflow_imaging.pipeline import DeformationPipeline, ImagePipeline
    from rectiflow_imaging.restoration import RestorationPipeline

    folder, sizes = tmp_path_factory.mktemp("bodies"), {"width": 8, "multipliers": (1, 2)}
    phantom_files(folder / "raw", 2, shape=(2, 16, 16))
    RestorationPipeline(MeanFlowNetwork(side=16, **sizes)).save_pretrained(folder / "weights")
    ImagePipeline(ImageUNet(16, **sizes)).save_pretrained(folder / "prior")
    DeformationPipeline(RecoveryNetwork(n_steps=4)).save_pretrained(folder / "moves")
    return folder


@pytest.fixture(scope="module")
def waves(tmp_path_factory):
    """A state on a circle, tables of stations and readings of a flow, and networks for the two."""
    from rectiflow_pde.air import AirPipeline, AirSettings
    from rectiflow_pde.data.air import write_plumes
    from rectiflow_pde.networks.air import AirNetwork
    from rectiflow_pde.networks.circle import CircleUnet
    from rectiflow_pde.rollout import RolloutPipeline, RolloutSettings

    folder = tmp_path_factory.mktemp("waves")
    np.savez(folder / "state.npz", u=np.sin(2 * np.pi * np.arange(32) / 32), length=8.0)
    steps = RolloutSettings(refinements=1, points=32)
    network = CircleUnet(hidden=8, multipliers=(1, 2), blocks=1)
    RolloutPipeline(network, settings=steps).save_pretrained(folder / "steps")
    write_plumes(folder / "tables", stations=6, hours=48)
    air = AirSettings(1.0, history=6, horizon=2)
    AirPipeline(AirNetwork(2, 4), settings=air).save_pretrained(folder / "air")
    rows = [f"{x},{y},{t},1.0,0.0" for x in (0.6, 0.9) for y in (0.1, 0.3) for t in (0, 0.2)]
    (folder / "read.csv").write_text("\n".join(["x,y,t,u,v", *rows]))
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
    """A network that separates, prepared sounds, and recordings with captions, and a short one."""
    from rectiflow_audio.io import read_audio, write_audio

    folder = tmp_path_factory.mktemp("sounds")
    fast = ("trainer.max_steps=1", "trainer.validate_every=1", "trainer.checkpoint_every=1")
    words = ("debug=tiny", *fast, "validation=none", f"hydra.run.dir={folder / 'run'}")
    assert main(["audio", "train", *words]) == 0
    (folder / "raw").mkdir()
    for path in (RAIN, CLOCK_TICK):
        shutil.copy(path, folder / "raw")
    rain = read_audio(RAIN)
    write_audio(folder / "short.wav", rain.samples[:, : rain.sample_rate // 2], rain.sample_rate)
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


WALL = "--prompt 'radius 0.05 m at Re 100' --weights {flows}/run"
BODY = "{bodies}/raw/ellipsoids_0000.npz"
PLANS = {
    "protein sample": "--lengths 60,90 --num 4 --steps 2 --weights {narrow}",
    "shape sample": CASES["shape sample"],
    "audio separate": "{sounds}/short.wav --query rain --weights {sounds}/run",
    **{verb: CASES[verb] for verb in ("pde simulate", "imaging restore")},
    **{verb: CASES[verb] for verb in ("trajectories sample", "trajectories forecast")},
    "protein scaffold": f"--motif {PROTEIN_G}:A3-9 --length 30 --steps 2 --weights {{narrow}}",
    "protein resample": f"{PROTEIN_G} --residues 20-25 --steps 2 --weights {{narrow}}",
    "audio repair": f"{RAIN} --inpaint 0.2-0.3 --evaluations 2 --weights {{sounds}}/run",
    "audio replace": f"{RAIN} --from rain --to sea --steps 1 --weights {{sounds}}/run",
    "shape complete": "{shapes}/meshes/box0.ply --depth 4 --weights {shapes}/weights",
    "shape edit": "{shapes}/meshes/box0.ply --region 0 -1 -1 1 1 1 --weights {shapes}/weights",
    "shape from-image": "{shapes}/photo.png --depth 4 --weights {shapes}/told",
    **{f"{domain} pairs": CASES[f"{domain} pairs"] for domain in ("shape", "pde", "trajectories")},
    "imaging pairs": "--num 4 --batch 2 --steps 2 --weights {bodies}/prior",
    "pde assimilate": f"--sensors {{waves}}/read.csv --evaluations 2 {WALL}",
    "pde forecast": "{waves}/tables --weights {waves}/air",
    "pde rollout": "{waves}/state.npz --steps 2 --num 2 --weights {waves}/steps",
    "imaging sample": "--num 3 --steps 2 --weights {bodies}/prior",
    "imaging deform": f"{BODY} --num 2 --steps 2 --level 2 --weights {{bodies}}/moves",
    "imaging reconstruct": f"{BODY} --views 4 --method fbp prior --steps 2 "
    "--weights {bodies}/prior",
}
"""Of the verbs that tell what a request takes."""

MEASURED = (
    *("protein sample", "audio separate", "shape sample", "pde simulate", "pde rollout"),
    *("imaging restore", "imaging reconstruct", "trajectories forecast"),
)
"""Whose memory is compared with what they take."""


@pytest.fixture
def words_of(request):
    """Return what gives the words of a verb, with the folders of its domain."""

    def words(verb: str, cases: dict[str, str] = CASES) -> list[str]:
        import re
        import shlex

        names = set(re.findall(r"{(\w+)}", cases[verb]))
        places = {name: request.getfixturevalue(name) for name in names}
        return [*verb.split(), *shlex.split(cases[verb].format(**places))]

    return words


def verb_of(words: str) -> Any:
    """Return the command behind a domain and a verb."""
    domain, name = words.split()
    verb = next(each for each in DOMAINS if each.name == domain).verbs()[name]
    module, _, attribute = verb.module.partition(":")
    return getattr(importlib.import_module(module), attribute or "main")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Keep the costs of this module's networks apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setattr("rectiflow.costs._REPEATS", 1)
        yield


def test_every_verb_that_offers_a_plan_is_planned_below():
    offered = {
        f"{domain.name} {name}"
        for domain in DOMAINS
        for name, verb in domain.verbs().items()
        if isinstance(verb, Verb)
        and "--plan" in verb_of(f"{domain.name} {name}").parser().format_help()
    }
    assert offered == set(PLANS)


PLANNED = {
    *("audio separate", "imaging reconstruct", "protein sample", "protein scaffold"),
    *("pde simulate", "shape sample", "shape pairs", "trajectories sample"),
}
"""Quick: one or two of each domain; the others' trials take seconds each."""


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize(
    "verb",
    [
        pytest.param(verb, marks=() if verb in PLANNED else pytest.mark.slow, id=verb)
        for verb in PLANS
    ],
)
def test_a_plan_tells_what_a_request_takes(verb, words_of, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [*words_of(verb, PLANS), "-o", "out.glb" if "shape" in verb else "out"]
    words[-1] = "out" if verb == "shape sample" else words[-1]
    capsys.readouterr()
    assert main([*words, "--plan", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] >= 1
    assert told["seconds"] > 0
    assert 0 < told["memory"] < told["free"]
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as small:
        small.setattr("rectiflow.commands.plan.free_memory", lambda device: 1.0)
        assert main([*words, "--plan"]) == 2
    assert "is too small, got 1 bytes free for about" in capsys.readouterr().err
    if verb in MEASURED:
        command = verb_of(verb)
        args = command.parser().parse_args(words[2:])
        args.executor = Here()
        pipe, jobs = command.load(args), command.jobs(args)
        command.settings(args, pipe)
        chunk = max(command.chunks(args, pipe, jobs), key=len)
        resting = sum(p.nbytes for part in pipe.parts.values() for p in part.state_dict().values())
        found = peak_memory(
            lambda: command.make(args, pipe, chunk, tmp_path, lambda *_: None), pipe.device
        )
        assert told["memory"] == pytest.approx(resting + found, rel=0.15)


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
