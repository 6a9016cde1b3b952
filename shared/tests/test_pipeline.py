"""What every domain's pipeline does, and the one form of results, on a toy of two networks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from rectiflow.evaluation import Evaluation
from rectiflow.pipeline import Pipeline
from rectiflow.results import Result, ResultFolder, listings, shard_name
from rectiflow.status import status_of
from rectiflow.storage.folders import TakenError
from rectiflow.storage.pretrained import CheckpointError, Pretrained, weights_hash
from torch import nn


class Slope(Pretrained, nn.Module):
    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x, t):
        return self.linear(x)


class Shift(Pretrained, nn.Module):
    def __init__(self, by: float = 0.0) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))


@dataclass(frozen=True)
class Settings:
    steps: int = 3


@dataclass(frozen=True)
class Numbers(Result):
    values: list[float]

    def write(self, folder: Path, suffix: str):
        rows = []
        for i, value in enumerate(self.values):
            file = f"n/{i}{suffix or '.txt'}"
            (folder / "n").mkdir(exist_ok=True)
            (folder / file).write_text(f"{value}")
            rows.append({"name": f"n{i}", "files": [file], "value": value})
        return rows


class Alone(Pipeline):
    shipped = Path("nowhere")

    def __init__(self, network: Slope, dtype: torch.dtype = torch.float32) -> None:
        super().__init__({"network": network}, dtype=dtype)

    @classmethod
    def kinds(cls):
        return {"network": Slope}


class Both(Pipeline):
    shipped = Path("nowhere")
    settings_kind = Settings

    def __init__(
        self,
        network: Slope,
        shift: Shift | None = None,
        settings: Settings | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        parts = {"network": network, "shift": shift}
        super().__init__(parts, settings=settings or Settings(), dtype=dtype)

    @classmethod
    def kinds(cls):
        return {"network": Slope, "shift": Shift}


def test_one_network_is_stored_as_itself(tmp_path):
    pipe = Alone(Slope(3))
    pipe.save_pretrained(tmp_path / "w", licence="Apache-2.0")
    assert json.loads((tmp_path / "w" / "config.json").read_text())["class"] == "Slope"
    again = Alone.from_pretrained(tmp_path / "w")
    torch.testing.assert_close(again.network.state_dict(), pipe.network.state_dict())
    assert again.weights_hash == pipe.weights_hash == weights_hash(pipe.network)
    assert not again.network.training
    assert Alone.pretrained_part(str(tmp_path / "w")).training


def test_parts_and_settings_are_stored_together(tmp_path):
    pipe = Both(Slope(), Shift(2.0), Settings(7))
    pipe.save_pretrained(tmp_path / "w", data="none")
    again = Both.from_pretrained(tmp_path / "w", dtype=torch.bfloat16)
    assert again.settings == Settings(7)
    assert again.dtype == torch.bfloat16
    assert again.parts["shift"].by == 2
    assert again.weights_hash == pipe.weights_hash
    assert Both.pretrained_part(str(tmp_path / "w"), "shift").by == 2
    assert Both.pretrained_part(None) is None
    Both(Slope()).save_pretrained(tmp_path / "less")
    less = Both.from_pretrained(tmp_path / "less")
    assert list(less.parts) == ["network"]
    assert less.weights_hash != pipe.weights_hash


def test_a_shared_part_lies_in_another_folder(tmp_path):
    Both(Slope(), Shift(2.0)).save_pretrained(tmp_path / "one")
    Both(Slope()).save_pretrained(tmp_path / "two")
    config = tmp_path / "two" / "config.json"
    told = json.loads(config.read_text()) | {"shared": {"shift": "../one/shift"}}
    config.write_text(json.dumps(told))
    assert Both.from_pretrained(tmp_path / "two").parts["shift"].by == 2


def test_a_run_is_found_by_its_folder(tmp_path):
    Alone(Slope()).save_pretrained(tmp_path / "run" / "export")
    assert Alone.from_pretrained(tmp_path / "run").source == str(tmp_path / "run")


def test_what_does_not_fit_is_refused(tmp_path):
    Alone(Slope()).save_pretrained(tmp_path / "alone")
    with pytest.raises(CheckpointError, match="holds a Slope, expected a Both"):
        Both.from_pretrained(tmp_path / "alone")
    Both(Slope()).save_pretrained(tmp_path / "both")
    config = tmp_path / "both" / "config.json"
    told = json.loads(config.read_text()) | {"settings": {"stride": 2}}
    config.write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="or of another version"):
        Both.from_pretrained(tmp_path / "both")
    with pytest.raises(FileNotFoundError, match="no weights at 'absent'"):
        Both.from_pretrained("absent")


def test_a_pipeline_tells_what_shapes_its_results(tmp_path):
    pipe = Alone(Slope())
    pipe.save_pretrained(tmp_path)
    told = Alone.from_pretrained(tmp_path).describe()
    assert told == {
        "weights": str(tmp_path),
        "weights_hash": pipe.weights_hash,
        "dtype": "float32",
        "device": "cpu",
        "compile": False,
    }
    with pytest.raises(ValueError, match="Alone does not tell what a request takes"):
        pipe.work()


def test_a_result_is_saved_with_all_that_shaped_it(tmp_path):
    result = Numbers([1.5, float("nan")], settings={"seed": 3, "at": Path("x")}, seconds=0.12345)
    files = result.save(tmp_path / "r", suffix=".dat")
    assert [path.relative_to(tmp_path / "r").as_posix() for path in files] == [
        "n/0.dat",
        "n/1.dat",
    ]
    told = json.loads((tmp_path / "r" / "result.json").read_text())
    assert told["settings"] == {"seed": 3, "at": "x"}
    assert told["samples"][1] == {"name": "n1", "files": ["n/1.dat"], "value": None}
    assert told["seconds"] == 0.123
    assert told["machine"]["libraries"]["torch"] == torch.__version__
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "result.json").write_text("mine")
    with pytest.raises(TakenError):
        result.save(tmp_path / "mine")
    assert (tmp_path / "mine" / "result.json").read_text() == "mine"


def fill(folder: ResultFolder, names: list[str], wanted: list[str] | None = None) -> None:
    """Make samples that are empty files."""
    with folder.writing(wanted or names) as staged:
        for name in names:
            (staged / name).touch()
        folder.add([{"name": name, "files": [name], "length": 5} for name in names], staged, 1.0)


def test_a_folder_of_results_is_gone_on_with(tmp_path):
    fill(ResultFolder(tmp_path, {"seed": 1, "weights": "a"}), ["a", "b"])
    again = ResultFolder(tmp_path, {"seed": 1, "weights": "moved"})
    assert again.holds("a", ["a"], length=5)
    assert not again.holds("a", ["a"], length=6)
    assert not again.holds("a", ["a", "residual"])
    assert not again.holds("c")
    (tmp_path / "b").unlink()
    assert not again.holds("b")
    fill(again, ["b", "c"])
    told = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in told["samples"]] == ["a", "b", "c"]
    assert told["seconds"] == 2.0
    with pytest.raises(ValueError, match=r"other settings \(seed 1, now 2\)"):
        ResultFolder(tmp_path, {"seed": 2})
    assert not ResultFolder(tmp_path, {"seed": 2}, replace=True).holds("a")


def test_workers_list_their_own_and_see_the_others(tmp_path):
    fill(ResultFolder(tmp_path, {}, shard=(0, 2)), ["a"])
    other = ResultFolder(tmp_path, {}, shard=(1, 2))
    assert other.holds("a")
    fill(other, ["b"])
    assert [path.name for path in listings(tmp_path)] == [
        shard_name("result", (0, 2)),
        shard_name("result", (1, 2)),
    ]
    assert ResultFolder(tmp_path, {}).holds("b")


def test_status_counts_done_failed_and_missing(tmp_path):
    folder = ResultFolder(tmp_path, {}, shard=(0, 2), command=["toy", "sample", "-o", "x"])
    fill(folder, ["a", "b"], wanted=["a", "b", "c", "d"])
    folder.refuse("d", "cannot be read")
    found = status_of(tmp_path)
    (part,) = found.parts
    assert (part.wanted, part.done, part.failed, part.missing) == (
        4,
        2,
        {"d": "cannot be read"},
        ["c"],
    )
    assert found.absent == ["result-1-of-2.json"]
    assert not found.is_complete
    assert found.next == "the same command: rectiflow toy sample -o x"
    assert found.under_way == 0
    (tmp_path / ".0-1-2-3.partial" / "7").mkdir(parents=True)  # of a worker on the way
    assert status_of(tmp_path).under_way == 1
    fill(ResultFolder(tmp_path, {}, shard=(0, 2)), ["c"], wanted=["a", "b", "c"])
    fill(ResultFolder(tmp_path, {}, shard=(1, 2)), ["e"])
    assert status_of(tmp_path).is_complete
    (tmp_path / "a").unlink()
    assert status_of(tmp_path).parts[0].missing == ["a"]
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no job of ours"):
        status_of(tmp_path / "other")


def test_an_evaluation_is_a_table_and_a_summary(tmp_path):
    rows = [{"name": "a", "x": 0.5}, {"name": "b", "x": None, "y": 2}]
    table, summary = Evaluation(rows, {"mean": float("inf"), "n": 2}).save(tmp_path)
    assert table.read_text() == "name,x,y\na,0.5,\nb,,2\n"
    assert json.loads(summary.read_text()) == {"mean": None, "n": 2}
