"""Readers of published lists, on lists of our own in their forms."""

import csv
import logging
import random
import unicodedata

import pytest
from rectiflow_audio.data import read_captions
from rectiflow_audio.data.lists import (
    AUDIOCAPS,
    AUDIOCAPS_LABELS,
    AUDIOSET,
    CLOTHO,
    DCASE2024,
    ESC50,
    FORMS,
    MUSIC,
    VGGSOUND,
    files_of,
)
from rectiflow_audio.data.tables import TableError


def write(path, header, *rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_audiocaps_by_caption_and_by_labels(tmp_path):
    touch(tmp_path, "Ya.wav", "Yb.wav")
    row = [7, "A dog barks, then a car", "Dog Bark", "Ya.wav", "Yb.wav"]
    path = write(tmp_path / "list.csv", ["idx", "caption", "labels", "src_wav", "noise_wav"], row)
    (found,) = AUDIOCAPS.read(path, tmp_path)
    assert found.target == tmp_path / "Ya.wav"
    assert found.interferers == (tmp_path / "Yb.wav",)
    assert (found.query, found.snr, found.labels, found.mixture) == (row[1], None, (), None)
    (found,) = AUDIOCAPS_LABELS.read(path, tmp_path)
    assert found.query == "Dog Bark"


def test_prepared_mixtures_go_by_number(tmp_path):
    touch(tmp_path, "segment-7.wav", "mixture-7.wav")
    header = ["idx", "caption", "labels", "src_wav", "noise_wav"]
    path = write(tmp_path / "list.csv", header, [7, "a dog", "Dog", "Ya.wav", "Yb.wav"])
    (found,) = AUDIOCAPS.read(path, tmp_path, prepared=True)
    assert (found.target.name, found.mixture.name) == ("segment-7.wav", "mixture-7.wav")
    assert found.interferers == ()


def test_clotho_has_two_interferers_under_one_name(tmp_path):
    touch(tmp_path, "a.wav", "b, far.wav", "c.wav")
    header = ["idx", "caption", "src_wav", "noise_wav1", "noise_wav1"]
    path = write(tmp_path / "list.csv", header, [0, "a machine", "a.wav", "b, far.wav", "c.wav"])
    (found,) = CLOTHO.read(path, tmp_path)
    assert [file.name for file in found.interferers] == ["b, far.wav", "c.wav"]
    path = write(tmp_path / "other.csv", header[:4], [0, "a machine", "a.wav", "c.wav"])
    with pytest.raises(ValueError, match=r"lacks columns \['noise_wav1'\]"):
        CLOTHO.read(path, tmp_path)


@pytest.mark.parametrize("form", [ESC50, MUSIC])
def test_class_lists_have_labels(tmp_path, form):
    touch(tmp_path, "a.wav", "b.wav")
    header = ["idx", "caption", "src_wav", "noise_wav"]
    path = write(tmp_path / "list.csv", header, [0, "dog", "a.wav", "b.wav"])
    (found,) = form.read(path, tmp_path)
    assert (found.query, found.labels) == ("dog", ("dog",))


def test_vggsound_has_mixtures_of_its_own(tmp_path):
    names = [f"data/{kind}_wav/x+++y.wav" for kind in ("mix", "s0", "s1")]
    touch(tmp_path, *names[:2])  # the other source is not needed
    header = ["file_id", "mix_wav", "s0_wav", "s0_text", "s1_wav", "s1_text"]
    row = ["x+++y", names[0], names[1], "playing accordion", names[2], "sea lion barking"]
    (found,) = VGGSOUND.read(write(tmp_path / "list.csv", header, row), tmp_path)
    assert found.mixture == tmp_path / names[0]
    assert found.target == tmp_path / names[1]
    assert (found.query, found.labels) == ("playing accordion", ("playing accordion",))


def test_audioset_paths_are_taken_below_the_folder(tmp_path):
    """The column called noise holds the mixture, and all paths begin in the authors' tree."""
    names = [f"class_id=3/class_id=3,index=000,{kind}.wav" for kind in ("source", "mixture")]
    touch(tmp_path, *names)
    row = [3, "Child speech, kid speaking", *(f"evaluation/data/audioset/{n}" for n in names)]
    path = write(tmp_path / "list.csv", ["idx", "caption", "src_wav", "noise_wav"], row)
    (found,) = AUDIOSET.read(path, tmp_path)
    assert [found.target, found.mixture] == [tmp_path / name for name in names]
    assert found.interferers == ()
    assert found.labels == ("Child speech, kid speaking",)


@pytest.mark.parametrize("header", [["source", "noise", "snr", "caption"], ["a", "b", "c", "d"]])
def test_dcase_goes_by_position_and_has_a_ratio(tmp_path, header):
    touch(tmp_path, "123.wav", "456.wav")
    path = write(tmp_path / "list.csv", header, ["123", "456", "-12", "wind in the trees"])
    (found,) = DCASE2024.read(path, tmp_path)
    assert (found.target.name, found.interferers[0].name) == ("123.wav", "456.wav")
    assert (found.snr, found.query) == (-12.0, "wind in the trees")


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path):
    touch(tmp_path, "a.wav", "b.wav")
    path = tmp_path / "list.csv"
    text = "idx,caption,src_wav,noise_wav\n\n0,dog,a.wav,b.wav\n\n"
    path.write_text(text, encoding="utf-8-sig")
    (found,) = ESC50.read(path, tmp_path)
    assert files_of(found) == [tmp_path / "a.wav", tmp_path / "b.wav"]


