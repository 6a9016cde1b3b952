"""Help of every verb of every domain: whole sentences, real defaults, examples that are read."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex

import pytest
from rectiflow_cli import domains, main, rerun, status

DOMAINS = {domain.name: domain for domain in domains.DOMAINS}
WORDS = [
    (name, word)
    for name, domain in DOMAINS.items()
    for word, verb in domain.verbs().items()
    if isinstance(verb, domains.Verb)
]
TRAINED = [(name, word) for name, domain in DOMAINS.items() for word in ("train", "reflow")]


def verb_of(name: str, word: str):
    """Return the command behind a word."""
    module, _, attribute = DOMAINS[name].verbs()[word].module.partition(":")
    return getattr(importlib.import_module(module), attribute or "main")


def helped(capsys, *words: str) -> str:
    """Return what ``--help`` prints."""
    try:
        code = main.main([*words, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert not code
    return capsys.readouterr().out


def test_there_is_a_verb_for_every_step():
    for name, domain in DOMAINS.items():
        steps = {"prepare", "train", "pairs", "reflow", "eval", "convert"}
        assert steps <= set(domain.verbs()), name


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_flags_are_told_in_sentences(name, word):
    parser = verb_of(name, word).parser()
    assert parser.description
    assert parser.description.endswith(".")
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        assert action.help, action.dest
        assert re.fullmatch(r"[A-Z0-9(].*[.]", action.help), (action.dest, action.help)


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_help_has_groups_and_no_default_that_is_none(name, word, capsys):
    text = helped(capsys, name, word)
    assert text.startswith(f"usage: rectiflow {name} {word} ")
    assert "(default: None)" not in text
    assert "(default: [])" not in text
    assert f"rectiflow {name} {word} " in text.partition("examples:")[2]
    titles = re.findall(r"^([a-z][\w, -]*):$", text, re.M)
    assert len(titles) >= 3, titles


@pytest.mark.parametrize(("name", "word"), WORDS)
def test_two_examples_are_read(name, word):
    parser = verb_of(name, word).parser()
    assert len(parser.examples) == 2
    for example in parser.examples:
        parser.parse_args(shlex.split(example))


@pytest.mark.parametrize("module", [rerun, status])
def test_commands_of_all_domains_have_help(module, capsys):
    text = helped(capsys, module.__name__.rpartition(".")[2])
    assert "examples:" in text
    assert "None" not in text


@pytest.mark.parametrize(("name", "word"), TRAINED)
def test_training_shows_lines_experiments_and_groups(name, word, capsys):
    text = helped(capsys, name, word)
    assert f"rectiflow {name} {word} data.dir=" in text
    assert f"rectiflow {name} {word} resume=" in text
    listed = text.partition("experiments")[2].partition("groups (")[0]
    for path in (DOMAINS[name].configs / "experiment").glob(f"*_{'rectify'}.yaml"):
        assert (path.stem in listed) == (word == "reflow")
    groups = dict(re.findall(r"^  (\w+) +(.*)$", text.partition("groups (")[2], re.M))
    assert {"data", "network", "optimizer", "trainer", "validation", "debug"} <= set(groups)
    assert "tiny" in groups["debug"]
    assert not {"shared", "hydra"} & set(groups)


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["train", "--seed", "3"], "write seed=3"),
        (["train", "sed=3"], "Did you mean 'seed'?"),
        (["train", "trainer.max_step=3"], "Did you mean 'trainer.max_steps'?"),
        (["train", "trainer=gpu44"], "Did you mean 'gpu4'?"),
    ],
)
@pytest.mark.parametrize("name", DOMAINS)
def test_mistyped_settings_are_one_line(name, argv, told, capsys):
    assert main.main([name, *argv]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error
