from __future__ import annotations

import argparse

import pytest
import torch
from omegaconf import OmegaConf
from rectiflow.commands.methods import solver_of
from rectiflow.solvers import BDIA, Adams, Midpoint
from rectiflow_cli.errors import UsageError
from rectiflow_cli.main import main
from rectiflow_cli.protein import flags
from rectiflow_cli.protein.designer import CommandDesigner
from rectiflow_cli.targets import check_config
from rectiflow_protein import flow
from rectiflow_protein.io import Backbone
from rectiflow_protein.split import FrameSplit
from rectiflow_protein.training import RECIPE


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("80", [80]),
        ("60,80,100", [60, 80, 100]),
        ("60:128:34", [60, 94, 128]),
        ("5:7,100", [5, 6, 7, 100]),
    ],
)
def test_lengths_are_numbers_and_ranges_with_both_ends(text, lengths):
    assert flags.lengths_of(text) == lengths


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected lengths such as 60,80,100 or 60:128:4, got ''"),
        ("60-80", "expected lengths such as"),
        ("1:2:3:4", "expected lengths such as"),
        ("80:60", "expected a range from:to:step that goes up, got '80:60'"),
        ("60:80:0", "expected a range"),
        ("1,60", "expected at least 2 residues, got 1"),
    ],
)
def test_bad_lengths_say_what_is_expected(text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        flags.lengths_of(text)


def test_solvers_are_what_the_flags_say():
    def made(solver, rotation, rate):
        return flags.make_solver(
            argparse.Namespace(
                solver=solver_of(solver), rotation=rotation, rate=rate, temperature=0.0
            )
        )

    assert made("euler", None, None) == flow.FrameEuler(flow.ExponentialSchedule(10.0))
    assert made("euler", "clamped", 5.0) == flow.FrameEuler(flow.ClampedExponentialSchedule(5.0))
    assert made("euler", "exact", None) == flow.FrameEuler(flow.ExactExponentialSchedule(10.0))
    assert made("euler", "linear", None) == flow.FrameEuler(flow.LinearSchedule())
    assert isinstance(made("midpoint", None, None), Midpoint)
    assert made("adams:3", "linear", None) == FrameSplit(Adams(3), flow.LinearSchedule())
    assert made("bdia", None, None) == FrameSplit(BDIA(), flow.ExponentialSchedule(10.0))
    for wrong, message in (
        (("midpoint", "exact", None), "got --rotation exact; expected linear"),
        (("midpoint", None, 3.0), r"Midpoint\(\) turns rotations"),
        (("euler", "linear", 3.0), "--rotation linear has no rate, got --rate 3"),
        (("euler", "exact", -1.0), "--rate must be positive, got -1"),
    ):
        with pytest.raises(UsageError, match=message):
            made(*wrong)
    for name in ("heun", "rk4", "dpm-2", "pseudo-corrector", "dopri5"):
        with pytest.raises(ValueError, match="evaluates between or beyond"):
            made(name, None, None)
    with pytest.raises(ValueError, match="draws noise of flat spaces"):
        made("ancestral", None, None)


def test_tools_come_in_pairs():
    def args(**given):
        absent = {"proteinmpnn": None, "designer_command": None, "predictor": None, "device": "cpu"}
        return argparse.Namespace(**{**absent, **given})

    assert flags.make_tools(args()) == (None, None)
    with pytest.raises(UsageError, match="got no --predictor; expected both"):
        flags.make_tools(args(designer_command="x {pdb} {fasta}"))
    with pytest.raises(UsageError, match="got no --proteinmpnn or --designer-command"):
        flags.make_tools(args(predictor="esmfold"))
    with pytest.raises(UsageError, match="two designers"):
        flags.make_tools(args(proteinmpnn="a", designer_command="b", predictor="c"))
    with pytest.raises(FileNotFoundError, match="expected a checkout of ProteinMPNN"):
        flags.make_tools(args(proteinmpnn="absent", predictor="esmfold"))


def test_a_command_designs_sequences(tmp_path):
    script = tmp_path / "design.py"
    script.write_text(
        "import sys\n"
        "pdb, fasta, num, seed = sys.argv[1:]\n"
        "n = sum(line[12:16].strip() == 'CA' for line in open(pdb))\n"
        "letters = 'ACDEFGHIKLMN'\n"
        "with open(fasta, 'w') as file:\n"
        "    for i in range(int(num)):\n"
        "        file.write(f'>{i} seed={seed}\\n{letters[i] * n}\\n')\n"
    )
    import sys

    designer = CommandDesigner(f"{sys.executable} {script} {{pdb}} {{fasta}} {{num}} {{seed}}")
    backbone = Backbone.from_coords(torch.randn(7, 4, 3))
    assert designer.design(backbone, 2, temperature=0.1, seed=5) == ["A" * 7, "C" * 7]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("design {pdb}", r"--designer-command lacks \{fasta\}, got 'design \{pdb\}'"),
        ("no-such-program {pdb} {fasta}", "there is no program 'no-such-program' to design with"),
        ("false {pdb} {fasta}", "the designer failed with exit code 1"),
        ("true {pdb} {fasta}", "the designer wrote no {fasta} for backbone"),
    ],
)
def test_a_bad_designer_is_the_users(command, message):
    with pytest.raises(UsageError, match=message):
        CommandDesigner(command).design(
            Backbone.from_coords(torch.randn(5, 4, 3)), 1, temperature=0.1, seed=0
        )


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("interpolant.trans.batch_ot=True", "'interpolant.trans.batch_ot' does nothing"),
        ("+interpolant.trans.batch_ot=True", "does nothing"),
        ("batch_ot=False", "'batch_ot' does nothing"),
        ("interpolant.trans.vpsde_bmin=0.1", "no line of their code reads it"),
        ("model.edge_features.relpos_k=64", "does nothing"),
        ("model.ipa.c_hidden=16", r"a key of the authors' code; here: network\.sizes"),
        ("interpolant.rots.exp_rate=5", "sample --rotation, --rate"),
        ("data.sampler.max_num_res_squared=1", r"data\.module\.batching"),
        ("experiment.trainer.max_epochs=3", r"trainer\.max_steps"),
    ],
)
def test_keys_of_the_authors_code_are_refused(word, message):
    with pytest.raises(ValueError, match=message):
        RECIPE.refuse(["debug=tiny", word])


