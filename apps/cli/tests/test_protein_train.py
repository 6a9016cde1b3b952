from __future__ import annotations

import json
from pathlib import Path

import pytest
from rectiflow.rectify import PairStore
from rectiflow.training import read_metrics
from rectiflow_cli.main import main
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.pipeline import BackbonePipeline

DEBUG = (
    *("debug=tiny", "data.min_length=16", "validation.lengths=[12]"),
    "trainer.validate_every=5",
)
PLAIN = "validation.pictures=false"  # drawing takes longer than training here


pytestmark = pytest.mark.usefixtures("in_work")


@pytest.fixture(scope="module")
def trained(work):
    """A run of five steps; its folder."""
    assert main(["protein", "train", *DEBUG, f"hydra.run.dir={work / 'a'}", *steps(5)]) == 0
    return work / "a"


def steps(number: int) -> list[str]:
    return [f"trainer.max_steps={number}"]


def rows(run: Path) -> list[dict[str, str]]:
    """Rows of the metrics, but for how fast it went."""
    skip = {"train/samples_per_s"}
    found = read_metrics(run / "metrics.csv")
    return [{key: value for key, value in row.items() if key not in skip} for row in found]


def test_a_run_folder_has_all_of_a_run(trained):
    for name in ("run.json", "config.yaml", "version.json", "metrics.csv", "losses.png", ".hydra"):
        assert (trained / name).exists()
    for name in ("last.ckpt", "best.ckpt"):
        assert (trained / "checkpoints" / name).is_file()
    shots = sorted(path.name for path in (trained / "samples").iterdir())
    assert shots == ["step_0000005"]
    inside = {path.name for path in (trained / "samples" / shots[0]).iterdir()}
    assert inside == {
        *(".rectiflow", "length_012_sample_00000.pdb", "result.json"),
        *("ramachandran.png", "ca_ca.png", "distances.png"),
    }


def test_metrics_hold_what_checkpoints_are_chosen_by(trained):
    last = read_metrics(trained / "metrics.csv")[-1]
    for name in ("ca_ca_valid", "helix", "strand", "radius_of_gyration", "clashes", "loss"):
        assert last[f"val/{name}"]


def test_the_export_is_the_averaged_network_with_a_card(trained):
    from rectiflow.storage.pretrained import weights_hash
    from rectiflow.training import network_weights

    network = ReQFlowNetwork.from_pretrained(trained / "export")
    assert weights_hash(network) == weights_hash(network_weights(trained / "checkpoints/last.ckpt"))
    raw = network_weights(trained / "checkpoints/last.ckpt", None)
    assert weights_hash(network) != weights_hash(raw)
    card = json.loads((trained / "export" / "config.json").read_text())["card"]
    assert (card["step"], card["weights"]) == (5, "moving average 0.999")
    assert card["metrics"]["val/loss"] > 0
    assert card["data"]["module"]["batching"]["max_batch_size"] == 4
    assert card["version"]["libraries"]["torch"]
    best = json.loads((trained / "export_best" / "config.json").read_text())["card"]
    assert best["step"] == 5
    assert len(BackbonePipeline.from_pretrained(trained / "export")([9], steps=2).samples) == 1


