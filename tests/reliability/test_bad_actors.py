"""Run folders, configs and checkpoints of somebody who means ill: nothing in them is run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from rectiflow.storage.faults import CheckpointError
from rectiflow.storage.tensor_files import load_tensors
from rectiflow_cli.errors import UsageError
from rectiflow_cli.targets import check_config
from rectiflow_cli.train import with_former_overrides

sys.path.insert(0, str(Path(__file__).parent))


def run_of(tmp_path: Path, *overrides: str) -> Path:
    """Make a run folder that asks for these overrides."""
    start = {"time": "2026-01-01T00:00:00+00:00", "overrides": list(overrides), "data": None}
    (tmp_path / "run.json").write_text(json.dumps({"data_sha256": None, "starts": [start]}))
    return tmp_path


@pytest.mark.parametrize(
    "word",
    [
        "--config-dir=/tmp/theirs",
        "-cn",
        "hydra.run.dir=/tmp/theirs",
        "+hydra.callbacks.x._target_=os.system",
        "++hydra.job_logging.handlers.x.()=subprocess.Popen",
        "hydra/launcher=theirs",
        "--multirun",
        "~hydra.output_subdir",
        "",
        "no setting",
    ],
)
def test_a_run_cannot_ask_for_more_than_settings(tmp_path: Path, word: str) -> None:
    folder = run_of(tmp_path, "experiment=small", word)
    with pytest.raises(UsageError, match="no setting of a training"):
        with_former_overrides("protein", [f"resume={folder}"])


def test_settings_apply_again_and_those_given_win(tmp_path: Path) -> None:
    folder = run_of(tmp_path, "experiment=small", "seed=3", f"run_dir={tmp_path}", "+a.b=1")
    words = with_former_overrides("protein", [f"resume={folder}", "seed=4"])
    assert words == ["experiment=small", "+a.b=1", f"resume={folder}", "seed=4"]


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"starts": []}', '{"starts": [{"overrides": 1}]}']
)
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json"):
        with_former_overrides("protein", [f"resume={tmp_path}"])


@pytest.mark.parametrize(
    "target",
    [
        "shutil.copyfile",
        "os.system",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "lightning.pytorch.Trainer",
        "rectiflow.machine.subprocess.run",
        "rectiflow.storage.folders.shutil.rmtree",
        "rectiflow_cli.protein.convert.main",
        "rectiflowx.anything",
        "${oc.env:HOME}",
        3,
        None,
    ],
)
def test_only_what_is_trusted_is_named(target: object, tmp_path: Path) -> None:
    stand_in = {"_target_": target, "src": "/etc/hostname", "dst": str(tmp_path / "copied")}
    cfg = OmegaConf.create({"data": {"list": [{"stand_in": stand_in}]}})
    with pytest.raises(UsageError, match=r"data\.list\.0\.stand_in\._target_ .* is not run"):
        check_config(cfg, ["data"])


@pytest.mark.parametrize(
    "target", ["torch.optim.AdamW", "rectiflow.training.FlowTraining", "rectiflow.flow.Flow"]
)
def test_what_is_trusted_may_be_named(target: str) -> None:
    check_config(OmegaConf.create({"data": {"_target_": target, "_partial_": True}}), ["data"])


class Harm:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return Path.write_text, (self.path, "harm")  # type: ignore[return-value]


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_run_nothing(tmp_path: Path, legacy: bool) -> None:
    harmed = tmp_path / "harmed"
    path = tmp_path / "theirs.ckpt"
    content = {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": Harm(harmed)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    if legacy:
        with pytest.raises(CheckpointError):
            load_tensors(path)
    else:
        assert torch.equal(load_tensors(path)["w"], torch.ones(2))
    assert not harmed.exists()
