"""Preparing folders: complete, resumable, deterministic, and gentle with the input."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from rectiflow.execution import Processes
from rectiflow.storage.shards import ShardError
from rectiflow.storage.splits import split_of
from rectiflow_audio.data import (
    MixtureDataset,
    PreparedSounds,
    TextTable,
    Wordings,
    encode_texts,
    find_captions,
    prepare,
    read_captions,
)
from rectiflow_audio.data.prepared import pack_wave, unpack_wave

RATE = 16_000


def noise(seed: int, seconds: float = 0.2, channels: int = 1, rate: int = RATE) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.integers(-9000, 9000, (round(seconds * rate), channels)).astype(np.int16)


def write_list(folder: Path, rows: list[dict], name: str = "captions.csv") -> Path:
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["file", "caption", "label", "split"], restval="")
        writer.writeheader()
        writer.writerows(rows)
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seventy listed files, three chunks of work, with bad ones among them."""
    inputs = tmp_path_factory.mktemp("sounds")
    (inputs / "sub").mkdir()
    rows = []
    for k in range(60):
        file = f"sub/s{k:02d}.{('wav', 'flac')[k % 2]}"
        soundfile.write(inputs / file, noise(k), RATE)
        split = ("train", "val", "TEST", "")[k % 4]
        rows.append({"file": file, "caption": f"noise {k}", "label": "ab"[k % 2], "split": split})
    soundfile.write(inputs / "short.wav", noise(61, 0.05), RATE)
    soundfile.write(inputs / "silent.wav", np.full(4000, 3, np.int16), RATE)
    soundfile.write(inputs / "twin.wav", noise(1), RATE)
    bad = np.ones(4000, np.float32)
    bad[7] = np.nan
    soundfile.write(inputs / "nan.wav", bad, RATE, subtype="FLOAT")
    (inputs / "text.wav").write_text("not a sound")
    (inputs / "sub" / "unlisted.wav").write_bytes((inputs / "twin.wav").read_bytes())
    soundfile.write(inputs / "other.wav", noise(62), RATE)
    for name in ("short", "silent", "twin", "nan", "text", "absent"):
        rows.append({"file": f"{name}.wav", "caption": "x", "split": "train"})
    rows.append({"file": "", "caption": "x"})
    rows.append({"file": "other.wav", "caption": " "})
    rows.append({"file": "other.wav", "caption": "x", "split": "later"})
    rows.append({"file": "other.wav", "caption": "a  noise,\nnamed other", "label": "c, d"})
    write_list(inputs, rows)
    return inputs


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    return prepare(folder, out), out


