"""Images read whole: DICOM files and series, NIfTI, PNG and NPZ."""

from __future__ import annotations

import io
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.storage.reading import read_bounded

from rectiflow_imaging.io.volume import Volume, VolumeFileError

if TYPE_CHECKING:
    from pydicom import Dataset

MOST = 512 * 1024 * 1024
"""Voxels of an image: more are refused."""

_AGAIN = "Export or copy it again."
_NOT_READ = (  # what libraries say of damage, one way or another
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RuntimeError),
    *(OSError, EOFError, MemoryError, SyntaxError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)
_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # NIfTI's axes run toward right, front and head
_SWAP = np.eye(4)[[2, 1, 0, 3]]  # (z, y, x) to (x, y, z) and back


def read_volume(path: str | Path) -> Volume:
    """Read an image or a volume, in its own units.

    Parameters
    ----------
    path : str or Path
        A file whose name ends in .dcm, .nii, .nii.gz, .png, .npz or .npy, or a folder with the
        DICOM files of one series, which are put in order by where they are.

    Returns
    -------
    Volume
        DICOM's rescaling and NIfTI's scaling are applied. PNG is read as grey in [0, 1]. An NPZ
        holds ``volume (z, y, x)`` or one image, and ``affine`` or ``spacing`` if they are known.

    Raises
    ------
    StorageError
        When the machine cannot read it.
    VolumeFileError
        When it is no such file, is cut short, is compressed in a way that cannot be decoded, has
        another number of dimensions, or values that are not finite.
    """
    path = Path(path)
    parse = _series if path.is_dir() else _PARSERS.get(_suffix(path))
    if parse is None:
        raise VolumeFileError(
            path,
            f"its name ends in {path.suffix or 'nothing'}",
            f"one of {', '.join(SUFFIXES)} or a folder of DICOM files",
            "Give it the name of its format.",
        )
    with warnings.catch_warnings():  # what libraries wonder about is told as notes, or raised
        warnings.simplefilter("ignore")
        found = parse(path)
    return _checked(path, found)


def _checked(path: Path, found: Volume) -> Volume:
    values = found.values
    if values.dtype.kind not in "fiub":
        _refuse(path, f"its values are of type {values.dtype}", "numbers", "Store grey values.")
    while values.ndim > 3 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        _refuse(
            path,
            f"it has {values.ndim} dimensions {values.shape}",
            "a flat image or one volume",
            "Store each time or channel in a file of its own.",
        )
    if min(values.shape[1:]) < 8 or values.size > MOST:
        _refuse(path, f"it is of shape {values.shape}", f"slices of 8 to {MOST} voxels", _AGAIN)
    values = values.astype(np.float32)
    bad = int((~np.isfinite(values)).sum())
    if bad:
        _refuse(
            path,
            f"{bad} of {values.size} values are not finite",
            "numbers",
            "Fill them first; 0, or the value of air.",
        )
    affine, notes = found.affine, list(found.notes)
    if affine is not None and not (
        np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12
    ):
        affine = None
        notes.append("its axes do not span space; spacing and orientation are taken as unknown")
    if affine is None and not notes:
        notes.append("it tells no spacing; voxels are taken as cubes of unknown size")
    labels = found.labels
    if labels is not None:
        labels = labels.reshape(values.shape) if labels.size == values.size else None
        if labels is None or labels.dtype.kind not in "uib":
            _refuse(path, "its labels do not fit", "an integer for each voxel", "Leave them out.")
    return Volume(values, affine, tuple(notes), labels)


