from __future__ import annotations

import inspect
import os
import sys

import omegaconf
import pytest
from hydra.utils import instantiate
from rectiflow_cli import domains, hydra_app, main
from rectiflow_cli.errors import exit_code

PRIMARY = """\
defaults:
  - base
  - trainer: cpu
  - optimizer: adam
  - logger: files
  - _self_

width: 8
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A domain with one primary config, run from an empty working directory."""
    root = tmp_path / "configs"
    (root / "toy").mkdir(parents=True)
    (root / "toy" / "train.yaml").write_text(PRIMARY)
    toy = domains.Domain("toy", "points", configs=root / "toy")
    monkeypatch.setattr(domains, "DOMAINS", (*domains.DOMAINS, toy))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def run(task, *argv: str) -> int:
    return hydra_app.run("toy", "train", task, argv)


def test_run_gives_the_composed_config_and_a_run_folder(toy):
    seen = []
    words, environment = list(sys.argv), dict(os.environ)
    assert (
        run(lambda cfg: seen.append((cfg.width, cfg.trainer.max_steps, cfg.run_dir)), "width=3")
        == 0
    )
    [(width, steps, folder)] = seen
    assert (width, steps) == (3, 100_000)
    [made] = (toy / "runs" / "toy-train").iterdir()
    assert os.path.samefile(folder, made)
    assert (made / ".hydra" / "config.yaml").is_file()
    assert (sys.argv, dict(os.environ)) == (words, environment)


def test_sweep_runs_one_job_per_value(toy):
    widths = []
    assert run(lambda cfg: widths.append(cfg.width), "-m", "width=1,2,5") == 0
    assert widths == [1, 2, 5]


@pytest.mark.parametrize("override", ["depth=2", "trainer=gpuu", "width="])
def test_a_bad_override_is_the_users(toy, override):
    def task(cfg):
        raise AssertionError("must not run") if cfg.width else omegaconf.errors.ConfigTypeError()

    with pytest.raises(Exception) as failure:  # noqa: PT011 - three kinds, one verdict
        run(task, override)
    assert exit_code(failure.value) == 2


def test_an_error_of_the_task_arrives_as_it_was(toy):
    def task(cfg):
        raise ValueError("no shards")

    with pytest.raises(ValueError, match="no shards"):
        run(task)


def test_optimisers_take_their_options(toy):
    import torch

    weights = [torch.nn.Parameter(torch.zeros(2))]
    for name, kind in {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}.items():
        cfg = hydra_app.compose("toy", "train", [f"optimizer={name}", "optimizer.lr=0.5"])
        optimizer = instantiate(cfg.optimizer)(weights)
        assert type(optimizer) is kind
        assert optimizer.defaults["lr"] == 0.5


@pytest.mark.parametrize("name", ["default", "cpu", "gpu", "gpu4"])
def test_trainers_are_arguments_of_fit(toy, name):
    from rectiflow.training import fit

    cfg = hydra_app.compose("toy", "train", [f"trainer={name}", "trainer.max_steps=7"])
    call = instantiate(cfg.trainer)
    assert call.func is fit
    assert set(call.keywords) <= set(inspect.signature(fit).parameters)
    assert call.keywords["max_steps"] == 7


@pytest.mark.parametrize(
    ("name", "expected"),
    [("default", ("auto", 1)), ("cpu", ("cpu", 1)), ("gpu", ("gpu", 1)), ("gpu4", ("gpu", 4))],
)
def test_trainers_say_where_they_run(toy, name, expected):
    trainer = hydra_app.compose("toy", "train", [f"trainer={name}"]).trainer
    assert (trainer.accelerator, trainer.devices) == expected


def test_loggers_are_added_by_one_word(toy):
    assert hydra_app.compose("toy", "train").trainer.loggers == []
    [logger] = hydra_app.compose("toy", "train", ["logger=wandb"]).trainer.loggers
    assert logger["_target_"].endswith("WandbLogger")


def test_resume_goes_on_in_the_given_folder(toy):
    folders = []

    def task(cfg):
        folders.append((cfg.run_dir, *hydra_app.run_folder(cfg)))

    run(task)
    fresh, folder, resumed = folders[0]
    assert (str(folder), resumed) == (fresh, False)
    run(task, f"resume={fresh}")
    assert folders[1] == (fresh, folder, True)
    assert len(list((toy / "runs" / "toy-train").iterdir())) == 1


def test_hydra_runs_through_the_command(toy, monkeypatch, capsys):
    import types

    module = types.ModuleType("rectiflow_cli.protein")
    module.VERBS = {"train": lambda argv: run(lambda cfg: None, *argv)}
    monkeypatch.setitem(sys.modules, "rectiflow_cli.protein", module)
    assert main.main(["protein", "train", "width=2"]) == 0
    assert main.main(["protein", "train", "nonsense=2"]) == 2
    assert "nonsense" in capsys.readouterr().err
