"""The shared collection of sounds and lists that went wrong once, modelled on public reports.

The kinds are tested on inputs of their own in ``test_io_headers.py``, ``test_lists.py``,
``test_prepare.py`` and ``test_pipeline.py``.
"""

from __future__ import annotations

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rectiflow_audio.data import PreparedSounds, prepare, read_captions
from rectiflow_audio.data.lists import DCASE2024
from rectiflow_audio.io import AudioFileError, read_audio, sound_info, stream_blocks

WHOLE = {
    "mix16.wav": 32_000,
    "mix24.wav": 32_000,
    "mix_f32_peak3.wav": 32_000,
    "mix_f32_minus80dBFS.wav": 32_000,
    "mix_gsm610.wav": 32_000,
    "hdr_data_small.wav": 32_000,
    "hdr_data_zero.wav": 32_000,
    "hdr_data_7fffffff.wav": 32_000,
    "sox_pipe.wav": 32_000,
    "antiphase_stereo.wav": 32_000,
    "opposite_dc_stereo.wav": 32_000,
    "mp3_vbr_noxing.mp3": 89_856,
    "mp3_cbr_noxing_infotag.mp3": 89_856,
}
CUT = ("mp3_cover_truncated.mp3", "trunc_rf64.wav")


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    folder = shared_data.parent / "cases" / "audio"
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}")
    return folder


@pytest.mark.parametrize("name", WHOLE)
def test_sounds_are_read_whole(cases, name):
    assert read_audio(cases / name).samples.shape[1] == WHOLE[name]
    assert sound_info(cases / name).samples == WHOLE[name]
    assert sum(block.shape[1] for block in stream_blocks(cases / name)) == WHOLE[name]


def test_streamed_headers_hold_the_same_sound(cases):
    plain = read_audio(cases / "mix16.wav").samples
    for name in ("hdr_data_small", "hdr_data_zero", "hdr_data_7fffffff", "sox_pipe"):
        assert np.array_equal(read_audio(cases / f"{name}.wav").samples, plain)


@pytest.mark.parametrize("name", CUT)
def test_cut_sounds_are_refused(cases, name):
    for use in (read_audio, sound_info, lambda path: list(stream_blocks(path))):
        with pytest.raises(AudioFileError, match="it breaks off or is damaged"):
            use(cases / name)


def test_lists_whose_cells_would_be_guessed_are_refused(cases):
    with pytest.raises(ValueError, match="line 2 has too many cells, got 4 cells; expected 3"):
        read_captions(cases / "csv" / "unquoted_comma_label.csv")
    with pytest.raises(ValueError, match="expected every quote to be closed"):
        read_captions(cases / "csv" / "open_quote.csv")
    with pytest.raises(ValueError, match="line 4 has too many cells, got 5 cells; expected 4"):
        DCASE2024.read(cases / "csv" / "eval_unquoted_comma.csv", cases)
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        DCASE2024.read(cases / "csv" / "eval_latin1.csv", cases)


def prepared(cases: Path, name: str, folder: Path) -> PreparedSounds:
    """Prepare noises under the names of a list."""
    folder.mkdir()
    shutil.copy(cases / "csv" / name, folder / "metadata.csv")
    for k, file in enumerate(dict.fromkeys(e.file for e in read_captions(folder / "metadata.csv"))):
        noise = np.random.default_rng(k).normal(0, 0.1, 3200)
        soundfile.write(folder / unicodedata.normalize("NFD", file), noise, 16_000)
    report = prepare(folder, folder.with_name(f"{folder.name}-out"))
    assert report.rejected == 0
    return PreparedSounds(report.folder)


def test_names_are_found_in_either_form(cases, tmp_path):
    assert len(prepared(cases, "nfd.csv", tmp_path / "in")) == 2


def test_five_captions_of_a_clip_are_its_wordings(cases, tmp_path):
    sounds = prepared(cases, "five_captions.csv", tmp_path / "in")
    assert len(sounds) == 6
    assert {len(texts) for texts in sounds.further.values()} == {4}
