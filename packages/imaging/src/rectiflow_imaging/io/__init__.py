"""Images and volumes in and out: DICOM, NIfTI, PNG and NPZ."""

from rectiflow_imaging.io.read import SUFFIXES, read_volume
from rectiflow_imaging.io.volume import Volume, VolumeFileError
from rectiflow_imaging.io.write import WRITTEN, write_volume

__all__ = ["SUFFIXES", "WRITTEN", "Volume", "VolumeFileError", "read_volume", "write_volume"]
