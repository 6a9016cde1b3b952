"""No verb writes over its input, over a file that it did not make, or over another's result."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from trials import command

MINE = "the user's"
SEPARATE = ("--steps", "1", "--query", "rain")


def foreign(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(MINE)
    return path


@pytest.fixture
def structures(tmp_path: Path) -> Path:
    from rectiflow_protein.examples import PROTEIN_G

    folder = tmp_path / "structures"
    folder.mkdir()
    shutil.copy(PROTEIN_G, folder)
    return folder


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    from rectiflow_audio.io import write_audio

    path = tmp_path / "rec" / "rain.wav"
    noise = np.random.default_rng(0).standard_normal(8000).astype(np.float32)
    write_audio(path, 0.1 * noise, 16_000)
    return path


@pytest.mark.parametrize("name", ["result.json", "length_012_sample_00000.pdb"])
def test_sample(tmp_path: Path, name: str) -> None:
    path = foreign(tmp_path / "out" / name)
    words = ("protein", "sample", "--length", "12", "--steps", "2", "-o", path.parent)
    assert command(*words).refuses(name, "which this command did not make", "--overwrite")
    assert path.read_text() == MINE
    assert command(*words, "--overwrite").code == 0
    assert path.read_text() != MINE
    assert command(*words).code == 0


@pytest.mark.parametrize("name", ["metrics.csv", "summary.json"])
def test_eval(tmp_path: Path, structures: Path, name: str) -> None:
    path = foreign(tmp_path / "out" / name)
    words = ("protein", "eval", structures, "-o", path.parent)
    assert command(*words).refuses(name)
    assert path.read_text() == MINE


@pytest.mark.parametrize("name", ["manifest.json", "metadata.csv", "report.json"])
def test_prepare(tmp_path: Path, structures: Path, name: str) -> None:
    path = foreign(tmp_path / "out" / name)
    words = ("protein", "prepare", structures, "--min-length", "5", "-o", path.parent)
    answer = command(*words)
    assert answer.refuses(name) or answer.refuses("is not a manifest of shards")
    assert path.read_text() == MINE
    assert command(*words, "--overwrite").code == 0


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_convert(tmp_path: Path, name: str) -> None:
    official = tmp_path / "official"
    assert command("protein", "convert", "small", "--to", "official", "-o", official).code == 0
    path = foreign(tmp_path / "out" / name)
    words = ("protein", "convert", official / "reqflow.ckpt", "-o", path.parent)
    assert command(*words).refuses(name)
    assert path.read_text() == MINE


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv"])
def test_train(tmp_path: Path, name: str) -> None:
    path = foreign(tmp_path / "run" / name)
    words = ("protein", "train", "debug=tiny", f"run_dir={path.parent}")
    assert command(*words, folder=tmp_path).refuses(name)
    assert path.read_text() == MINE


def test_separate_onto_the_recording(sound: Path) -> None:
    before = sound.read_bytes()
    words = ("audio", "separate", sound, *SEPARATE)
    for out in (sound.parent, sound):
        for more in ((), ("--overwrite",)):
            assert command(*words, "-o", out, *more).refuses("input")
    assert sound.read_bytes() == before


def test_separate_onto_another_recording_s_result(tmp_path: Path, sound: Path) -> None:
    other = tmp_path / "other" / "rain.wav"
    other.parent.mkdir()
    shutil.copy(sound, other)
    out = tmp_path / "out"
    assert command("audio", "separate", sound, *SEPARATE, "-o", out).code == 0
    assert command("audio", "separate", other, *SEPARATE, "-o", out).refuses("rain.wav", "made as")
    answer = command("audio", "separate", sound, *SEPARATE, "-o", out)
    assert answer.code == 0
    assert "were there already" in answer.out


def test_separate_beside_a_record_of_the_user(tmp_path: Path, sound: Path) -> None:
    path = foreign(tmp_path / "ann.json")
    words = ("audio", "separate", sound, *SEPARATE, "-o", tmp_path / "ann.wav")
    assert command(*words).refuses("ann.json")
    assert path.read_text() == MINE


def test_a_changed_recording_is_separated_again(tmp_path: Path, sound: Path) -> None:
    """By content: the new recording is older than the result of the former."""
    import os

    from rectiflow_audio.io import write_audio

    out = tmp_path / "out"
    words = ("audio", "separate", sound, *SEPARATE, "-o", out)
    assert command(*words).code == 0
    before = (out / "rain.wav").read_bytes()
    write_audio(sound, np.zeros(8000, np.float32) + 0.1, 16_000)
    os.utime(sound, (0, 0))
    assert command(*words).code == 0
    assert (out / "rain.wav").read_bytes() != before
