"""Files as other programs and other days write them: each is read right, or refused by name."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_protein.data.synthetic import backbone_from_torsions
from rectiflow_protein.io import Backbone, StructureError, read_structure, write_structure
from rectiflow_protein.residues import ONE_LETTER, THREE_LETTER

SEQUENCE = "MKTAYIHQCERG"
N = len(SEQUENCE)
NAMES = [THREE_LETTER[ONE_LETTER.index(letter)] for letter in SEQUENCE]
ATOMS = ("N", "CA", "C", "O")

ROOT = Path(__file__).resolve().parents[3]
CASES = Path(os.environ.get("RECTIFLOW_SHARED", ROOT.parent / "shared")) / "cases" / "protein"


def helix(shift=0.0):
    phi, psi = torch.full((N,), math.radians(-63)), torch.full((N,), math.radians(-42))
    coords = backbone_from_torsions(phi.double(), psi.double()).numpy()
    return (coords - coords.mean((0, 1)) + [shift + 5, 7, 9]).round(3)


def line(i, k, xyz, **changes):
    """One atom record; residue i from 0, atom k of it."""
    f = {"record": "ATOM", "name": ATOMS[k], "alt": " ", "residue": NAMES[i], "chain": "A"}
    f |= {"number": f"{i + 1:4d}", "code": " ", "tail": "  1.00 20.00", "segment": "    "}
    f |= changes
    x, y, z = xyz[i, k]
    chain, residue = f["chain"], f["residue"]
    name = f"{residue:>3s}{chain:>2s}" if len(residue) < 4 else f"{residue:4s}{chain:1s}"
    numbered = f"{f['number']}{f['code']}"[:5].ljust(5)
    return (
        f"{f['record']:<6s}{4 * i + k + 1:5d}  {f['name']:<3s}{f['alt']}{name}{numbered}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{f['tail']:<12s}      {f['segment']:<4s}{f['name'][0]:>2s}"
    )


def chain(xyz=None, change=lambda i, k: {}, **changes):
    xyz = helix() if xyz is None else xyz
    return [line(i, k, xyz, **{**changes, **change(i, k)}) for i in range(N) for k in range(4)]


def text(*lines):
    return "\n".join([*lines, "END", ""])


@pytest.fixture
def read(tmp_path):
    def _read(content, name="x.pdb", **options) -> Backbone:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_structure(path, **options)

    return _read


def sizes(backbone):
    return {name: len(part) for name, part in backbone.chains().items()}


def assert_is(part, xyz, sequence=SEQUENCE):
    assert part.sequence == sequence
    assert np.allclose(part.coords, xyz, atol=1e-3)


# Chains that share a name.


@pytest.mark.parametrize("name", ["", "A"])
@pytest.mark.parametrize("between", [["TER"], []])
def test_a_numbering_that_starts_again_is_another_chain(read, name, between):
    a, b = chain(chain=name), chain(helix(40), chain=name)
    made = read(text(*a, *between, *b))
    assert sizes(made) == {name: N, f"{name}-2": N}
    assert_is(made.chains()[name], helix())
    assert_is(made.chains()[f"{name}-2"], helix(40))


def test_blank_chains_of_unequal_length_are_no_chimera(read):
    short = chain(chain="")[: 4 * 5]
    made = read(text(*short, "TER", *chain(helix(40), chain="")))
    assert sizes(made) == {"": 5, "-2": N}
    assert made.breaks.tolist() == []


def test_ter_ends_a_blank_chain_whose_numbers_go_on(read):
    later = chain(helix(40), lambda i, k: {"number": f"{i + 13:4d}"}, chain="")
    made = read(text(*chain(chain=""), "TER", *later))
    assert sizes(made) == {"": N, "-2": N}
    assert made.label(N) == "-2/13"


@pytest.mark.parametrize("name", ["", "A"])
def test_ter_between_bonded_residues_ends_nothing(read, name):
    lines = chain(chain=name)
    assert sizes(read(text(*lines[:20], "TER", *lines[20:]))) == {name: N}


def test_segments_tell_chains_apart(read):
    a = chain(segment="P1")
    later = chain(helix(40), lambda i, k: {"number": f"{i + 30:4d}"}, segment="P2")
    assert sizes(read(text(*a, *later))) == {"A": N, "A-2": N}
    blank = [*chain(chain="", segment="P1"), *chain(helix(40), chain="", segment="P2")]
    assert sizes(read(text(*blank))) == {"P1": N, "P2": N}


def test_segment_columns_with_other_things_do_not_matter(read):
    made = read(text(*chain(change=lambda i, k: {"segment": f"{i + k / 10:.1f}"})))
    assert sizes(made) == {"A": N}


def test_free_names_do_not_collide(read):
    lines = [*chain(), *chain(helix(40)), *chain(helix(80))]
    named = [*lines, *chain(helix(120), chain="-2")]
    assert list(sizes(read(text(*named)))) == ["A", "A-2", "A-3", "-2"]


def test_a_residue_that_occurs_twice_is_refused(read):
    twice = chain()
    twice.insert(8, line(1, 0, helix() + 1))
    with pytest.raises(StructureError, match=r"residue A/2 LYS occurs twice \(atom N\)"):
        read(text(*twice))
    same = chain()
    same.insert(8, same[4])
    assert sizes(read(text(*same))) == {"A": N}  # the same words twice


def test_chains_of_two_letters(read):
    made = read(text(*chain(chain="AA"), "TER", *chain(helix(40), chain="BA")))
    assert sizes(made) == {"AA": N, "BA": N}


def test_residue_names_of_four_letters(read):
    names = {3: "NALA", 6: "HISB", 9: "GLUP"}
    made = read(text(*chain(change=lambda i, k: {"residue": names.get(i, NAMES[i])})))
    assert (made.sequence, sizes(made)) == (SEQUENCE, {"A": N})


# Numbers.


def test_residue_numbers_of_five_digits(read):
    made = read(text(*chain(change=lambda i, k: {"number": str(12001 + i)})))
    assert made.residue_index.tolist() == list(range(12001, 12001 + N))
    assert set(made.insertion_codes) == {""}


def test_residue_numbers_in_base_36(read):
    names = ["9998", "9999", *(f"A00{c}" for c in "0123456789")]
    made = read(text(*chain(change=lambda i, k: {"number": names[i]})))
    assert made.residue_index.tolist() == list(range(9998, 9998 + N))


@pytest.mark.parametrize("number", ["****", "    ", "271a"])
def test_residue_numbers_that_are_none(read, number):
    lines = chain(change=lambda i, k: {"number": number} if i > 5 else {})
    with pytest.raises(StructureError, match=r"line 25, columns 23-26: .* is no residue number"):
        read(text(*lines))


def test_numbers_of_what_is_left_out_do_not_matter(read):
    water = line(0, 3, helix(9), record="HETATM", residue="HOH", number="****")
    assert sizes(read(text(*chain(), water, water))) == {"A": N}


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda s: s[:30] + " " + s[30:], r"line 6, columns 31-38"),  # all slipped by one
        (lambda s: s[:38] + " " + s[38:], r"line 6, columns 47-54|line 6, columns 39-46"),
        (lambda s: s[:30] + "********" + s[38:], r"line 6, columns 31-38: '\*{8}' is no number"),
        (lambda s: s[:28] + "7" + s[29:], r"line 6, columns 28-30"),
        (lambda s: s[:54] + " 1.0.0" + s[60:], r"line 6, columns 55-60"),
        (lambda s: s[:50], r"line 6, columns 47-54"),
    ],
)
def test_columns_that_run_together(read, change, where):
    lines = chain()
    lines[5] = change(lines[5])
    with pytest.raises(StructureError, match=where):
        read(text(*lines))


def test_wide_coordinates_fill_their_columns(read):
    far = helix() - [500, 600, 700]
    assert_is(read(text(*chain(far))), far)


# Atoms, occupancies, conformers.


def test_no_occupancy_and_dummy_atoms(read):
    bare = [entry[:54] for entry in chain()]
    dummy = ["HETATM    1  N   DUM     1     -34.000  -2.000 -12.500"]
    dummy += ["HETATM    1  O   DUM     1     -34.000  -2.000  12.500"]
    made = read(text(*bare, *dummy))
    assert_is(made, helix())
    assert made.dropped == ()


@pytest.mark.parametrize("name", ["OT1", "O1", "OC1", "OXT"])
def test_terminal_oxygens(read, name):
    last = chain(change=lambda i, k: {"name": name} if i == N - 1 and k == 3 else {})
    second = line(N - 1, 3, helix() + 2, name="OT2")
    assert_is(read(text(*last, second)), helix())


def test_names_of_force_fields_mean_their_parent(read):
    names = {1: "LYN", 4: "TYM", 6: "HSE", 8: "CYX", 9: "GLH"}
    for histidine in ("HSD", "HSP", "HID", "HIE", "HIP"):
        names[6] = histidine
        made = read(text(*chain(change=lambda i, k: {"residue": names.get(i, NAMES[i])})))
        assert made.sequence == SEQUENCE


def test_homoserine_of_the_dictionary_stays_homoserine(read):
    named = {"residue": "HSE", "record": "HETATM"}
    made = read(text(*chain(change=lambda i, k: named if i == 6 else {})))
    assert made.sequence == SEQUENCE.replace("H", "S")


def test_d_amino_acids_are_unknown(read):
    named = {"residue": "DAL", "record": "HETATM"}
    made = read(text(*chain(change=lambda i, k: named if i == 3 else {})))
    assert made.sequence == "MKTXYIHQCERG"


@pytest.mark.parametrize("places", [(0,), (0, 1), (4,), (4, 5), (5, 4), (N - 1,)])
def test_modified_residues_after_the_chain_are_put_in_place(read, places):
    named = {"record": "HETATM", "residue": "MSE"}
    lines = chain(change=lambda i, k: named if i in places else {})
    after = [lines[4 * i + k] for i in places for k in range(4)]
    before = [entry for i, entry in enumerate(lines) if i // 4 not in places]
    made = read(text(*before, "TER", *after))
    expected = "".join("M" if i in places else letter for i, letter in enumerate(SEQUENCE))
    assert_is(made, helix(), expected)
    assert (made.breaks.tolist(), made.dropped) == ([], ())


def test_a_modified_residue_bonded_to_nothing_is_listed(read):
    far = [line(4, k, helix(90), record="HETATM", residue="MSE", number="  99") for k in range(4)]
    assert read(text(*chain(), "TER", *far)).dropped == (
        "A/99 MSE is a HETATM residue bonded to no chain",
    )


def test_a_chain_of_hetatm_records_alone_is_read(read):
    assert_is(read(text(*chain(record="HETATM"))), helix())


def test_one_conformer_along_the_chain(read):
    """Neighbours whose highest occupancies cross."""
    high = {(4, "A"): 0.55, (4, "B"): 0.45, (5, "A"): 0.40, (5, "B"): 0.60}
    lines = []
    for i in range(N):
        for letter in "AB" if i in (4, 5) else " ":
            xyz = helix() + (2.5 if letter == "B" else 0)
            tail = f"{high.get((i, letter), 1):6.2f} 20.00"
            lines += [line(i, k, xyz, alt=letter, tail=tail) for k in range(4)]
    made = read(text(*lines))
    both = np.abs(made.coords[4:6] - helix()[4:6]).max(axis=(1, 2))
    assert both.tolist() == pytest.approx([2.5, 2.5], abs=1e-3)


def test_conformers_listed_one_after_the_other(read):
    tails = {"A": "  0.40 20.00", "B": "  0.60 20.00"}
    a, b = (chain(helix(s), alt=c, tail=tails[c]) for c, s in (("A", 0), ("B", 1)))
    assert_is(read(text(*a, *b)), helix(1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda xyz: xyz[3:5].__setitem__(slice(None), 0), "has atoms on one point"),
        (lambda xyz: xyz[3:5].__setitem__(slice(None), xyz[3, 1]), "has atoms on one point"),
        (lambda xyz: xyz[3:5, 3].__setitem__(slice(None), 0), "has an atom at the origin"),
    ],
)
def test_coordinates_that_are_none_are_left_out_and_listed(read, change, reason):
    xyz = helix(30)
    change(xyz)
    made = read(text(*chain(xyz)))
    assert sizes(made) == {"A": N - 2}
    assert [entry.split(reason)[0] for entry in made.dropped] == ["A/4 ALA ", "A/5 TYR "]


def test_nanometres_are_refused(read):
    with pytest.raises(StructureError, match=r"neighbouring CA are 0\.38 apart .* Multiply .* 10"):
        read(text(*chain(helix() / 10)))


# Models.


def models(*frames):
    parts = [[f"MODEL     {k}", *lines, "TER", "ENDMDL"] for k, lines in enumerate(frames, 1)]
    return text(*(entry for part in parts for entry in part))


def turned(xyz):
    return (xyz @ np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]) + [20, 0, 0]).round(3)


def test_an_assembly_written_as_models_is_said_and_counted(read):
    made = read(models(chain(), chain(turned(helix())), chain(helix(60))), name="x.pdb1")
    assert (made.copies, sizes(made)) == (3, {"A": N})
    copies = [f"model {k} holds the same chains moved as a whole: an assembly" for k in (2, 3)]
    assert [entry.rsplit(" as ", 1)[0] for entry in made.dropped] == copies


def test_other_conformations_are_said_and_not_counted(read):
    bent = helix()
    bent[6:] += [1, 0, 0]
    made = read(models(chain(), chain(bent)))
    assert (made.copies, made.dropped) == (1, ("model 2 holds other coordinates",))
    assert read(models(chain(), chain(bent)), model=2).dropped == ()


def test_frames_that_end_with_end(read):
    frames = [*chain(), "END", *chain(helix(40))]
    assert_is(read(text(*frames)), helix())
    assert_is(read(text(*frames), model=2), helix(40))


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".bcif"])
def test_our_trajectories_say_so_and_their_last_model_is_read(tmp_path, suffix):
    names = ["A"] * 3
    frames = [Backbone.from_coords(helix(10.0 * k), name=n) for k, n in enumerate(names)]
    made = read_structure(write_structure(tmp_path / f"t{suffix}", frames))
    assert np.allclose(made.coords, helix(20), atol=1e-3)
    assert made.dropped == ("models 1-2 lead from noise to the last, which was read",)


def test_trajectories_of_others_are_known_by_their_noise(read):
    noise = np.random.default_rng(0).normal(0, 20, (N, 4, 3)).round(3)
    made = read(models(chain(noise), chain(noise / 2), chain()))
    assert_is(made, helix())
    assert made.dropped == ("models 1-2 lead from noise to the last, which was read",)
    assert_is(read(models(chain(), chain(noise))), helix())  # from structure to noise


# Containers.


def test_a_byte_order_mark_costs_no_residue(read):
    for encoding in ("utf-8-sig", "utf-16"):
        assert_is(read(text(*chain()).encode(encoding)), helix())
    assert_is(read(text(*chain()).replace("\n", "\r")), helix())


@pytest.mark.parametrize("name", ["x.PDB.GZ", "x.pdb.gz", "x.ent.GZ", "x.pdb1.gz", "x.pdb"])
def test_gzip_is_told_by_content_whatever_the_name(read, name):
    made = read(gzip.compress(text(*chain()).encode(), mtime=0), name)
    assert_is(made, helix())
    assert made.name == "x"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.pdb", b"\x28\xb5\x2f\xfd 0", "compressed by Zstandard"),
        ("x.cif", b"PK\x03\x04 0", "compressed by zip"),
        ("x.pdb", b"<!DOCTYPE html>\n<html></html>", "it is an HTML page"),
        ("x.cif", b"\n <HTML><body>", "it is an HTML page"),
        ("x.cif", b"<?xml version='1.0'?><a/>", "it is XML"),
        ("x.pdb", b"data_x\nloop_\n_atom_site.id\n1\n", "it is mmCIF, .* to end in .cif"),
        ("x.cif", text(*chain()).encode(), "it is PDB, .* to end in .pdb"),
        (
            "x.cif",
            b"data_r1xsf\nloop_\n_refln.index_h\n_refln.F_meas\n1 2.0\n",
            "it holds reflections",
        ),
        ("x.cif", b"data_x\nloop_\n_atom_site.id\n_atom_site.x\n1 2\n", "no label_atom_id, "),
    ],
)
def test_what_a_file_is_instead(read, name, content, message):
    with pytest.raises(StructureError, match=message):
        read(content, name)


@pytest.mark.parametrize("name", ["x.pdb", "x.pdb.gz", "x.cif", "x.cif.gz"])
def test_reading_is_bounded_and_the_bound_can_be_raised(tmp_path, name):
    path = write_structure(tmp_path / name, Backbone.from_coords(helix()))
    with pytest.raises(StructureError, match=r"more than 1.953 KiB.*max_bytes.*--max-megabytes"):
        read_structure(path, max_bytes=2000)
    assert len(read_structure(path, max_bytes=20_000)) == N


# mmCIF.

COLUMNS = {
    "group_PDB": "ATOM",
    "id": "1",
    "label_atom_id": "",
    "label_alt_id": ".",
    "label_comp_id": "",
    "label_asym_id": "",
    "label_seq_id": "",
    "pdbx_PDB_ins_code": "?",
    "Cartn_x": "",
    "Cartn_y": "",
    "Cartn_z": "",
    "occupancy": "1.0",
    "auth_seq_id": "",
    "auth_asym_id": "",
    "pdbx_PDB_model_num": "1",
}


def cif(*chains, without=(), head="data_made", change=lambda i, k: {}):
    """Text of chains (label, author's name, coordinates)."""
    columns = [name for name in COLUMNS if name not in without]
    rows = []
    for label, author, xyz in chains:
        for i in range(N):
            for k in range(4):
                x, y, z = (f"{value:.3f}" for value in xyz[i, k])
                row = COLUMNS | {"label_atom_id": ATOMS[k], "label_comp_id": NAMES[i]}
                row |= {"label_asym_id": label, "auth_asym_id": author, "Cartn_x": x}
                row |= {"label_seq_id": str(i + 1), "auth_seq_id": str(i + 1), "Cartn_y": y}
                row |= {"Cartn_z": z} | change(i, k)
                rows.append(" ".join(row[name] for name in columns))
    names = [f"_atom_site.{name}" for name in columns]
    return "\n".join([head, "#", "loop_", *names, *rows, "#", ""])


TWO = (("A", "A", helix()), ("B", "B", helix(40)))


@pytest.mark.parametrize(
    "without",
    [
        (),
        ("group_PDB",),
        ("pdbx_PDB_model_num",),
        ("occupancy", "label_alt_id", "pdbx_PDB_ins_code"),
        ("auth_seq_id", "auth_asym_id"),
        ("label_seq_id", "label_asym_id"),
    ],
)
def test_columns_of_mmcif_may_be_absent(read, without):
    made = read(cif(*TWO, without=without), "x.cif")
    assert sizes(made) == {"A": N, "B": N}
    assert_is(made.chains()["B"], helix(40))


def test_copies_with_one_author_name_are_two_chains(read):
    made = read(cif(("A", "A", helix()), ("B", "A", helix(40))), "x.cif")
    assert sizes(made) == {"A": N, "A-2": N}


@pytest.mark.parametrize(
    "head", ["DATA_UPPER", "data_", "# made by hand\ndata_x\n_a.b\n;\nloop_\n;"]
)
def test_heads_of_mmcif(read, head):
    assert sizes(read(cif(*TWO, head=head), "x.cif")) == {"A": N, "B": N}


def test_names_of_mmcif_in_upper_case(read):
    content = cif(*TWO).replace("_atom_site.Cartn", "_ATOM_SITE.CARTN")
    assert sizes(read(content, "x.cif")) == {"A": N, "B": N}


def test_other_blocks_of_mmcif(read):
    restraints = (
        "data_restraints\nloop_\n_chem_comp_atom.comp_id\n_chem_comp_atom.atom_id\nLIG C1\n"
    )
    for content in (cif(*TWO) + restraints, restraints + cif(*TWO)):
        assert read(content, "x.cif").dropped == ()
    another = cif(*TWO) + cif(*TWO, head="data_other")
    assert read(another, "x.cif").dropped == ("block other holds another structure",)


@pytest.mark.parametrize("cell", ["?", ".", "nan"])
def test_a_coordinate_without_a_number_costs_its_residue(read, cell):
    change = lambda i, k: {"Cartn_x": cell} if (i, k) == (3, 1) else {}  # noqa: E731
    if cell == "nan":
        with pytest.raises(StructureError, match=r"line \d+: 'nan' is no number"):
            read(cif(TWO[0], change=change), "x.cif")
        return
    made = read(cif(TWO[0], change=change), "x.cif")
    assert sizes(made) == {"A": N - 1}
    assert made.dropped == ("A/4 ALA has a coordinate that is no number",)


def test_uncertainties_and_quotes(read):
    change = lambda i, k: {"occupancy": "1.00(3)", "label_atom_id": f'"{ATOMS[k]}"'}  # noqa: E731
    assert_is(read(cif(TWO[0], change=change), "x.cif"), helix())


def test_a_table_that_breaks_off(read):
    content = cif(*TWO)
    with pytest.raises(StructureError, match=r"line \d+: a row of _atom_site has \d+ of 15 cells"):
        read(content[: content.rindex("HIS") + 3], "x.cif")


def test_a_column_that_unfolds_to_too_much(tmp_path):
    """A run length says two thousand million values in a few bytes."""
    import biotite.structure.io.pdbx as pdbx

    path = write_structure(tmp_path / "x.bcif", Backbone.from_coords(helix()))
    file = pdbx.BinaryCIFFile.read(path)
    raw = file.serialize()["dataBlocks"][0]["categories"]
    [table] = [entry for entry in raw if entry["name"].lstrip("_") == "atom_site"]
    text_of = path.read_bytes()
    column = next(c for c in table["columns"] if c["name"] == "Cartn_x")
    bomb = {"kind": "RunLength", "srcType": 3, "srcSize": 2**31 - 1}
    column["data"] = {"encoding": [bomb, {"kind": "ByteArray", "type": 3}], "data": b"\0" * 8}
    file = pdbx.BinaryCIFFile.deserialize({"dataBlocks": [{"header": "x", "categories": raw}]})
    file.write(path)
    assert path.read_bytes() != text_of
    with pytest.raises(StructureError, match=r"a column unfolds to 2,147,483,647 values"):
        read_structure(path, max_bytes=10**6)


# The files that were collected.

TWO_OF_24 = [24, 24]
RIGHT = {
    "01_gromacs_blank_chains.pdb": TWO_OF_24,
    "01c_blank_chains_lengths_differ.pdb": [24, 40],
    "02_psfgen_same_chain_two_segments.pdb": TWO_OF_24,
    "03_two_letter_chains.pdb": TWO_OF_24,
    "04c_stars.pdb": r"line 41, columns 23-26: '\*\*\*\*' is no residue number",
    "04e_charmm_five_digits.pdb": [24],
    "05_hdock_no_occupancy.pdb": TWO_OF_24,
    "06_opm_dummies.pdb": [24],
    "08_gemmi_no_group.cif": TWO_OF_24,
    "10_no_model_number.cif": TWO_OF_24,
    "12d_restraints_in_second_block.cif": TWO_OF_24,
    "13d_coordinate_question_mark.cif": [23, 24],
    "13f_assembly_same_auth.cif": TWO_OF_24,
    "13g_loopless_lowercase_data.cif": TWO_OF_24,
    "14b_bom.pdb": [24],
    "15b_upper.PDB.GZ": [24],
    "15d_biounit.pdb1": [24],
    "15f_gz_without_suffix.pdb": [24],
    "15k_html.pdb": "it is an HTML page",
    "15m_structure_factors.cif": "it holds reflections",
    "17_assembly_as_models.pdb": [24],
    "18b_mse_after_ter.pdb": [24],
    "20_charmm_HSE.pdb": [24],
    "20c_amber_HIE_CYX.pdb": [24],
    "20e_amber_GLH.pdb": [24],
    "21_oxt_ot1.pdb": [24],
    "22_d_amino.pdb": [24],
    "24c_altloc_crossed.pdb": [24],
    "26_columns_run_together.pdb": "line 41, columns",
    "30_zero_coordinates.pdb": [21],
    "31_nanometres.pdb": r"neighbouring CA are 0\.38 apart",
    "32_atoms_on_one_point.pdb": [23],
}
SEQUENCES = {"20e_amber_GLH.pdb": {3: "E", 4: "D", 5: "K"}, "22_d_amino.pdb": {6: "X", 7: "X"}}


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
@pytest.mark.parametrize("name", RIGHT)
def test_collected_cases(name):
    right = RIGHT[name]
    if isinstance(right, str):
        with pytest.raises(StructureError, match=right):
            read_structure(CASES / name)
        return
    made = read_structure(CASES / name)
    assert list(sizes(made).values()) == right
    truth = np.load(CASES / "truth.npz")
    for part, (xyz, sequence) in zip(
        made.chains().values(),
        ((truth["XA"], truth["SA"]), (truth["XB"], truth["SB"])),
        strict=False,
    ):
        kept = part.residue_index % 1000 - 1
        if len(part) > 24 or (name.startswith("13f") and part.chain_ids[0] != "A"):
            continue  # another protein, and the same one moved
        letters = SEQUENCES.get(name, {})
        wanted = "".join(letters.get(i, str(sequence)[i]) for i in kept)
        moved = 2.5 if name.startswith("24c") else 0
        assert part.sequence == wanted
        assert np.abs(part.coords - xyz[kept]).max() <= moved + 2e-3
    whole = sum(right) in (24, 48, 64)
    assert bool(made.dropped) == (not whole or name.startswith("17"))
    if whole:
        assert made.breaks.tolist() == []
    assert made.copies == (2 if name.startswith("17") else 1)


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no {CASES}")
def test_every_collected_case_has_its_right_value():
    found = {path.name for path in CASES.iterdir() if path.suffix != ".npz"}
    assert found == set(RIGHT)