def _nifti(path: Path) -> Volume:
    from nibabel.filebasedimages import ImageFileError
    from nibabel.imageglobals import logger
    from nibabel.nifti1 import Nifti1Image
    from nibabel.nifti2 import Nifti2Image
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    content, was_disabled = read_bounded(path), logger.disabled
    logger.disabled = True  # it tells of each guess
    try:
        sizes = {int.from_bytes(content[:4], order) for order in ("little", "big")}
        image: Any = (Nifti2Image if 540 in sizes else Nifti1Image).from_bytes(content)
        if int(np.prod(image.shape, dtype=float)) > MOST:
            _refuse(path, f"it is of shape {image.shape}", f"at most {MOST} voxels", "Crop it.")
        values = np.asarray(image.dataobj)
    except VolumeFileError:
        raise
    except (*_NOT_READ, ImageFileError, HeaderDataError, WrapStructError) as error:
        raise _damaged(path, "NIfTI", error) from error
    finally:
        logger.disabled = was_disabled
    if values.dtype.kind == "c" or values.dtype.names:
        _refuse(path, "it holds complex numbers or colours", "grey values", _AGAIN)
    zooms = np.array([*map(float, image.header.get_zooms()[:3]), 1.0, 1.0])[:3]
    affine, notes = None, []
    if image.header["sform_code"] > 0 or image.header["qform_code"] > 0:
        affine = _TO_LPS @ image.affine @ _SWAP
    elif (zooms != 1).any():
        affine = np.diag([*zooms, 1.0]) @ _SWAP
        notes.append("it tells spacing without orientation; axes are taken as left, back, head")
    return Volume(values.transpose(range(values.ndim)[::-1]), affine, tuple(notes))


