"""One-letter sequences and residue types."""

from __future__ import annotations

import numpy as np

from rectiflow_protein.residues import ONE_LETTER, UNKNOWN

_TYPE_OF_LETTER = {letter: i for i, letter in enumerate(ONE_LETTER)}


def encode_sequence(sequence: str) -> np.ndarray:
    """Residue types of a one-letter sequence, int8; any other letter is unknown (20).

    Examples
    --------
    >>> encode_sequence("ARB").tolist()
    [0, 1, 20]
    """
    types = [_TYPE_OF_LETTER.get(letter, UNKNOWN) for letter in sequence.upper()]
    return np.array(types, dtype=np.int8)


def decode_sequence(aatype: np.ndarray) -> str:
    """One-letter sequence of residue types; unknown is X.

    Examples
    --------
    >>> decode_sequence(np.array([0, 1, 20]))
    'ARX'
    """
    return "".join(ONE_LETTER[int(i)] for i in aatype)
