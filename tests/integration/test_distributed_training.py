"""Training verbs on two processes: every debug experiment, sweeps, torchrun, launchers of jobs."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("rectiflow_cli")

from rectiflow.training import read_checkpoint
from rectiflow_cli.domains import DOMAINS
from rectiflow_cli.main import main

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "shared" / "tests"))
from ranks import in_ranks

REPOSITORY = Path(__file__).resolve().parents[2]

STEP = ("trainer.max_steps=1", "trainer.validate_every=1", "trainer.checkpoint_every=1")
DDP = ("trainer.devices=2", "trainer.strategy=ddp")
PROTEIN = ("protein", "train", "debug=tiny", "data.min_length=16", "validation=none", *STEP)
EXPERIMENTS = {
    "audio": {
        "tiny": "train",
        "tiny_pairs": "reflow",
        "tiny_vae": "train experiment=small_vae",
        "tiny_vocoder": "train experiment=small_vocoder",
    },
    "pde": {
        "tiny": "train",
        "tiny_ae": "train experiment=small_ae",
        "tiny_air": "train experiment=small_air",
        "tiny_diffusion": "train experiment=small_diffusion",
        "tiny_diffusion_pairs": "reflow experiment=small_diffusion_rectify",
        "tiny_pairs": "reflow",
        "tiny_refiner": "train experiment=small_refiner",
    },
    "imaging": {
        "tiny": "train experiment=small",
        "tiny_drdm": "train experiment=small_drdm",
        "tiny_pairs": "reflow",
        "tiny_pmrf": "train experiment=small_pmrf",
        "tiny_rddm": "train experiment=small_rddm",
    },
    "protein": {"tiny": "train"},
    "shape": {
        "tiny": "train",
        "tiny_image": "train experiment=small_image",
        "tiny_pairs": "reflow",
        "tiny_triposg": "train experiment=small_triposg",
        "tiny_vae": "train experiment=small_vae",
    },
    "trajectories": {"tiny": "train", "tiny_pairs": "reflow"},
}
QUICK = ("protein", "trajectories")  # the others make data or load codecs for seconds


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    torch.set_num_threads(threads)


def layout(run: Path) -> dict[str, int]:
    return read_checkpoint(run / "checkpoints" / "last.ckpt")["flow_training"]["layout"]


def test_all_debug_experiments_are_run_on_two_processes():
    assert set(EXPERIMENTS) == {domain.name for domain in DOMAINS}
    for domain, experiments in EXPERIMENTS.items():
        there = {path.stem for path in (REPOSITORY / "configs" / domain / "debug").glob("*.yaml")}
        assert set(experiments) == there


@pytest.mark.parametrize("domain", QUICK)
def test_a_debug_experiment_runs_on_two_processes(domain, work):
    run_on_two(domain, ["tiny"], work)


@pytest.mark.slow
@pytest.mark.parametrize("domain", sorted(EXPERIMENTS))
def test_every_debug_experiment_runs_on_two_processes(domain, work):
    run_on_two(domain, list(EXPERIMENTS[domain]), work)


def run_on_two(domain: str, names: list[str], work: Path) -> None:
    in_ranks(_experiments, domain, names)
    for name in names:
        assert layout(work / name)["world_size"] == 2
        assert (work / name / "export").is_dir()


def _experiments(domain: str, names: list[str]) -> None:
    for name in names:
        given = [*EXPERIMENTS[domain][name].split(), f"debug={name}", f"run_dir={name}"]
        assert main([domain, *given, *STEP, *DDP, "--debug"]) == 0, name


def test_two_nodes_of_one_process_each_are_one_training(work):
    """As torchrun starts them: the first process chooses the folder, which both are told."""
    codes = in_ranks(_nodes, nodes=2)
    assert codes == [0, 0]
    [run] = (work / "runs" / "protein-train").iterdir()
    assert layout(run)["world_size"] == 2
    assert json.loads((run / "run.json").read_text())["starts"]
    assert (run / "export" / "model.safetensors").is_file()


def _nodes() -> int:
    return main([*PROTEIN, "trainer.devices=1", "trainer.num_nodes=2", "trainer.strategy=ddp"])


def test_a_sampled_metric_chooses_the_best_network_of_two_processes(work):
    words = ("validation.lengths=[12]", "validation.pictures=false", "run_dir=run")
    words = (*words, "trainer.monitor=val/radius_of_gyration")
    given = [word for word in PROTEIN if word != "validation=none"]
    assert in_ranks(main, [*given, *words, *DDP]) == [0, 0]
    assert read_checkpoint(work / "run" / "checkpoints" / "best.ckpt")["global_step"] == 1


@pytest.mark.slow
def test_a_sweep_of_two_processes_runs_each_job_once(work, capsys):
    """Lightning starts the second process of each job anew, by the words of the job."""
    words = [*PROTEIN, *DDP, "-m", "seed=1,2", "hydra.sweep.dir=sweep", "--json"]
    assert main(words) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [Path(run["run"]).name for run in runs] == ["0", "1"]
    assert all(layout(work / "sweep" / name)["world_size"] == 2 for name in "01")
    assert sorted(path.name for path in work.iterdir()) == ["sweep"]


@pytest.mark.slow
def test_torchrun_joins_two_nodes_on_loopback(work):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    words += ["--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "two", "-m", "rectiflow_cli"]
    words += [*PROTEIN, "trainer.devices=1", "trainer.num_nodes=2", "trainer.strategy=ddp"]
    nodes = [
        subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *words], cwd=work)
        for _ in range(2)
    ]
    assert [node.wait(timeout=600) for node in nodes] == [0, 0]
    [run] = (work / "runs" / "protein-train").iterdir()
    assert layout(run)["world_size"] == 2
