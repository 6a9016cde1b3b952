"""A natural structure to try things on and to compare with."""

from __future__ import annotations

from pathlib import Path

PROTEIN_G = Path(__file__).parent / "protein_g.pdb"
"""Domain B1 of streptococcal protein G: 56 residues, one helix over a sheet of four strands.

Backbone of PDB entry 1PGA (Gallagher et al., 1994; 2.07 Å), centred. The archive's coordinates are
dedicated to the public domain (CC0 1.0).
"""
