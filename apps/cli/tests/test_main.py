from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import types

import pytest
from rectiflow_cli import domains, info, main


@pytest.fixture
def verbs(monkeypatch):
    """Replace the protein commands by ones that record what they were given."""
    calls: list[tuple[str, list[str]]] = []

    def sample(argv: list[str]) -> int:
        """Draw backbones.

        More text that help does not show.
        """
        calls.append(("sample", argv))
        return 0

    def train(argv: list[str]) -> int:
        """Train a network."""
        raise ValueError("rate must be positive, got -1")

    module = types.ModuleType("rectiflow_cli.protein")
    module.VERBS = {"sample": sample, "train": train}
    monkeypatch.setitem(sys.modules, "rectiflow_cli.protein", module)
    return calls


def test_words_after_the_verb_reach_it_untouched(verbs):
    argv = ["protein", "sample", "--length", "100", "model.width=16", "-m", "--help"]
    assert main.main(argv) == 0
    assert verbs == [("sample", argv[2:])]


def test_domain_command_is_the_umbrella_with_one_word_less(verbs):
    assert main.protein(["sample", "--num", "2"]) == 0
    assert verbs == [("sample", ["--num", "2"])]


def test_help_lists_commands_and_domains(capsys):
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for word in ("info", "demo", "protein", "audio", "--debug", "exit codes"):
        assert word in text


def test_domain_help_shows_first_line_of_each_verb(verbs, capsys):
    assert main.main(["protein", "--help"]) == 0
    text = capsys.readouterr().out
    assert "Draw backbones" in text
    assert "Train a network" in text
    assert "More text" not in text
    assert verbs == []


@pytest.mark.parametrize("argv", [[], ["protein"]])
def test_no_command_is_a_usage_error_that_shows_help(argv, verbs, capsys):
    assert main.main(argv) == 2
    assert "usage: rectiflow" in capsys.readouterr().out


def test_unknown_words_name_the_close_alternative(verbs, capsys):
    assert main.main(["protien"]) == 2
    assert (
        "unknown command 'protien'; known: audio, demo, diagnose, imaging, info, pde, protein, "
        "rerun, shape, status, trajectories." in (capsys.readouterr().err)
    )
    assert main.main(["protein", "sampel"]) == 2
    assert (
        "unknown protein verb 'sampel'; known: reflow, sample, train. Did you mean 'sample'?"
        in (capsys.readouterr().err)
    )


def test_missing_domain_prints_the_install_line(monkeypatch, capsys):
    absent = domains.Domain("geology", "rocks")
    monkeypatch.setattr(main, "DOMAINS", (absent,))
    assert main.main(["geology", "sample"]) == 2
    err = capsys.readouterr().err
    assert (
        "domain 'geology' is not installed. Get it with: pip install 'rectiflow-cli[geology]'"
        in err
    )
    assert main.main(["--help"]) == 0
    assert "not installed: pip install 'rectiflow-cli[geology]'" in capsys.readouterr().out


def test_debug_is_taken_out_wherever_it_stands(verbs, capsys):
    assert main.main(["protein", "sample", "--seed", "1", "--debug"]) == 0
    assert verbs == [("sample", ["--seed", "1"])]
    assert main.main(["--debug", "protein", "train"]) == 1  # this test's module is not ours
    assert "Traceback" in capsys.readouterr().err


def test_version(capsys):
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out.split() == [
        "rectiflow",
        importlib.metadata.version("rectiflow-cli"),
    ]


def test_info_json_names_versions_devices_and_domains(capsys):
    import torch

    assert main.main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["libraries"]["torch"] == torch.__version__
    assert found["devices"][0]["name"] == "cpu"
    assert found["domains"]["protein"]["version"] == importlib.metadata.version("rectiflow-protein")


def test_info_lists_checkpoints_shipped_with_a_domain(tmp_path, monkeypatch, capsys):
    checkpoint = tmp_path / "pretrained" / "tiny"
    checkpoint.mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    (checkpoint / "unet").mkdir()
    (checkpoint / "config.json").write_text('{"shared": {"vae": "../../shared"}}')
    for folder in (checkpoint, checkpoint / "unet", tmp_path / "shared"):
        (folder / "model.safetensors").write_bytes(bytes(2**20))
    monkeypatch.setattr(domains.Domain, "folder", lambda self: tmp_path)
    assert info.collect()["domains"]["protein"]["checkpoints"] == [{"name": "tiny", "mib": 3.0}]
    assert info.main([]) == 0
    assert "shipped checkpoints: tiny (3.0 MiB)" in capsys.readouterr().out


def test_info_rejects_unknown_flags(capsys):
    assert main.main(["info", "--jsn"]) == 2
    assert "--jsn" in capsys.readouterr().err


def test_a_closed_pipe_is_not_an_error():
    """`rectiflow --help | head -0` ends quietly."""
    command = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from rectiflow_cli.main import main; sys.exit(main())",
            "-h",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert command.stdout is not None
    command.stdout.close()
    _, err = command.communicate(timeout=30)
    assert err == b""