def test_missing_sounds_are_counted_or_left_out(tmp_path, caplog):
    touch(tmp_path, "a.wav", "b.wav")
    header = ["idx", "caption", "src_wav", "noise_wav"]
    rows = [[0, "dog", "a.wav", "b.wav"], [1, "cat", "gone.wav", "lost.wav"]]
    path = write(tmp_path / "list.csv", header, *rows)
    with pytest.raises(FileNotFoundError, match=r"1 mixtures of .* lack sounds.*gone\.wav"):
        ESC50.read(path, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(ESC50.read(path, tmp_path, skip_missing=True)) == 1
    assert "1 of 2 mixtures" in caplog.text
    path = write(tmp_path / "none.csv", header, rows[1])
    with pytest.raises(ValueError, match="lists no mixture that can be used"):
        ESC50.read(path, tmp_path, skip_missing=True)


def test_wrong_lists_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*absent\.csv; expected a CSV"):
        ESC50.read(tmp_path / "absent.csv", tmp_path)
    path = write(tmp_path / "list.csv", ["idx", "caption"], [0, "dog"])
    with pytest.raises(ValueError, match=r"lacks columns \['src_wav', 'noise_wav'\], got \['idx'"):
        ESC50.read(path, tmp_path)
    path = write(tmp_path / "short.csv", ["a", "b", "c"], ["1", "2", "3"])
    with pytest.raises(ValueError, match=r"lacks columns \['caption'\]"):
        DCASE2024.read(path, tmp_path)
    header = ["idx", "caption", "src_wav", "noise_wav"]
    path = write(tmp_path / "cut.csv", header, [0, "dog", "a.wav", "b.wav"], [1, "cat"])
    touch(tmp_path, "a.wav", "b.wav")
    with pytest.raises(ValueError, match=r"line 3 is cut off, got 2 cells; expected 4"):
        ESC50.read(path, tmp_path)
    path = write(tmp_path / "silent.csv", header, [0, " ", "a.wav", "b.wav"])
    with pytest.raises(ValueError, match=r"line 2 has no query in column 'caption'"):
        ESC50.read(path, tmp_path)
    path = write(tmp_path / "snr.csv", ["source", "noise", "snr", "caption"], [*"ab", "loud", "x"])
    with pytest.raises(ValueError, match=r"has no number in column 'snr', got 'loud'"):
        DCASE2024.read(path, tmp_path)
    path = write(tmp_path / "v.csv", VGGSOUND.columns, ["i", "m", "s", "dog", "n", "cat"])
    with pytest.raises(ValueError, match=r"has no numbered mixtures, got prepared=True"):
        VGGSOUND.read(path, tmp_path, prepared=True)


def test_every_form_names_its_own_columns():
    for name, form in FORMS.items():
        used = {form.query, form.target, form.mixture, form.snr, form.label, form.index}
        assert used | {*form.interferers} <= {*form.columns, None}, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "0,dog,a.wav,b.wav\n1,someone, speaking,a.wav,b.wav\n",
            "line 3 has too many cells, got 5",
        ),
        ('0,"dog,a.wav,b.wav\n1,cat,a.wav,b.wav\n', "expected every quote to be closed"),
        ('0,"dog" barks,a.wav,b.wav\n', "expected every quote to be closed"),
        ("0,d\xf6g,a.wav,b.wav\n", "is not UTF-8 text"),
    ],
)
def test_cells_are_never_guessed(tmp_path, text, message):
    touch(tmp_path, "a.wav", "b.wav")
    path = tmp_path / "list.csv"
    path.write_bytes(b"idx,caption,src_wav,noise_wav\n" + text.encode("latin-1"))
    with pytest.raises(TableError, match=message):
        ESC50.read(path, tmp_path)


