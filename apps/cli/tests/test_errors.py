from __future__ import annotations

import json

import hydra.errors
import omegaconf
import pytest
from rectiflow_cli import domains
from rectiflow_cli.config_root import config_root
from rectiflow_cli.errors import UsageError, exit_code, guarded


def ours(source: str):
    """Compile a command as if it stood in a module of this project."""
    scope: dict = {"__name__": "rectiflow_fake.module"}
    exec(compile(f"def command(argv):\n    {source}\n", "<ours>", "exec"), scope)
    return scope["command"]


def caught(command) -> BaseException:
    try:
        command([])
    except BaseException as error:
        return error
    raise AssertionError("the command did not fail")


@pytest.mark.parametrize("kind", ["ValueError", "TypeError", "KeyError", "ImportError"])
def test_an_error_we_raise_on_purpose_is_the_users(kind):
    assert exit_code(caught(ours(f"raise {kind}('steps must be positive, got 0')"))) == 2


@pytest.mark.parametrize(
    "source",
    [
        "None + 1",  # TypeError that the interpreter raises in our code
        "int('x')",  # ValueError likewise
        "{}['missing']",
        "raise RuntimeError('state')",
        "assert argv",
        "__import__('json').loads('{')",  # a library's error that we failed to translate
    ],
)
def test_an_error_that_happens_to_us_is_a_defect(source):
    assert exit_code(caught(ours(source))) == 1


def test_someone_elses_error_is_a_defect():
    assert exit_code(caught(lambda argv: json.loads("{"))) == 1


def test_files_and_folders_are_the_users(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        assert exit_code(caught(lambda argv, path=path: path.read_text())) == 2


@pytest.mark.parametrize(
    "error",
    [
        UsageError("no such verb"),
        hydra.errors.ConfigCompositionException("unknown key"),
        omegaconf.errors.ConfigAttributeError("unknown key"),
    ],
)
def test_configuration_errors_are_the_users(error):
    assert exit_code(error) == 2


def test_instantiation_errors_are_judged_by_their_cause():
    wrapped = hydra.errors.InstantiationException("Error in call to target")
    wrapped.__cause__ = caught(ours("raise ValueError('width must be positive, got 0')"))
    assert exit_code(wrapped) == 2
    wrapped.__cause__ = caught(ours("None + 1"))
    assert exit_code(wrapped) == 1


def test_message_is_one_line_without_traceback(capsys):
    assert guarded(ours("raise KeyError(\"unknown solver 'hen'\")"), []) == 2
    assert capsys.readouterr().err == "rectiflow: error: unknown solver 'hen'\n"


def test_a_defect_names_its_type_and_says_how_to_see_more(capsys):
    assert guarded(ours("None + 1"), []) == 1
    err = capsys.readouterr().err
    assert err.startswith("rectiflow: error: TypeError: ")
    assert err.rstrip().endswith("(run again with --debug for the traceback)")
    assert len(err.splitlines()) == 1


def test_debug_shows_the_traceback(capsys):
    assert guarded(ours("raise ValueError('bad')"), [], debug=True) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_interruption_cleans_up_and_returns_130(tmp_path, capsys):
    partial = tmp_path / "x.partial"

    def command(argv):
        partial.touch()
        try:
            raise KeyboardInterrupt
        finally:
            partial.unlink()

    assert guarded(command, []) == 130
    assert not any(tmp_path.iterdir())
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_result_of_the_command_is_passed_on():
    assert guarded(lambda argv: len(argv), ["a", "b", "c"]) == 3


def test_pick_knows_all_names():
    assert domains.pick("verb", "train", {"train", "eval"}) == "train"
    with pytest.raises(UsageError, match=r"unknown verb 'xyz'; known: eval, train\.$"):
        domains.pick("verb", "xyz", {"train", "eval"})


def test_config_root_is_the_live_folder_of_the_workspace():
    assert (config_root() / "common" / "base.yaml").is_file()