def _png(path: Path) -> Volume:
    from PIL import Image, UnidentifiedImageError

    content = read_bounded(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            wide = image.mode.startswith("I") or image.mode == "F"
            pixels = np.asarray(image if wide or image.mode == "L" else image.convert("RGB"))
    except (*_NOT_READ, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _damaged(path, "PNG", error) from error
    notes = ["PNG tells no spacing"]
    if pixels.ndim == 3:
        if np.ptp(pixels.astype(np.int16), axis=2).max() > 0:
            notes.append("colours were averaged to grey")
        pixels = pixels.mean(2)
    return Volume(pixels / np.float32(65535 if wide else 255), None, tuple(notes))


def _numpy(path: Path) -> Volume:
    content = read_bounded(path)
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = {"volume": found} if isinstance(found, np.ndarray) else dict(found)
    except _NOT_READ as error:
        raise _damaged(path, "NPZ", error) from error
    named = [name for name in ("volume", "image") if name in arrays]
    rest = [name for name in arrays if name not in ("affine", "spacing", "labels")]
    if not named and len(rest) != 1:
        _refuse(path, f"it holds {sorted(arrays)}", "an array called volume", "Rename it.")
    affine = arrays.get("affine")
    if affine is None and "spacing" in arrays and arrays["spacing"].shape == (3,):
        affine = _SWAP @ np.diag([*arrays["spacing"].astype(float), 1.0])
    if affine is not None and affine.shape != (4, 4):
        _refuse(path, f"its affine is of shape {affine.shape}", "(4, 4)", "Leave it out.")
    return Volume(arrays[(named or rest)[0]], affine, labels=arrays.get("labels"))


def _dicom(path: Path) -> Volume:
    return _ordered(path, [_dataset(path)])


def _series(path: Path) -> Volume:
    files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    parts = [_dataset(p) for p in files if p.suffix.lower() in ("", ".dcm", ".ima")]
    if not parts:
        _refuse(path, "it holds no file of DICOM", "the files of one series", "Check the folder.")
    series = {str(part.get("SeriesInstanceUID", "")) for part in parts}
    if len(series) > 1:
        _refuse(path, f"it holds {len(series)} series", "one", "Sort them into folders.")
    return _ordered(path, parts)


def _ordered(path: Path, parts: list[Dataset]) -> Volume:
    """Stack the slices; elements are parsed when they are used."""
    from pydicom.errors import BytesLengthException

    try:
        return _stacked(path, parts)
    except VolumeFileError:
        raise
    except (*_NOT_READ, BytesLengthException) as error:
        raise _damaged(path, "DICOM", error) from error


def _dataset(path: Path) -> Dataset:
    import pydicom
    from pydicom.errors import BytesLengthException, InvalidDicomError

    content = read_bounded(path)
    try:
        return pydicom.dcmread(io.BytesIO(content))
    except (*_NOT_READ, BytesLengthException, InvalidDicomError) as error:
        raise _damaged(path, "DICOM", error) from error


def _stacked(path: Path, parts: list[Dataset]) -> Volume:
    """Put the slices of a series in order, and tell where they are."""
    slices = [_pixels(path, part) for part in parts]
    shapes = {s.shape[1:] for s in slices}
    if len(shapes) > 1:
        _refuse(path, f"its slices are of {sorted(shapes)}", "one shape", "Sort out the others.")
    first = parts[0]
    notes: list[str] = []
    gap, origin, rows, columns = _gap(first), np.zeros(3), np.eye(3)[1], np.eye(3)[0]
    through = np.eye(3)[2]
    if "ImageOrientationPatient" in first and len(first.ImageOrientationPatient) == 6:
        told = np.array(first.ImageOrientationPatient, float)
        columns, rows = told[:3], told[3:]
        through = np.cross(columns, rows)
    if len(parts) > 1:
        if not all("ImagePositionPatient" in part for part in parts):
            _refuse(path, "slices do not tell where they are", "ImagePositionPatient", _AGAIN)
        places = np.array([np.array(p.ImagePositionPatient, float) @ through for p in parts])
        order = places.argsort()
        steps = np.diff(places[order])
        if steps.min() <= 1e-6:
            _refuse(path, "two slices lie at one place", "one slice for each", "Sort them out.")
        if np.ptp(steps) > 0.05 * steps.mean():
            notes.append(f"gaps between slices vary from {steps.min():g} to {steps.max():g} mm")
        gap, first = float(steps.mean()), parts[order[0]]
        slices = [slices[i] for i in order]
    if "ImagePositionPatient" in first and len(first.ImagePositionPatient) == 3:
        origin = np.array(first.ImagePositionPatient, float)
    spacing = first.get("PixelSpacing")
    values = np.concatenate(slices)
    if spacing is None or len(spacing) != 2:
        notes.append("it tells no PixelSpacing; voxels are taken as cubes of unknown size")
        return Volume(values, None, tuple(notes))
    if gap is None:
        gap = 1.0
        if len(values) > 1:
            notes.append("it tells no gap between slices; 1 mm is taken")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = through * gap, rows * float(spacing[0])
    affine[:3, 2], affine[:3, 3] = columns * float(spacing[1]), origin
    return Volume(values, affine, tuple(notes))


def _gap(part: Dataset) -> float | None:
    for name in ("SpacingBetweenSlices", "SliceThickness"):
        if part.get(name) not in (None, ""):
            return abs(float(part[name].value)) or None
    return None


def _pixels(path: Path, part: Dataset) -> np.ndarray:
    """Return the frames of a data set as ``(z, y, x)``, rescaled."""
    if "PixelData" not in part:
        _refuse(path, "it holds no pixels", "an image", "Reports and plans have none.")
    if int(part.get("SamplesPerPixel", 1)) != 1:
        _refuse(path, "it holds colours", "grey values", _AGAIN)
    try:
        pixels = part.pixel_array.astype(np.float32)
    except (*_NOT_READ, RuntimeError, ImportError) as error:
        kind = getattr(part.file_meta.get("TransferSyntaxUID"), "name", "unknown")
        raise VolumeFileError(
            path,
            f"its pixels ({kind}) cannot be decoded ({_line(error)})",
            "whole pixels that are not compressed, or in a way that is decoded here",
            "Decompress it first, for example with gdcmconv --raw.",
        ) from error
    slope, shift = part.get("RescaleSlope", 1), part.get("RescaleIntercept", 0)
    pixels = pixels * float(slope) + float(shift)
    if part.get("PhotometricInterpretation") == "MONOCHROME1":
        pixels = pixels.max() + pixels.min() - pixels
    return pixels if pixels.ndim == 3 else pixels[None]


_PARSERS: dict[str, Callable[[Path], Volume]] = {
    ".dcm": _dicom,
    ".nii": _nifti,
    ".nii.gz": _nifti,
    ".npy": _numpy,
    ".npz": _numpy,
    ".png": _png,
}
SUFFIXES = tuple(_PARSERS)
"""What the names of images end in."""


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else path.suffix.lower()


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")[:120] or type(error).__name__


def _damaged(path: Path, kind: str, error: BaseException) -> VolumeFileError:
    return VolumeFileError(
        path, f"it cannot be read as {kind} ({_line(error)})", f"a whole {kind} file", _AGAIN
    )


def _refuse(path: Path, found: str, expected: str, hint: str) -> Any:
    raise VolumeFileError(path, found, expected, hint)
