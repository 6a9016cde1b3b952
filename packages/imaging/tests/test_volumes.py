"""Images in and out: what is kept, and what is said of files that cannot be used."""

import gzip
import logging
import shutil

import numpy as np
import pytest
from rectiflow.storage.faults import FileError
from rectiflow_imaging.io import WRITTEN, Volume, read_volume, write_volume

AFFINE = np.array(
    [[0.0, 0.1, 0.72, 12.0], [0.0, 0.9, -0.08, -7.0], [2.5, 0.0, 0.0, 30.0], [0.0, 0.0, 0.0, 1.0]]
)


def volume(deep=5, affine=AFFINE):
    x = np.random.default_rng(0).random((deep, 12, 10), np.float32)
    return Volume(x, affine)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_round_trip(tmp_path, suffix):
    sent = volume(1 if suffix == ".png" else 5)
    got = read_volume(write_volume(tmp_path / f"a{suffix}", sent))
    exact = suffix in (".nii", ".nii.gz", ".npz")
    np.testing.assert_allclose(got.values, sent.values, atol=0 if exact else 2e-5)
    if suffix == ".png":
        assert got.affine is None
        assert got.orientation == "unknown"
    else:
        np.testing.assert_allclose(got.affine, AFFINE, atol=1e-5)
        assert got.spacing == pytest.approx(sent.spacing, rel=1e-6)
        assert got.orientation == "head, back, left"
    assert got.like(got.values).affine is got.affine


def test_place_is_what_nibabel_says(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path = write_volume(tmp_path / "a.nii", volume())
    image = nibabel.load(path)
    assert image.shape == (10, 12, 5)
    assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
    # The voxel z=2, y=3, x=4, in RAS: LPS with the first two turned.
    place = AFFINE @ [2, 3, 4, 1]
    found = image.affine @ [4, 3, 2, 1]
    np.testing.assert_allclose(found[:3], place[:3] * [-1, -1, 1], atol=1e-5)


def test_dicom_of_mirrored_axes_lies_where_it_lay(tmp_path):
    """Slices of one file run by the right hand; of others the order is turned, not the body."""
    sent = Volume(volume().values, AFFINE * [-1, 1, 1, 1])
    got = read_volume(write_volume(tmp_path / "a.dcm", sent))
    np.testing.assert_allclose(got.values, sent.values[::-1], atol=2e-5)
    last = sent.affine @ [4, 0, 0, 1]
    np.testing.assert_allclose(got.affine @ [0, 0, 0, 1], last, atol=1e-5)


def slices(folder, count=4, **told):
    """Write a series of DICOM in an order of names that is not that of places."""
    pydicom = pytest.importorskip("pydicom")
    folder.mkdir(exist_ok=True)
    values = volume(count).values
    for i in range(count):
        path = write_volume(folder / f"{'dbca'[i]}.dcm", Volume(values[i : i + 1], np.eye(4)))
        part = pydicom.dcmread(path)
        part.SeriesInstanceUID = "2.25.7"
        part.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        part.ImagePositionPatient = [0, 0, 3 * i]
        part.PixelSpacing, part.SliceThickness = [0.5, 0.7], 1
        for name, value in told.items():
            setattr(part, name, value(i) if callable(value) else value)
        part.save_as(path)
    return values


def test_series_are_put_in_order(tmp_path):
    values = slices(tmp_path / "s")
    got = read_volume(tmp_path / "s")
    np.testing.assert_allclose(got.values, values, atol=2e-5)
    assert got.spacing == pytest.approx((3, 0.5, 0.7))
    assert got.orientation == "head, back, left"
    assert got.describe()["notes"] == []
    slices(tmp_path / "g", ImagePositionPatient=lambda i: [0, 0, i * i])
    assert "vary" in read_volume(tmp_path / "g").notes[0]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"ImagePositionPatient": [0, 0, 0]}, "two slices lie at one place"),
        ({"SeriesInstanceUID": lambda i: f"2.25.{i % 2 + 1}"}, "it holds 2 series"),
    ],
)
def test_series_that_are_none(tmp_path, told, message):
    slices(tmp_path / "s", **told)
    with pytest.raises(FileError, match=message):
        read_volume(tmp_path / "s")


def test_dicom_that_lacks_something(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    path = write_volume(tmp_path / "a.dcm", volume(1))
    part = pydicom.dcmread(path)
    del part.PixelSpacing
    part.save_as(tmp_path / "b.dcm")
    got = read_volume(tmp_path / "b.dcm")
    assert got.spacing is None
    assert "no PixelSpacing" in got.notes[0]
    part.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    part.PixelData = pydicom.encaps.encapsulate([b"\xff\x4f\xff\x51" + bytes(60)])
    part["PixelData"].VR = "OB"
    part.save_as(tmp_path / "c.dcm")
    with pytest.raises(FileError, match=r"JPEG 2000.* cannot be decoded .*gdcmconv"):
        read_volume(tmp_path / "c.dcm")
    del part.PixelData
    part.save_as(tmp_path / "d.dcm")
    with pytest.raises(FileError, match="no pixels"):
        read_volume(tmp_path / "d.dcm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="no file of DICOM"):
        read_volume(tmp_path / "empty")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".npz", ".png", ".dcm"])