def test_names_are_found_in_either_form_and_keep_their_spaces(tmp_path):
    touch(tmp_path, unicodedata.normalize("NFD", "sub\u00e9/caf\u00e9.wav"), "two  spaces.wav")
    named = unicodedata.normalize("NFC", "sub\u00e9/caf\u00e9.wav")
    row = [0, "dog", named, "two  spaces.wav"]
    path = write(tmp_path / "list.csv", ["idx", "caption", "src_wav", "noise_wav"], row)
    (found,) = ESC50.read(path, tmp_path)
    assert all(file.is_file() for file in files_of(found))
    row[2] = "x" * 300 + "\u00e9.wav"
    path = write(tmp_path / "list.csv", ["idx", "caption", "src_wav", "noise_wav"], row)
    with pytest.raises(FileNotFoundError, match="1 mixtures of"):
        ESC50.read(path, tmp_path)


def mutated(data: bytearray, draws: random.Random) -> bytes:
    """Change, cut, or repeat some bytes."""
    for _ in range(draws.choice((1, 2, 8))):
        at = draws.randrange(len(data))
        part = draws.choice((b'"', b",", b"\n", b"\xff", b"\0", b"", data[: draws.randrange(9)]))
        data[at : at + draws.randrange(4)] = part
        data = data or bytearray(b"x")
    return bytes(data)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_lists_raise_what_is_documented(tmp_path, count):
    draws = random.Random(0)
    table = b'file,caption,label\na.wav,"a dog, barking",dog\nb.wav,rain,rain\n'
    lines = b'{"wav": "a.wav", "caption": "a dog"}\n{"file": "b.wav", "caption": "rain"}\n'
    mixtures = b"source,noise,snr,caption\na,b,-3,a dog barks\n"
    touch(tmp_path, "a.wav", "b.wav")
    read, told = 0, []
    for k in range(count):
        name, data = (("x.csv", table), ("x.jsonl", lines), ("y.csv", mixtures))[k % 3]
        (tmp_path / name).write_bytes(mutated(bytearray(data), draws))
        try:
            if name == "y.csv":
                DCASE2024.read(tmp_path / name, tmp_path)
            else:
                read_captions(tmp_path / name)
            read += 1
        except (ValueError, FileNotFoundError) as error:
            told.append(error)
    assert {type(error) for error in told} <= {ValueError, TableError, FileNotFoundError}
    assert all(str(error).startswith((str(tmp_path), "1 mixtures")) for error in told)
    assert count * 0.05 < read < count * 0.95
