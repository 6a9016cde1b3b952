from __future__ import annotations

import argparse
import json

import pytest
import torch
from rectiflow import commands
from rectiflow.commands import counter, progress


def test_shards_count_from_zero():
    assert commands.shard_of("3/4") == (3, 4)
    for text in ("4/4", "1", "a/b", "-1/4", "0/0"):
        with pytest.raises(argparse.ArgumentTypeError, match="expected i/n with 0 <= i < n"):
            commands.shard_of(text)


def test_numbers_of_things_are_positive():
    assert commands.positive("12") == 12
    with pytest.raises(argparse.ArgumentTypeError, match="at least 1, got '0'"):
        commands.positive("0")


def test_device_names():
    assert commands.pick_device("cpu") == torch.device("cpu")
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert commands.pick_device("auto").type == expected
    with pytest.raises(ValueError, match="unknown device 'tpu'; expected auto, cpu, cuda"):
        commands.pick_device("tpu")
    with pytest.raises(ValueError, match="device 'cuda:99' is not there, got"):
        commands.pick_device("cuda:99")


def test_answers_are_text_or_one_json_document(capsys):
    commands.answer({"x": float("nan"), "y": (1, 2.5), "z": torch.float32}, "text", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == {"x": None, "y": [1, 2.5], "z": "torch.float32"}
    commands.answer({}, "text", as_json=False)
    assert capsys.readouterr().out == "text\n"


def test_tables_align_numbers_to_the_right():
    rows = [{"name": "a", "x": 0.5, "n": 12}, {"name": "long", "x": float("nan"), "n": None}]
    assert commands.table(rows).splitlines() == [
        "name      x   n",
        "a     0.500  12",
        "long      -   -",
    ]


def test_a_counter_takes_done_and_total(capsys):
    with counter("working", quiet=True) as show:
        show(1, 4)
        show(4, 4)
    assert capsys.readouterr().err == ""


def test_progress_yields_everything_and_is_silent_without_a_terminal(capsys):
    assert list(progress(range(4), "counting")) == [0, 1, 2, 3]
    assert list(progress(iter("ab"), "letters", total=2, quiet=True)) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_help_shows_defaults_as_they_are_typed(capsys):
    parser = commands.Parser("toy", "sample", "Draw points.\n\nMore.", ("--num 3",))
    add = parser.group("points")
    add("--num", type=commands.positive, default=1, help="How many.")
    add("--name", help="Of the set.")
    add("--range", type=float, nargs=2, default=(-1.0, 1.0), help="Where they lie.")
    add("--all", action="store_true", help="Draw all.")
    parser.add_shard()
    assert parser.parse_args([]).shard == (0, 1)
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Draw points.",
        "How many. (default: 1)",
        "Of the set. --range",
        "Where they lie. (default: -1.0 1.0)",
        "(default: 0/1)",
        "rectiflow toy sample --num 3",
    ):
        assert words in text
    assert "None" not in text
    assert "More" not in text
    with pytest.raises(ValueError, match=r"at least 1, got '0'\. See: rectiflow toy sample --help"):
        parser.parse_args(["--num", "0"])
