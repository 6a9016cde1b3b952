"""Published metrics of backbones, as pure functions on tensors."""

from __future__ import annotations

from rectiflow_protein.metrics.geometry import (
    PeptideGeometry,
    Torsions,
    bonded,
    ca_ca_bonded_fraction,
    ca_ca_deviation,
    ca_ca_distances,
    ca_ca_strict_fraction,
    ca_ca_valid_fraction,
    ca_clashes,
    close_contacts_per_100,
    contacts_per_100,
    dihedral,
    peptide_geometry,
    radius_of_gyration,
    torsions,
)
from rectiflow_protein.metrics.ramachandran import ramachandran_fraction
from rectiflow_protein.metrics.similarity import (
    cluster_count,
    diversity,
    foldseek_command,
    nearest_tm,
    pairwise_tm,
    read_foldseek,
    tm_score,
)
from rectiflow_protein.metrics.summary import backbone_metrics, secondary_structure_fractions
from rectiflow_protein.metrics.superposition import (
    kabsch,
    sc_mean_displacement,
    sc_rmsd,
    superpose,
)

__all__ = [
    "PeptideGeometry",
    "Torsions",
    "backbone_metrics",
    "bonded",
    "ca_ca_bonded_fraction",
    "ca_ca_deviation",
    "ca_ca_distances",
    "ca_ca_strict_fraction",
    "ca_ca_valid_fraction",
    "ca_clashes",
    "close_contacts_per_100",
    "cluster_count",
    "contacts_per_100",
    "dihedral",
    "diversity",
    "foldseek_command",
    "kabsch",
    "nearest_tm",
    "pairwise_tm",
    "peptide_geometry",
    "radius_of_gyration",
    "ramachandran_fraction",
    "read_foldseek",
    "sc_mean_displacement",
    "sc_rmsd",
    "secondary_structure_fractions",
    "superpose",
    "tm_score",
    "torsions",
]
