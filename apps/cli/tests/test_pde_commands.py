"""The commands of the physics domain, end to end on narrow networks and made-up flows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rectiflow_cli import main
from rectiflow_cli.pde.assimilate import METHODS
from rectiflow_pde.data.synthetic import prepare_synthetic, synthetic_flow
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.result import read_npz


def rectiflow(*words):
    return main.main(["pde", *map(str, words)])


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return prepare_synthetic(tmp_path_factory.mktemp("flows") / "shards", num=3, frames=25)


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A run folder of a few steps."""
    folder = tmp_path_factory.mktemp("run") / "flow"
    words = ("experiment=small", "debug=tiny", f"data.dir={shards}", f"run_dir={folder}")
    assert rectiflow("train", *words, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """A mesh and a first frame on disk, as another solver's user has them."""
    import meshio

    folder = tmp_path_factory.mktemp("case")
    flow = synthetic_flow(0)
    mesh = flow.mesh
    points = np.c_[mesh.points, np.zeros(mesh.n_nodes)]
    meshio.Mesh(points, [("triangle", mesh.triangles)]).write(folder / "mesh.vtu")
    np.savez(folder / "frame.npz", **{name: flow.fields[name][0] for name in "uvp"})
    return folder


def test_training_exports_what_simulates(run, shards, tmp_path, capsys):
    pipe = SimulationPipeline.from_pretrained(run)
    assert pipe.guard is not None
    assert pipe.settings.frame_step == pytest.approx(0.05)
    words = ("--prompt", "flow past a cylinder of radius 0.05 m at Reynolds number 100")
    told = (*words, "--weights", run, "--steps", 1, "-o", tmp_path / "out")
    assert rectiflow("simulate", *told, "--num", 2, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["samples"]] == ["flow_0000", "flow_0001"]
    flow = read_npz(tmp_path / "out" / "flow_0001.npz")
    assert flow.parameters["reynolds"] == pytest.approx(100)
    assert rectiflow("simulate", *told, "--num", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    long = tmp_path / "long"
    assert rectiflow("simulate", *told[:-1], long, "--frames", 40, "--restart", 9, "--json") == 0
    assert json.loads(capsys.readouterr().out)["made"] == 1
    assert len(read_npz(long / "flow_0000.npz").times) == 40
    assert rectiflow("simulate", *told[:-1], tmp_path / "off", "--restart", 24) == 2
    assert "restart lie in 1 to 23, got 24 and 24" in capsys.readouterr().err


def test_a_first_frame_with_all_that_can_be_asked(run, case, tmp_path, capsys):
    told = ("--mesh", case / "mesh.vtu", "--first-frame", case / "frame.npz", "--infer-boundaries")
    more = ("--weights", run, "--steps", 1, "--verify", "--format", "vtu", "--gif")
    assert rectiflow("simulate", *told, *more, "-o", tmp_path / "out", "--json") == 0
    [row] = json.loads(capsys.readouterr().out)["samples"]
    assert len(row["verified_error"]) == 3
    assert (tmp_path / "out" / "flow_0000.gif").stat().st_size > 1000
    assert (tmp_path / "out" / "flow_0000.pvd").is_file()
    assert set(row["files"]) == {p.name for p in (tmp_path / "out").glob("flow_*")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--prompt WORDS"),
        (("--first-frame", "frame.npz"), "--mesh"),
        (("--prompt", ""), "empty"),
        (("--prompt", "Re 100", "--verify", "--frames", "1"), "got --frames 1; expected 2"),
        (("--prompt", "cylinder of radius 0.05 m at position 0.3, 0.04, Re 100"), "gap|wall"),
        (("--prompt", "radius 0.05 at Re 100", "--weights", "nothing"), "nothing"),
    ],
)
def test_what_cannot_be_simulated_is_told_in_one_line(words, said, run, tmp_path, capsys):
    import re

    own = () if "--weights" in words else ("--weights", run)
    assert rectiflow("simulate", *words, *own, "-o", tmp_path / "out") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert re.search(said, line)


def test_eval_pairs_and_reflow(run, shards, tmp_path, capsys):
    out = tmp_path / "measured"
    told = (shards, "--num", 1, "--weights", run, "--steps", 1, 2, "-o", out, "--json")
    assert rectiflow("eval", *told) == 0
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert set(summary) == {"persistence", "time mean", "1 steps", "2 steps"}
    assert (out / "metrics.csv").is_file()
    pairs = tmp_path / "pairs"
    told = ("--weights", run, "--num", 4, "--batch", 2, "--steps", 2, "-o", pairs)
    assert rectiflow("pairs", shards, *told) == 0
    folder = tmp_path / "student"
    words = (f"data.dir={pairs}", f"weights={run}", "experiment=small_rectify")
    small = ("trainer.max_steps=2", "data.module.batch_size=2", "trainer.accelerator=cpu")
    few = ("data.module.hold_out_every=null", "trainer.validate_every=null")
    assert rectiflow("reflow", *words, *small, *few, f"hydra.run.dir={folder}") == 0
    teacher, student = (SimulationPipeline.from_pretrained(f) for f in (run, folder))
    assert student.settings == teacher.settings
    assert (student.codec.basis == teacher.codec.basis).all()
    assert student.guard is not None


def test_the_authors_stages_train(shards, tmp_path, capsys):
    codec = tmp_path / "codec"
    words = (f"data.dir={shards}", "experiment=small_ae", "debug=tiny_ae")
    assert rectiflow("train", *words, "trainer.max_steps=1", f"hydra.run.dir={codec}") == 0
    flow = tmp_path / "diffusion"
    words = (f"data.dir={shards}", "experiment=small_diffusion", "debug=tiny_diffusion")
    more = ("codec=pretrained", f"codec.weights={codec}", "trainer.max_steps=1")
    assert rectiflow("train", *words, *more, f"hydra.run.dir={flow}") == 0
    pipe = SimulationPipeline.from_pretrained(flow)
    assert pipe.conditioner is not None
    capsys.readouterr()
    assert rectiflow("convert", flow, "--to", "official", "-o", tmp_path / "official") == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "other groups and radii" in line


def test_assimilation_from_a_table(run, tmp_path, capsys):
    table, out = tmp_path / "readings.csv", tmp_path / "out"
    rows = [f"{x},{y},{t},1.0,0.0" for x in (0.6, 0.9) for y in (0.1, 0.3) for t in (0, 0.2)]
    table.write_text("\n".join(["x,y,t,u,v", *rows]))
    prompt = "flow past a cylinder of radius 0.05 m at Re 100"
    words = ("--sensors", table, "--prompt", prompt, "--weights", run, "-o", out)
    assert rectiflow("assimilate", *words, "--num", 2, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in document["samples"]] == ["flow_0000", "flow_0001"]
    flow = read_npz(out / "flow_0001.npz")
    assert flow.parameters["reynolds"] == pytest.approx(100)
    assert rectiflow("assimilate", *words, "--num", 2, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    told = (*words[:-1], tmp_path / "methods", "--compare", "--evaluations", 2, "--json")
    assert rectiflow("assimilate", *told) == 2
    assert "at least 5" in capsys.readouterr().err
    assert not (tmp_path / "methods").exists()
    table.write_text("\n".join(["x,y,t,u,v", *rows, "1.2,0.2,0,1,0"]))
    assert rectiflow("assimilate", *told) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert {row["method"] for row in methods} == set(METHODS)
    assert [row["error"] for row in methods] == sorted(row["error"] for row in methods)
    assert json.loads((tmp_path / "methods" / "methods.json").read_text())["methods"] == methods
    table.write_text("x,y,t,u\n0.6,0.5,0,1\n")
    words = ("--sensors", table, "--prompt", prompt, "--weights", run, "-o", tmp_path / "other")
    assert rectiflow("assimilate", *words) == 2
    assert "outside of the mesh" in capsys.readouterr().err
    assert rectiflow("assimilate", *words[2:], "--sensors", tmp_path / "none.csv") == 2