def test_a_run_that_goes_on_has_the_numbers_of_one_that_did_not_stop(trained, work, capsys):
    folder = work / "b"
    given = ["protein", "train", *DEBUG, PLAIN, f"hydra.run.dir={folder}"]
    # The time is up after the first step; it is saved, validated by nobody, and exported.
    assert main([*given, *steps(5), "trainer.max_time_s=0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 1
    assert (folder / "export" / "model.safetensors").is_file()
    # The overrides it was started with need not be given again; new ones win.
    assert main(["protein", "train", f"resume={folder}", "trainer.max_time_s=null", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 5
    assert rows(folder) == rows(trained)


def test_a_run_is_not_overwritten(trained, capsys):
    assert main(["protein", "train", *DEBUG, f"hydra.run.dir={trained}"]) == 2
    assert f"already holds a run; expected a new folder. Go on with it by resume={trained}" in (
        capsys.readouterr().err
    )


def test_a_sweep_is_one_json_document(work, trained, capsys):
    words = [*DEBUG, PLAIN, f"data.dir={trained / 'data'}", "-m", "trainer.max_steps=1,2"]
    assert main(["protein", "train", *words, "--json", f"hydra.sweep.dir={work / 'sweep'}"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [run["step"] for run in runs] == [1, 2]
    assert (work / "sweep" / "1" / "export").is_dir()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["+foo=1"], "unknown config key 'foo'; known: compile, data"),
        (["+trainer.foo=1"], "unknown key of trainer (rectiflow.training.fit) 'foo'"),
        (["edge_dtype=int8"], "unknown edge_dtype 'int8'; known: float32, bfloat16."),
        (["optimizer.lr=-1"], "the optimiser cannot be made (Invalid learning rate: -1)"),
        (["network=pretrained"], "weights is not given; expected the checkpoint to start from"),
        (["network=pretrained", "weights=nowhere"], "no weights at 'nowhere'"),
        (["training.grad_clip=-1"], "grad_clip must be positive, got -1"),
        (["training.ema=[2]"], "decay must lie in [0, 1), got 2"),
        (["data.module.batching.max_batch_size=0"], "a batch must hold at least one chain"),
        (["validation.lengths=[1]"], "validation needs lengths of at least 2"),
    ],
)
def test_each_wrong_setting_is_one_line(words, message, trained, work, capsys):
    given = [*DEBUG, f"data.dir={trained / 'data'}", f"hydra.run.dir={work / 'wrong'}", *words]
    assert main(["protein", "train", *given]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_filters_that_leave_nothing_say_so(trained, capsys):
    words = [*DEBUG, f"data.dir={trained / 'data'}", "data.min_length=300", "data.max_length=400"]
    assert main(["protein", "train", *words]) == 2
    assert "has no chain in the split 'train'" in capsys.readouterr().err


def test_pairs_then_reflow(trained, work, capsys):
    teacher = str(trained / "export")
    words = ["--weights", teacher, "--steps", "3", "--device", "cpu", "--json"]
    made = ["protein", "pairs", "--lengths", "12,14", "--num", "8", "--keep-all", *words]
    for part in ("0/2", "1/2"):
        assert main([*made, "--shard", part, "-o", "pairs"]) == 0
    told = json.loads(capsys.readouterr().out.rpartition("}\n{")[2].join(["{", ""]))
    assert (told["pairs"], told["complete"]) == (8, True)
    assert main([*made, "-o", "whole"]) == 0
    parts, whole = PairStore("pairs"), PairStore("whole")
    for i in range(8):
        assert parts[i].x0["trans"].equal(whole[i].x0["trans"])
        assert parts[i].x1["trans"].allclose(whole[i].x1["trans"], atol=2e-3)
    assert main(["protein", "pairs", str(trained / "data"), "--real", *words, "-o", "real"]) == 0
    capsys.readouterr()
    given = ["data.dir=pairs", f"weights={teacher}", "data.module.real=real"]
    given += ["trainer=cpu", "trainer.max_steps=3", "trainer.validate_every=3"]
    more = ["validation.lengths=[12]", "validation.steps=2", PLAIN, "data.module.hold_out_every=4"]
    run = ["protein", "reflow", *given, *more, f"hydra.run.dir={work / 'reflow'}", "--json"]
    assert main(run) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["step"], told["metrics"]["val/broken"]) == (3, 0.0)
    card = json.loads(Path(told["export"], "config.json").read_text())["card"]
    assert card["started_from"] == teacher
    assert main(["protein", "reflow", "data.dir=pairs"]) == 2
    assert "weights is not given" in capsys.readouterr().err


def test_reflow_has_a_debug_experiment(work, capsys):
    words = [
        "debug=tiny",
        PLAIN,
        "trainer.max_steps=1",
        f"hydra.run.dir={work / 'dr'}",
    ]
    assert main(["protein", "reflow", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lengths", "12"], "no pair was kept, got {'broken chain': 1}"),
        (["--lengths", "12", "--keep-all", "--proteinmpnn", "x"], "got no --predictor"),
        (["nowhere", "--real"], "nowhere"),
        (["--real"], "--real needs SHARDS, got neither; expected a folder of prepared chains"),
        (["{data}", "--real", "--lengths", "500"], "no chain of 500 to 500 residues"),
        (["{data}", "--real", "--rotation", "exact"], "--real inverts by Euler's method"),
    ],
)
def test_pairs_that_cannot_be_made(words, message, trained, work, capsys):
    given = ["--weights", str(trained / "export"), "--steps", "2", "--num", "1", "-o", "bad"]
    words = [word.format(data=trained / "data") for word in words]
    assert main(["protein", "pairs", *words, *given]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