def fingerprint(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def rows_of(sounds: PreparedSounds) -> list[dict]:
    table = sounds.table
    return [{key: table[key][i] for key in table} for i in range(len(sounds))]


def refusals(out: Path) -> list[tuple[str, str]]:
    with (out / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return [(row["file"], row["reason"]) for row in csv.DictReader(file)]


def test_every_row_is_used_or_refused_with_a_reason(folder, tmp_path):
    before = fingerprint(folder)
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out"
    report = prepare(folder, out, progress=lambda *done: seen.append(done))
    assert fingerprint(folder) == before
    assert (report.inputs, report.accepted, report.rejected) == (70, 61, 9)
    assert report.counts["labels"] == 4
    assert report.counts["unlisted files"] == 1
    assert report.counts["seconds"] == pytest.approx(61 * 0.2)
    assert seen == [(32, 70), (64, 70), (70, 70)]
    assert not (out / ".partial").exists()
    expected = [
        ("short.wav", "0.05"),
        ("silent.wav", "silent: every sample is more than 80 dB below full scale"),
        ("twin.wav", "the same samples as sub/s01.flac in line 3"),
        ("nan.wav", "finite"),
        ("text.wav", "cannot be read"),
        ("absent.wav", "there is no such file"),
        ("", "no file is named"),
        ("other.wav", "no caption"),
        ("other.wav", "unknown split 'later', expected train, valid or test"),
    ]
    found = refusals(out)
    assert [file for file, _ in found] == [file for file, _ in expected]
    for (_, reason), (_, part) in zip(found, expected, strict=True):
        assert part in reason
    assert "61 clips of 70 inputs (12.2 seconds, 4 labels, 1 unlisted files, " in str(report)


def test_what_is_stored_is_what_was_listed(prepared):
    _, out = prepared
    sounds = PreparedSounds(out, verify=True)
    assert len(sounds) == 61
    table = {row["source"]: (i, row) for i, row in enumerate(rows_of(sounds))}
    for k in (0, 17, 59):
        row, told = table[f"sub/s{k:02d}.{('wav', 'flac')[k % 2]}"]
        wave = unpack_wave(sounds.records[row])
        assert np.array_equal(wave.numpy(), noise(k)[:, 0] / np.float32(32768))
        assert (told["caption"], told["label"]) == (f"noise {k}", "ab"[k % 2])
        assert (told["seconds"], told["sample_rate"], told["channels"]) == (0.2, 16_000, 1)
    assert table["other.wav"][1]["caption"] == "a noise, named other"
    assert sounds.records.names[0] == sounds.table["name"][0] == "s00"


def test_splits_come_from_the_list_or_from_the_name(prepared):
    report, out = prepared
    table = rows_of(PreparedSounds(out))
    for k, row in enumerate(table[:60]):
        drawn = split_of(row["source"], {"train": 0.9, "valid": 0.05, "test": 0.05})
        assert row["split"] == ("train", "valid", "test", drawn)[k % 4]
    assert report.splits == dict(Counter(row["split"] for row in table))


def test_workers_change_nothing(folder, prepared, tmp_path):
    _, out = prepared
    prepare(folder, tmp_path / "two", executor=Processes(2))
    assert fingerprint(tmp_path / "two") == fingerprint(out)


def test_a_killed_preparation_continues(folder, prepared, tmp_path):
    out = tmp_path / "out"

    class Killed(BaseException):
        pass

    def kill(done: int, _: int) -> None:
        if done >= 32:
            raise Killed

    with pytest.raises(Killed):
        prepare(folder, out, progress=kill)
    with pytest.raises(FileNotFoundError, match=r"has no metadata\.csv; expected a folder that"):
        PreparedSounds(out)
    seen: list[int] = []
    prepare(folder, out, progress=lambda done, _: seen.append(done))
    assert seen == [64, 70]
    assert fingerprint(out) == fingerprint(prepared[1])


def test_a_finished_preparation_returns_its_report(folder, prepared):
    report, out = prepared
    before = fingerprint(out)
    assert prepare(folder, out) == report
    assert fingerprint(out) == before


def test_other_settings_need_another_folder(folder, prepared):
    with pytest.raises(ShardError, match="channel is 'mean' there, got 'first' now"):
        prepare(folder, prepared[1], channel="first")


def test_channels_rates_and_levels(tmp_path):
    left, right = noise(0), noise(1)
    soundfile.write(tmp_path / "stereo.wav", np.concatenate([left, right], 1), RATE)
    time = np.arange(44_100) / 44_100
    loud = 2.5 * np.sin(2 * np.pi * 440 * time).astype(np.float32) + 0.2
    soundfile.write(tmp_path / "loud.wav", loud.astype(np.float32), 44_100, subtype="FLOAT")
    names = [{"file": f, "caption": f, "split": "train"} for f in ("stereo.wav", "loud.wav")]
    write_list(tmp_path, names)
    for channel, expected in (("mean", (left + right.astype(float)) / 2), ("first", left)):
        out = tmp_path.with_name(f"{tmp_path.name}-{channel}")
        prepare(tmp_path, out, channel=channel)
        clips = PreparedSounds(out).clips("train")
        assert np.allclose(clips.waves[0].numpy() * 32768, expected[:, 0], atol=0.3)
    wave = clips.waves[1]
    assert len(wave) == RATE
    sine = 2.5 * torch.sin(2 * torch.pi * 440 * torch.arange(RATE) / RATE) + 0.2
    assert (wave - sine)[200:-200].abs().max() < 2e-3  # resampled, not clipped


@pytest.mark.parametrize("peak", [1e-3, 0.3, 1.0, 40.0])
def test_waves_of_any_level_survive_16_bits(peak):
    wave = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    wave *= peak / wave.abs().max()
    assert (unpack_wave(pack_wave(wave)) - wave).abs().max() <= peak / 65_000


def test_16_bit_samples_survive_exactly():
    wave = torch.tensor([0, 1, -1, 32_767, -32_767]) / 32_768
    assert torch.equal(unpack_wave(pack_wave(wave)), wave)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel": "left"}, "unknown channel rule 'left'; known: mean, first"),
        ({"fractions": {"train": 0.5}}, "split fractions must share 1"),
        ({"fractions": {"train": 0.5, "dev": 0.5}}, "split fractions must share 1"),
        ({"captions": "nowhere.csv"}, r"there is no nowhere\.csv; expected a list of captions"),
    ],
)
def test_unusable_arguments_are_refused(folder, tmp_path, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(folder, tmp_path / "out", **options)


def test_out_must_lie_outside_and_the_input_exist(folder, tmp_path):
    with pytest.raises(ValueError, match="out must not lie inside the input folder"):
        prepare(folder, folder / "out")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        prepare(tmp_path / "absent", tmp_path / "out")


def test_lists_are_found_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no list of captions, got none of metadata"):
        find_captions(tmp_path)
    first = write_list(tmp_path, [{"file": "a.wav", "caption": "a"}])
    assert find_captions(tmp_path) == first
    write_list(tmp_path, [{"file": "a.wav", "caption": "a"}], "metadata.csv")
    with pytest.raises(ValueError, match=r"several lists of captions, got metadata\.csv, captions"):
        find_captions(tmp_path)


def test_json_lines_say_the_same_as_csv(tmp_path):
    rows = [
        {"wav": "a.wav", "label": "/m/1,/m/2", "caption": "a dog", "time": 3},
        {"file": "b.wav", "class": ["dog", "cat"], "caption": "a\ncat", "split": "val"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    a, b = read_captions(path)
    assert (a.file, a.label, a.caption, a.split, a.line) == ("a.wav", "/m/1,/m/2", "a dog", "", 1)
    assert (b.file, b.label, b.caption, b.split, b.line) == ("b.wav", "dog,cat", "a cat", "val", 3)
    table = tmp_path / "list.csv"
    table.write_text(
        "\ufeffWav, Class ,caption\na.wav,dog,Ein Hund bellt: üben\n", encoding="utf-8"
    )
    (entry,) = read_captions(table)
    assert (entry.file, entry.label, entry.caption) == ("a.wav", "dog", "Ein Hund bellt: üben")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"name,caption\nx,y\n", r"has the columns \['name', 'caption'\]; expected file"),
        ("a.csv", b"file,caption\n", "lists nothing; expected a row for each sound"),
        ("a.csv", b"", r"has the columns \[\]; expected file"),
        ("a.csv", b"file,caption\na.wav,\xff\xfe\n", "is not UTF-8 text"),
        ("a.jsonl", b'{"wav": 1,\n', "line 1: not JSON"),
        ("a.jsonl", b'{"wav": "a", "text": "b"}\n', "line 1: no object with the keys wav"),
        ("a.jsonl", b"[1]\n", "line 1: no object with the keys wav"),
    ],
)
def test_unusable_lists_say_where(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_captions(tmp_path / name)


def test_wordings_are_read_and_checked(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("label,caption\ndog,woof\ndog, a bark \ncat,meow\n", encoding="utf-8")
    wordings = Wordings.read(path)
    assert wordings.by_label == {"dog": ["woof", "a bark"], "cat": ["meow"]}
    assert wordings.texts == ["a bark", "meow", "woof"]
    generator = torch.Generator().manual_seed(0)
    # Two labels: a wording of one would tell only a part.
    assert {wordings.draw("both", "dog,cat", generator) for _ in range(20)} == {"both"}
    path.write_text("label,caption\ndog,\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: label or caption is empty"):
        Wordings.read(path)
    path.write_text("class,caption\ndog,x\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected label and caption"):
        Wordings.read(path)
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 2"):
        Wordings({}, share=2)


@dataclass
class Embedding:
    states: torch.Tensor
    mask: torch.Tensor


class LetterEncoder:
    """Stands in for the text encoder: one token a letter, six at most, padding not zero."""

    hash = "letters"

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts, *, truncate=False):
        assert truncate
        assert all(texts)
        self.encoded += texts
        rows = [list(text.encode()[:6]) for text in texts]
        states = torch.tensor([row + [7] * (6 - len(row)) for row in rows]).float()
        mask = torch.tensor([[1.0] * len(row) + [0.0] * (6 - len(row)) for row in rows])
        return Embedding(states[..., None].expand(-1, -1, 3), mask)

    def null(self, batch):
        return Embedding(torch.full((batch, 6, 3), 7.0), torch.ones(batch, 6))


@pytest.mark.parametrize("stored", [False, True])
def test_embedded_texts_are_those_of_the_encoder(tmp_path, stored):
    texts = ["dog", "a cat purrs", "rain", "dog"]
    encoder = LetterEncoder()
    make = (
        (lambda: encode_texts(texts, encoder, tmp_path))
        if stored
        else (lambda: TextTable.encode(texts, encoder))
    )
    table = make()
    assert (len(table), table.tokens, table.width) == (4, 6, 3)
    found = encoder.encode(texts, truncate=True)
    for text, states, mask in zip(texts, found.states, found.mask, strict=True):
        assert torch.equal(table[text].mask, mask)
        assert torch.equal(table[text].states, states * mask[:, None])
    assert torch.equal(table.null.states, torch.full((6, 3), 7.0))
    assert torch.equal(table.null.mask, torch.ones(6))
    assert "dog" in table
    assert "hound" not in table
    with pytest.raises(KeyError, match="text 'hound' is not among the 4 embedded texts"):
        table["hound"]


def test_embedding_goes_on_with_new_texts_only(tmp_path):
    encoder = LetterEncoder()
    encode_texts(["a", "b"], encoder, tmp_path)
    table = encode_texts(["b", "c"], encoder, tmp_path)
    assert encoder.encoded == ["a", "b", "c"]
    assert all(text in table for text in ("", "a", "b", "c"))
    other = LetterEncoder()
    other.hash = "others"
    with pytest.raises(ShardError, match="encoder is 'letters' there, got 'others' now"):
        encode_texts(["d"], other, tmp_path)


def test_captions_are_embedded_also_afterwards(folder, tmp_path):
    out = tmp_path / "out"
    prepare(folder, out)
    sounds = PreparedSounds(out)
    with pytest.raises(FileNotFoundError, match="has no embedded captions, got no folder 'texts'"):
        _ = sounds.texts
    prepare(folder, out, encode=LetterEncoder(), wordings=Wordings({"a": ["hiss"]}))
    assert all(text in sounds.texts for text in ("noise 0", "hiss", "nothing", ""))


def test_damaged_folders_are_told(prepared, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(prepared[1], out)
    sounds = PreparedSounds(out)
    with pytest.raises(ValueError, match=r"unknown split 'val'; known: train, valid, test"):
        sounds.clips("val")
    text = (out / "metadata.csv").read_text()
    (out / "metadata.csv").write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="has 60 rows for 61 records"):
        PreparedSounds(out)
    (out / "metadata.csv").write_text(text + "x,y\n")
    with pytest.raises(ValueError, match="line 63 has 2 cells; expected 8"):
        PreparedSounds(out)
    (out / "metadata.csv").write_text("name\nx\n")
    with pytest.raises(ValueError, match="lacks the columns source, label"):
        PreparedSounds(out)


def test_an_empty_split_is_told(tmp_path):
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "a.wav", noise(0), RATE)
    write_list(tmp_path / "in", [{"file": "a.wav", "caption": "a", "split": "train"}])
    prepare(tmp_path / "in", tmp_path / "out")
    with pytest.raises(ValueError, match="has no clip in the split 'test', got 1 clips"):
        PreparedSounds(tmp_path / "out").clips("test")


