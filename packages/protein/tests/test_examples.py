"""The structure that ships is what its function builds, and looks like a protein."""

from __future__ import annotations

import torch
from rectiflow_protein.examples import HELICAL_HAIRPIN, helical_hairpin
from rectiflow_protein.io import read_structure, write_structure
from rectiflow_protein.metrics import ca_clashes, torsions
from rectiflow_protein.metrics.summary import backbone_metrics
from rectiflow_protein.secondary_structure import dssp, letters


def test_file_is_what_the_function_writes(tmp_path):
    made = write_structure(tmp_path / "again.pdb", helical_hairpin())
    assert made.read_bytes() == HELICAL_HAIRPIN.read_bytes()


def test_hairpin_is_two_packed_antiparallel_helices():
    coords = torch.from_numpy(read_structure(HELICAL_HAIRPIN).coords)
    codes = letters(dssp(coords))
    assert len(coords) == 41
    assert codes[2:16] == codes[25:39] == "H" * 14
    assert "C" in codes[17:24]
    ca = coords[:, 1]
    first, second = ca[14:18].mean(0) - ca[0:4].mean(0), ca[-4:].mean(0) - ca[23:27].mean(0)
    assert torch.cosine_similarity(first, second, dim=0) < -0.9
    middles = (ca[7:11].mean(0) - ca[-11:-7].mean(0)).norm()
    assert 7.5 < middles < 10.5


def test_hairpin_is_ideal():
    coords = torch.from_numpy(read_structure(HELICAL_HAIRPIN).coords)
    metrics = backbone_metrics(coords)
    assert metrics["ca_ca_strict"] == metrics["peptide_valid"] == metrics["ramachandran"] == 1
    assert ca_clashes(coords[:, 1], cutoff=4.0, separation=3) == 0
    phi = torch.rad2deg(torsions(coords).phi)[1:18]
    assert torch.allclose(phi, torch.full_like(phi, -62.0), atol=0.2)  # three decimals in the file
