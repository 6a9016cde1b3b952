"""What happens with each awkward real file."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from rectiflow_protein.io import StructureError, read_structure

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("RECTIFLOW_SHARED", ROOT.parent / "shared"))
RAW = SHARED / "data" / "protein" / "raw"
pytestmark = pytest.mark.skipif(not RAW.is_dir(), reason=f"no {RAW}")


def _ends(backbone):
    return {
        chain: (len(part), part.label(0), part.label(len(part) - 1))
        for chain, part in backbone.chains().items()
    }


def test_heme_sulfate_and_waters_are_left_out():
    made = read_structure(RAW / "101m_heme.cif")
    assert _ends(made) == {"A": (154, "A/0", "A/153")}
    assert made.resolution == 2.07
    assert made.sequence.startswith("MVLSEGEWQLVLHVWAKVEADVAGHGQDILIRLFKSHPETLEKFDRVKHLKTEAEMKASE")
    assert (made.dropped, made.breaks.tolist()) == ((), [])


def test_dna_alone_is_refused():
    with pytest.raises(StructureError, match=r"holds no amino acid, only DC, DG, DA, DT"):
        read_structure(RAW / "1bna_dna_only.pdb")


def test_insertion_codes_and_altlocs_of_1orc():
    made = read_structure(RAW / "1orc_insertions_altloc.pdb")
    assert _ends(made) == {"A": (64, "A/3", "A/61")}
    inserted = [made.label(i) for i in np.flatnonzero(made.insertion_codes != "")]
    assert inserted == [f"A/56{code}" for code in "ABCDE"]
    assert made.breaks.tolist() == []
    assert made.resolution == 1.54


def test_disordered_residues_and_blank_chain():
    made = read_structure(RAW / "a_structure_disordered.pdb")
    assert _ends(made) == {"A": (86, "A/1", "A/86"), "B": (10, "B/44", "B/52")}
    assert made.dropped == ("A/0 CYS lacks N, CA, O",)
    assert made.chains()["B"].insertion_codes.tolist().count("A") == 1
    assert made.sequence[0] == "Q"  # PCA, pyroglutamate
    assert set(made.chain_ids) == {"A", "B"}  # the blank chain holds waters


def test_negative_numbers_of_1o1z():
    made = read_structure(RAW / "1o1z_negative_numbers.pdb")
    assert _ends(made) == {"A": (226, "A/-3", "A/222")}
    assert made.residue_index[:5].tolist() == [-3, -2, -1, 0, 1]
    assert made.resolution == 1.6


def test_selenomethionine_of_1a8o_is_methionine():
    made = read_structure(RAW / "1a8o_mse.pdb")
    assert _ends(made) == {"A": (70, "A/151", "A/220")}
    lines = (RAW / "1a8o_mse.pdb").read_text().splitlines()
    numbers = {int(line[22:26]) for line in lines if line.startswith("HETATM") and "MSE" in line}
    assert len(numbers) == 4
    assert {made.sequence[number - 151] for number in numbers} == {"M"}
    assert made.breaks.tolist() == []


def test_first_model_and_protein_only_of_an_nmr_complex():
    made = read_structure(RAW / "1lcd_nmr_dna_complex.pdb")
    assert _ends(made) == {"A": (51, "A/1", "A/51")}
    assert made.resolution is None
    other = read_structure(RAW / "1lcd_nmr_dna_complex.pdb", model=3)
    assert other.sequence == made.sequence
    assert np.abs(other.coords - made.coords).max() > 0.5
    with pytest.raises(StructureError, match="no model 4; expected 1 <= model <= 3"):
        read_structure(RAW / "1lcd_nmr_dna_complex.pdb", model=4)
    with pytest.raises(StructureError, match="no amino acid, only D"):
        read_structure(RAW / "1lcd_nmr_dna_complex.pdb", chain="B")


def test_modified_cysteine_and_gap_of_1bhl():
    made = read_structure(RAW / "1bhl_modified_residue_gaps.pdb")
    assert _ends(made) == {"A": (135, "A/57", "A/207")}
    modified = [made.label(i) for i, letter in enumerate(made.sequence) if letter == "C"]
    assert modified == ["A/65", "A/130"]  # CAS in the file
    (gap,) = made.breaks
    assert (made.label(gap), made.label(gap + 1)) == ("A/137", "A/154")


def test_five_short_chains_of_2beg():
    made = read_structure(RAW / "2beg_short_chains.pdb")
    assert _ends(made) == {c: (26, f"{c}/17", f"{c}/42") for c in "ABCDE"}
    assert len({part.sequence for part in made.chains().values()}) == 1


def test_residue_of_highest_occupancy_of_the_altloc_edge_case():
    made = read_structure(RAW / "altloc_edge.cif")
    assert (made.sequence, made.label(0)) == ("P", "A/22")  # 0.6, against SER 0.2 and 0.2
    assert made.coords[0, 1].tolist() == pytest.approx([6.035, 13.459, -2.622])


def test_author_numbers_of_the_numbering_edge_case():
    made = read_structure(RAW / "res_ids_edge.cif")
    assert _ends(made) == {"A": (3, "A/0", "A/2")}  # the label numbers are 5 to 7
    assert made.sequence == "SDQ"


def test_altlocs_and_an_incomplete_residue():
    made = read_structure(RAW / "dummy_altloc_missing_atoms.pdb")
    assert made.sequence == "SEAL"  # SER 0.53 against PRO 0.47, LEU 0.99 against ILE 0.61
    assert made.dropped == ("A/26 GLU lacks N, C, O",)


def test_many_chains_insertions_and_numbers_that_go_back():
    made = read_structure(RAW / "dummy_insertions.pdb")
    assert _ends(made) == {
        "B": (5, "B/4A", "B/7A"),
        "Y": (3, "Y/7", "Y/8"),
        "A": (4, "A/1A", "A/3"),
        "C": (3, "C/5", "C/-1"),
    }
    assert made.coords[8, 1].tolist() == pytest.approx([20.0, 30.0, 0.005])  # altloc B, 0.6
    assert made.dropped == ()


def test_every_raw_file_has_a_test_here():
    text = Path(__file__).read_text()
    assert [path.name for path in sorted(RAW.iterdir()) if f'"{path.name}"' not in text] == []