def test_prepared_sounds_need_no_sound_library(prepared):
    """What a bare GPU machine does must not import the libraries that made the shards."""
    code = (
        "import sys\n"
        "for name in ('librosa', 'soundfile', 'torchaudio', 'transformers', 'jaxtyping'):\n"
        "    sys.modules[name] = None\n"
        "from rectiflow_audio.data import *\n"
        f"clips = PreparedSounds({str(prepared[1])!r}).clips('train')\n"
        "data = WaveformDataset(clips, 0.2, augment=Augment())\n"
        "assert data[0]['target'].shape == (3200,)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_real_recordings_and_the_awkward_ones(shared_data, tmp_path):
    """Every awkward file is used or refused with its own reason."""
    sounds = shared_data / "audio"
    raw = sorted(path.name for path in (sounds / "raw").iterdir() if path.suffix != ".csv")
    rows = [{"file": f"raw/{name}", "caption": name, "split": "test"} for name in raw]
    first = next(csv.DictReader((sounds / "metadata.csv").open(encoding="utf-8")))
    rows.append({"file": first["file"], "caption": first["caption"], "split": "train"})
    path = write_list(tmp_path, rows)
    report = prepare(sounds, tmp_path / "out", captions=path)
    assert report.accepted + report.rejected == len(raw) + 1
    refused = dict(refusals(tmp_path / "out"))
    expected = {"tabla_20ms.wav", "silent_3s.wav", "rooster_truncated.wav", "corrupt_header.wav"}
    assert {Path(file).name for file in refused} == expected
    assert "silent" in refused["raw/silent_3s.wav"]
    clips = PreparedSounds(tmp_path / "out").clips("test")
    waves = dict(zip(clips.captions, clips.waves, strict=True))
    assert len(waves["stereo_44k.wav"]) == 64_000
    assert waves["dog_float_over_unity_dc.wav"].abs().max() > 2.5


def test_a_list_of_bad_files_gives_an_empty_folder_and_a_warning(tmp_path, caplog):
    (tmp_path / "in").mkdir()
    write_list(tmp_path / "in", [{"file": "absent.wav", "caption": "a"}])
    report = prepare(tmp_path / "in", tmp_path / "out", encode=LetterEncoder())
    assert (report.accepted, report.rejected, report.counts["seconds"]) == (0, 1, 0)
    assert "no clip was accepted" in caplog.text
    assert len(PreparedSounds(tmp_path / "out")) == 0


def test_one_odd_file_does_not_end_a_preparation(tmp_path, monkeypatch):
    """A fault nobody foresaw is a refusal too."""
    (tmp_path / "in").mkdir()
    for name in "ab":
        soundfile.write(tmp_path / "in" / f"{name}.wav", noise(ord(name)), RATE)
    write_list(tmp_path / "in", [{"file": f"{name}.wav", "caption": name} for name in "ab"])

    def odd(wave, *rates):
        if wave[0] == noise(ord("a"))[0, 0] / 32768:
            raise RuntimeError("odd")
        return wave

    monkeypatch.setattr("rectiflow_audio.data.extract.resample", odd)
    report = prepare(tmp_path / "in", tmp_path / "out")
    assert report.accepted == 1
    assert refusals(tmp_path / "out") == [("a.wav", "unforeseen RuntimeError: odd")]


def test_every_caption_of_a_file_is_kept_and_drawn(tmp_path):
    inputs = tmp_path / "in"
    inputs.mkdir()
    rows = []
    for name in ("dog", "rain"):
        soundfile.write(inputs / f"{name}.wav", noise(len(name)), RATE)
        rows += [{"file": f"{name}.wav", "caption": f"{name} {k}", "label": name} for k in range(5)]
    shutil.copy(inputs / "dog.wav", inputs / "copy.wav")
    rows.append({"file": "copy.wav", "caption": "a copy", "label": "dog"})
    rows.append({"file": "dog.wav", "caption": "dog 0", "label": "dog"})
    rows.append({"file": "dog.wav", "caption": "a cat", "label": "cat"})
    write_list(inputs, rows)
    report = prepare(inputs, tmp_path / "out", fractions={"train": 1, "valid": 0, "test": 0})
    assert (report.accepted, report.rejected) == (
        2,
        3,
    )  # by name, words or label
    sounds = PreparedSounds(tmp_path / "out")
    sounds.encode(LetterEncoder())
    clips = sounds.clips("train")
    assert sorted(clips.texts) == sorted(
        f"{name} {k}" for name in ("dog", "rain") for k in range(5)
    )
    generator = torch.Generator().manual_seed(0)
    drawn = {clips.draw_caption(0, generator) for _ in range(100)}
    assert drawn == {f"dog {k}" for k in range(5)}
    dataset = MixtureDataset(clips, sounds.texts, 0.2)
    assert {dataset[(1, draw)]["caption"] for draw in range(60)} == {f"rain {k}" for k in range(5)}
