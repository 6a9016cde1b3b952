"""Volumes written: NIfTI, DICOM, PNG and NPZ, with their places in space."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rectiflow.storage.files import whole_file

from rectiflow_imaging.io.volume import Volume

_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SWAP = np.eye(4)[[2, 1, 0, 3]]
_ROOT = "2.25."  # identifiers made of random numbers, which need no registration


def write_volume(path: str | Path, volume: Volume) -> Path:
    """Write a volume in the format that the name of the file says.

    Parameters
    ----------
    path : str or Path
        ``.nii``, ``.nii.gz`` and ``.npz`` hold the numbers as they are; ``.dcm`` is one file with a
        frame for each slice, of 16 bit between the least and the largest value; ``.png`` is the
        slice, or the middle one of several, of 16 bit for [0, 1].
    volume : Volume
    """
    target = Path(path)
    name = target.name.lower()
    suffix = next((s for s in WRITTEN if name.endswith(s)), None)
    if suffix is None:
        raise ValueError(
            f"{target} names no format that is written; expected one of {', '.join(WRITTEN)}."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(target) as part:
        _WRITERS[suffix](part, volume, suffix)
    return target


def _nifti(part: Path, volume: Volume, suffix: str) -> None:
    import nibabel

    affine = np.eye(4) if volume.affine is None else _TO_RAS @ volume.affine @ _SWAP
    image = nibabel.Nifti1Image(volume.values.transpose(2, 1, 0), affine)
    if volume.affine is None:  # its place is unknown
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    else:
        image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    part.write_bytes(gzip.compress(content, mtime=0) if suffix == ".nii.gz" else content)


def _npz(part: Path, volume: Volume, suffix: str) -> None:
    told = {"volume": volume.values, "affine": volume.affine, "labels": volume.labels}
    arrays: Any = {name: array for name, array in told.items() if array is not None}
    with part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _png(part: Path, volume: Volume, suffix: str) -> None:
    from PIL import Image

    middle = volume.values[len(volume.values) // 2].clip(0, 1)
    image = Image.fromarray(np.round(middle * 65535).astype(np.uint16))
    image.save(part, format="PNG")


def _dicom(part: Path, volume: Volume, suffix: str) -> None:
    from pydicom import uid
    from pydicom.dataset import FileDataset, FileMetaDataset

    low, high = float(volume.values.min()), float(volume.values.max())
    slope = (high - low) / 65535 or 1.0
    values, origin = volume.values, np.eye(4)[3]
    if volume.affine is not None and np.linalg.det(volume.affine[:3, :3]) > 0:  # of (z, y, x)
        values, origin = values[::-1], np.array([len(values) - 1.0, 0, 0, 1])
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    digest = hashlib.sha256(volume.values.tobytes()).digest()
    meta.MediaStorageSOPInstanceUID = uid.UID(f"{_ROOT}{int.from_bytes(digest[:15], 'big')}")
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    made = FileDataset(str(part), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID = meta.MediaStorageSOPClassUID
    made.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    made.Modality, made.PatientName, made.PatientID = "OT", "", ""
    made.ImageComments = "Made by a network; not for diagnosis."
    made.NumberOfFrames, made.Rows, made.Columns = volume.values.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit, made.PixelRepresentation = 15, 0
    made.RescaleSlope, made.RescaleIntercept = f"{slope:.10g}", f"{low:.10g}"
    if volume.affine is not None:
        gap, rows, columns = volume.spacing or (1.0, 1.0, 1.0)
        directions = volume.affine[:3, :3] / np.array([gap, rows, columns])
        made.PixelSpacing = [f"{rows:.10g}", f"{columns:.10g}"]
        made.SliceThickness = made.SpacingBetweenSlices = f"{gap:.10g}"
        both = [*directions[:, 2], *directions[:, 1]]
        made.ImageOrientationPatient = [f"{value:.10g}" for value in both]
        made.ImagePositionPatient = [f"{value:.10g}" for value in (volume.affine @ origin)[:3]]
    pixels = np.round((values.astype(np.float64) - low) / slope).astype("<u2")
    made.PixelData = pixels.tobytes()
    made.save_as(part, enforce_file_format=True)


_WRITERS: dict[str, Callable[[Path, Volume, str], None]] = {
    ".nii.gz": _nifti,
    ".nii": _nifti,
    ".npz": _npz,
    ".png": _png,
    ".dcm": _dicom,
}
WRITTEN = tuple(_WRITERS)
"""What the names of written images end in."""
