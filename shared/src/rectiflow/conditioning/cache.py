"""Embeddings on disk, one file a text."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

from torch import Tensor

from rectiflow.storage.files import write_tensors
from rectiflow.storage.tensor_files import CheckpointError, load_tensors

log = logging.getLogger(__name__)


class EmbeddingCache:
    """Named tensors by text, for one encoder.

    Processes may share a folder: a file appears whole or not at all, and all write the same.

    Parameters
    ----------
    folder : Path or str
        Made when the first text is stored.
    encoder : str
        Hash of the encoder; the texts of each encoder are apart.
    """

    def __init__(self, folder: Path | str, encoder: str) -> None:
        self.folder = Path(folder) / encoder[:16]

    def read(self, text: str) -> dict[str, Tensor] | None:
        """Return what was stored for a text, bit for bit, or None."""
        path = self._path(text)
        if not path.is_file():
            return None
        try:
            return load_tensors(path)
        except CheckpointError as error:
            log.warning("the text is encoded again: %s", error)
            return None

    def write(self, text: str, tensors: dict[str, Tensor]) -> None:
        """Store the tensors of a text."""
        write_tensors(self._path(text), tensors, sync=False)

    def _path(self, text: str) -> Path:
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"