def test_truncated_files(tmp_path, suffix):
    path = write_volume(tmp_path / f"a{suffix}", volume(1))
    content = path.read_bytes()
    for size in (0, 3, len(content) // 2, len(content) - 40):
        path.write_bytes(content[:size])
        with pytest.raises(FileError, match=r"expected"):
            read_volume(path)
    path.write_bytes(b"nonsense" * 100)
    with pytest.raises(FileError, match="expected"):
        read_volume(path)


@pytest.mark.parametrize("suffix", WRITTEN)
def test_damaged_files_are_refused_or_read(tmp_path, suffix, capfd, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)  # of handlers that other tests left
    path = write_volume(tmp_path / f"a{suffix}", volume(2))
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(40):
        content = bytearray(whole)
        for _ in range(int(random.integers(1, 12))):
            content[int(random.integers(min(len(content), 600)))] = int(random.integers(256))
        path.write_bytes(content)
        try:
            found = read_volume(path)
        except FileError:
            continue
        assert found.values.ndim == 3
        assert np.isfinite(found.values).all()
        found.describe()
    assert capfd.readouterr() == ("", "")


def save(path, values, **told):
    np.savez(path, volume=values, **told)
    return path


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((3, 9, 9), np.nan), "243 of 243 values are not finite"),
        (np.zeros((2, 3, 9, 9)), r"4 dimensions \(2, 3, 9, 9\)"),
        (np.zeros(9), "1 dimensions"),
        (np.zeros((1, 4, 9)), "of shape"),
        (np.array([["a"] * 9] * 9), "type <U1"),
        (np.zeros((9, 9), complex), "type complex"),
    ],
)
def test_values_that_are_no_image(tmp_path, values, message):
    with pytest.raises(FileError, match=message):
        read_volume(save(tmp_path / "a.npz", values))


def test_shapes_and_names_that_are_understood(tmp_path):
    flat = np.arange(81, dtype=np.uint8).reshape(9, 9)
    assert read_volume(save(tmp_path / "a.npz", flat)).values.shape == (1, 9, 9)
    got = read_volume(save(tmp_path / "b.npz", flat[None, None], spacing=np.array([3.0, 2, 1])))
    assert (got.values.shape, got.spacing) == ((1, 9, 9), (3, 2, 1))
    np.save(tmp_path / "c.npy", flat)
    assert "no spacing" in read_volume(tmp_path / "c.npy").notes[0]
    np.savez(tmp_path / "d.npz", one=flat, two=flat)
    with pytest.raises(FileError, match="an array called volume"):
        read_volume(tmp_path / "d.npz")
    singular = save(tmp_path / "e.npz", flat, affine=np.zeros((4, 4)))
    assert "do not span" in read_volume(singular).notes[0]
    with pytest.raises(FileError, match=r"ends in \.tif"):
        read_volume(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="names no format"):
        write_volume(tmp_path / "a.tif", got)


def test_nifti_of_four_dimensions_and_without_place(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    image = nibabel.Nifti1Image(np.zeros((9, 9, 9, 4), np.float32), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(FileError, match="4 dimensions"):
        read_volume(tmp_path / "a.nii.gz")
    image = nibabel.Nifti2Image(np.ones((9, 10, 11, 1), np.int16), np.diag([2.0, 3, 4, 1]))
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nibabel.save(image, tmp_path / "b.nii")
    got = read_volume(tmp_path / "b.nii")
    assert got.values.shape == (11, 10, 9)
    assert got.spacing == (4, 3, 2)
    assert "without orientation" in got.notes[0]
    path = write_volume(tmp_path / "c.nii", volume(2, None))
    assert read_volume(path).affine is None
    shutil.copy(path, tmp_path / "d.nii.gz")  # not compressed, whatever its name
    assert read_volume(tmp_path / "d.nii.gz").values.shape == (2, 12, 10)
    (tmp_path / "e.nii").write_bytes(gzip.compress(path.read_bytes()))
    assert read_volume(tmp_path / "e.nii").values.shape == (2, 12, 10)


def test_pictures(tmp_path):
    from PIL import Image

    colours = np.zeros((9, 12, 3), np.uint8)
    colours[..., 0] = 255
    Image.fromarray(colours).save(tmp_path / "a.png")
    got = read_volume(tmp_path / "a.png")
    assert got.values.mean() == pytest.approx(1 / 3, abs=1e-6)
    assert "averaged" in got.notes[1]
