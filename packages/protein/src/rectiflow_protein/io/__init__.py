"""Reading and writing backbones: the only place that knows structure files."""

from __future__ import annotations

from rectiflow_protein.io.backbone import Backbone
from rectiflow_protein.io.content import FORMATS, MAX_BYTES, format_of
from rectiflow_protein.io.errors import StructureError
from rectiflow_protein.io.fasta import read_fasta
from rectiflow_protein.io.read import read_structure
from rectiflow_protein.io.sequence import decode_sequence, encode_sequence
from rectiflow_protein.io.write import write_structure

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "Backbone",
    "StructureError",
    "decode_sequence",
    "encode_sequence",
    "format_of",
    "read_fasta",
    "read_structure",
    "write_structure",
]
