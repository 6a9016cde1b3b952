"""Residue names, backbone atoms and their ideal geometry.

Coordinates are in ångström, in the local frame of a residue: CA at the origin, C on the positive
x axis, N in the xy half-plane with positive y. The template is alanine, as in ReQFlow.
"""

from __future__ import annotations

ONE_LETTER = "ARNDCQEGHILKMFPSTWYVX"
"""One-letter codes by ``aatype``; 20 is an unknown residue."""

THREE_LETTER = (
    *("ALA", "ARG", "ASN", "ASP", "CYS", "GLN", "GLU", "GLY", "HIS", "ILE", "LEU"),
    *("LYS", "MET", "PHE", "PRO", "SER", "THR", "TRP", "TYR", "VAL", "UNK"),
)
"""Three-letter codes by ``aatype``."""

UNKNOWN = 20
"""``aatype`` of a residue that is none of the twenty."""

ALANINE = 0
"""``aatype`` written for generated residues: the networks make no sequence."""

BACKBONE_ATOMS = ("N", "CA", "C", "O")
"""Atom order of prepared chains, ``coords (n, 4, 3)``."""

ATOM5 = ("N", "CA", "C", "CB", "O")
"""The first five atom37 slots, the order of generated structures, ``atoms (n, 5, 3)``."""

IDEAL_N = (-0.525, 1.363, 0.000)
IDEAL_CA = (0.000, 0.000, 0.000)
IDEAL_C = (1.526, 0.000, 0.000)
IDEAL_CB = (-0.529, -0.774, -1.205)

C_O_BOND = 1.23
"""Length of the carbonyl bond placed by :func:`rectiflow_protein.frames.place_oxygen`, Å."""

CA_CA_DISTANCE = 3.80209737096
"""Mean distance of consecutive alpha carbons across a trans peptide bond, Å."""
