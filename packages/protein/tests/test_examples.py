"""The structure that ships is the natural one that it says it is."""

from __future__ import annotations

import torch
from rectiflow_protein.examples import PROTEIN_G
from rectiflow_protein.io import read_structure
from rectiflow_protein.metrics.summary import backbone_metrics
from rectiflow_protein.secondary_structure import dssp, letters


def test_protein_g_is_a_helix_over_four_strands():
    made = read_structure(PROTEIN_G)
    assert made.sequence == "MTYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVDGEWTYDDATKTFTVTE"
    assert (made.resolution, made.dropped, made.breaks.tolist()) == (2.07, (), [])
    codes = letters(dssp(torch.from_numpy(made.coords)))
    assert [run for run in ("".join(codes)).replace("C", " ").split() if len(run) > 3] == [
        *("EEEEEEE", "EEEEEEE", "HHHHHHHHHHHHHH", "EEEEE", "EEEEE"),
    ]


def test_protein_g_is_sound():
    made = read_structure(PROTEIN_G)
    metrics = backbone_metrics(torch.from_numpy(made.coords), aatype=torch.from_numpy(made.aatype))
    assert metrics["ca_ca_strict"] == metrics["peptide_valid"] == metrics["ramachandran"] == 1
    assert metrics["close_contacts"] == 0


def test_its_licence_lies_beside_it():
    text = PROTEIN_G.with_name("README.md").read_text(encoding="utf-8")
    assert "1PGA" in text
    assert "CC0 1.0" in text
