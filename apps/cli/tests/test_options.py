from __future__ import annotations

import argparse
import json

import pytest
import torch
from rectiflow_cli import options
from rectiflow_cli.errors import UsageError
from rectiflow_cli.progress import counter


def test_shards_count_from_zero():
    assert options.shard_of("3/4") == (3, 4)
    for text in ("4/4", "1", "a/b", "-1/4", "0/0"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected i/n with 0 <= i < n"):
            options.shard_of(text)


def test_numbers_of_things_are_positive():
    assert options.positive("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1, got '0'"):
        options.positive("0")


def test_device_names():
    assert options.pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert options.pick_device("auto").type == expected
    with pytest.raises(UsageError, match="unknown device 'tpu'; expected auto, cpu, cuda"):
        options.pick_device("tpu")
    with pytest.raises(UsageError, match="device 'cuda:99' is not there, got"):
        options.pick_device("cuda:99")


def test_answers_are_text_or_one_json_document(capsys):
    options.answer({"x": float("nan"), "y": (1, 2.5), "z": torch.float32}, "text", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == {"x": None, "y": [1, 2.5], "z": "torch.float32"}
    options.answer({}, "text", as_json=False)
    assert capsys.readouterr().out == "text\n"


def test_tables_align_numbers_to_the_right():
    rows = [{"name": "a", "x": 0.5, "n": 12}, {"name": "long", "x": float("nan"), "n": None}]
    assert options.table(rows).splitlines() == [
        "name      x   n",
        "a     0.500  12",
        "long      -   -",
    ]


def test_a_counter_takes_done_and_total(capsys):
    with counter("working", quiet=True) as show:
        show(1, 4)
        show(4, 4)
    assert capsys.readouterr().err == ""