def test_our_own_keys_pass():
    RECIPE.refuse(["debug=tiny", "data.dir=x", "trainer.max_steps=3", "-m", "seed=1", "resume=a"])


def test_unknown_config_keys_are_refused():
    cfg = OmegaConf.create(
        {"a": {"_target_": "rectiflow_protein.losses.BackboneLoss", "clamp": 5.0}, "b": 1}
    )
    check_config(cfg, ["a", "b"])
    with pytest.raises(UsageError, match="unknown config key 'b'; known: a"):
        check_config(cfg, ["a"])
    cfg.a.clmap = 3.0
    with pytest.raises(UsageError, match=r"unknown key of a .*BackboneLoss.* Did you mean 'clamp'"):
        check_config(cfg, ["a", "b"])
    wrong = OmegaConf.create({"a": [{"_target_": "rectiflow_protein.nothing.here"}]})
    with pytest.raises(UsageError, match=r"a\.0\._target_ 'rectiflow_protein\.nothing\.here'"):
        check_config(wrong, ["a"])


def test_domain_help_lists_the_verbs(capsys):
    assert main(["protein", "--help"]) == 0
    text = capsys.readouterr().out
    for verb in ("prepare", "train", "pairs", "reflow", "sample", "eval", "convert"):
        assert f"  {verb}" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sample -o x", "one of the arguments --length --lengths is required"),
        ("sample --length 20", "the following arguments are required: -o/--out"),
        ("sample --length 20 -o x --solver rk9", "got 'rk9'; did you mean rk4"),
        ("sample --length 20 -o x --device tpu", "unknown device 'tpu'"),
        ("sample --length 20 -o x --weights nowhere", "no weights at 'nowhere'"),
        ("pairs -o x", "pairs needs SHARDS or --lengths, got neither"),
        ("prepare x -o y --splits 0.5", "expected three shares for train, valid, test"),
        ("eval nowhere", "there is no nowhere; expected structure files or folders"),
        ("convert nowhere -o x", "nowhere"),
        ("reflow data.dir=x", "data.dir=x holds no training data; expected part-"),
        ("train", "data.dir is not given; expected a folder of training data. Make one with"),
        ("train data.dir=nowhere", "rectiflow protein prepare FOLDER -o SHARDS"),
        ("train resume=nowhere", "resume=nowhere is no run; expected a run folder"),
        ("train experiment=nope", "unknown experiment 'nope'; known: "),
        ("train experiment=smal", "Did you mean 'small'?"),
        ("train --seed 3", "takes no flag --seed; expected a word without dashes: write seed=3."),
        ("train trainer.foo=1", "unknown key 'trainer.foo'; expected one of the config."),
        ("train trainer.max_step=1", "Did you mean 'trainer.max_steps'?"),
        ("train batch_ot=true", "'batch_ot' does nothing"),
    ],
)
def test_every_error_is_one_line_and_exit_code_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["protein", *words.split()]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
