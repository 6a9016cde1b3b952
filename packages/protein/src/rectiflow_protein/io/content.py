"""What a structure file holds: its format by name, its bytes within a bound, its text."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path
from typing import TextIO

from rectiflow.storage.faults import FileError
from rectiflow.storage.reading import read_bounded

from rectiflow_protein.io.errors import StructureError

FORMATS = {
    ".pdb": "pdb",
    ".ent": "pdb",
    ".cif": "cif",
    ".mmcif": "cif",
    ".bcif": "bcif",
}
"""File formats by suffix; each may be followed by ``.gz``, and ``.pdb`` by a number."""

MAX_BYTES = 128 * 2**20
"""Largest structure file that is read, uncompressed; 1.6 million atoms as PDB."""

EXPECTED = f"a structure file ({', '.join(FORMATS)}, each also .gz)"

_PACKED = {b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "Zstandard"}
_RAISE = (
    "Raise the bound if you trust the file: max_bytes in Python, --max-megabytes on the command "
    "line."
)
_ENCODINGS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def format_of(path: str | Path) -> str | None:
    """Format a file name promises, None if it is no structure file.

    Examples
    --------
    >>> format_of("1ABC.ENT.gz"), format_of("1abc.pdb1"), format_of("notes.txt")
    ('pdb', 'pdb', None)
    """
    name = Path(path).name.lower().removesuffix(".gz")
    return FORMATS.get(re.sub(r"^\.pdb\d+$", ".pdb", Path(name).suffix))


def stem_of(path: str | Path) -> str:
    """Name of a structure file without its suffixes, such as ``1ABC`` of ``1ABC.ENT.gz``."""
    name = Path(path).name
    return (name[:-3] if name.lower().endswith(".gz") else name).rsplit(".", 1)[0]


def read_content(path: Path, max_bytes: int) -> bytes:
    """Read a structure file, unpacked if it is compressed, and refuse what is none."""
    kind = format_of(path)
    if kind is None:
        raise StructureError(
            path, f"its suffix is {path.suffix!r}", EXPECTED, "Rename or convert it."
        )
    if not path.is_file():
        raise StructureError(path, "there is no such file", EXPECTED, "Check the path.")
    try:
        content = read_bounded(path, limit=max_bytes, hint=_RAISE)
    except FileError as error:
        raise StructureError(path, error.found, error.expected, error.hint) from error
    except OSError as error:
        found = f"it cannot be read ({os.strerror(error.errno or 0)})"
        raise StructureError(path, found, EXPECTED, "Check the file.") from error
    if not content.strip():
        raise StructureError(path, "it is empty", EXPECTED, "Fetch it again.")
    _refuse_others(path, content, kind)
    return content


def as_text(content: bytes) -> TextIO:
    """Content as lines of text; a byte order mark is heeded, bytes of other alphabets pass."""
    encoding = next((e for mark, e in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    return io.TextIOWrapper(io.BytesIO(content), encoding=encoding, errors="replace")


def _refuse_others(path: Path, content: bytes, kind: str) -> None:
    """Say what a file is that is no structure, or one of another format than its name says."""
    head = content[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, name in _PACKED.items():
        if content.startswith(magic):
            raise StructureError(path, f"it is compressed by {name}", EXPECTED, "Unpack it.")
    if kind == "bcif":
        return
    if re.match(rb"<(!doctype|html|\?xml)", head, re.IGNORECASE):
        what = "XML" if head[:2] == b"<?" else "an HTML page"
        raise StructureError(
            path, f"it is {what}", EXPECTED, "Fetch the file itself, not the page about it."
        )
    is_cif = re.search(rb"^\s*(data_\S*|_atom_site\.)", head, re.IGNORECASE | re.MULTILINE)
    is_pdb = re.search(rb"^(ATOM  |HETATM|HEADER|CRYST1|MODEL )", head, re.MULTILINE)
    other = {"pdb": "mmCIF"} if is_cif and not is_pdb else {"cif": "PDB"} if is_pdb else {}
    if kind in other and not (is_cif and is_pdb):
        raise StructureError(
            path,
            f"it is {other[kind]}, which its name does not say",
            EXPECTED,
            f"Rename it to end in {'.cif' if kind == 'pdb' else '.pdb'}.",
        )
