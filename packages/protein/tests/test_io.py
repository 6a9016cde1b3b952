"""Reading awkward files of every kind, and writing what can be read again."""

from __future__ import annotations

import gzip
import pickle

import numpy as np
import pytest
import torch
from rectiflow_protein.io import (
    Backbone,
    StructureError,
    decode_sequence,
    encode_sequence,
    format_of,
    read_fasta,
    read_structure,
    write_structure,
)

ALANINE = {"N": (-0.525, 1.363, 0.0), "CA": (0.0, 0.0, 0.0), "C": (1.526, 0.0, 0.0)}


def atom(name, residue, chain, number, xyz, *, record="ATOM", alt=" ", occupancy=1.0, code=" "):
    x, y, z = xyz
    return (
        f"{record:<6s}    1  {name:<3s}{alt}{residue:>3s} {chain:1s}{number:4d}{code}   "
        f"{x:8.3f}{y:8.3f}{z:8.3f}{occupancy:6.2f}{20.0:6.2f}          {name[0]:>2s}"
    )


def residue(name, chain, number, start, *, atoms=("N", "CA", "C", "O"), **options):
    """Backbone atoms on a line; a residue that starts 3.8 Å on is bonded to this one."""
    places = {"N": (start, 0, 0), "CA": (start + 1.2, 0, 0)}
    places |= {"C": (start + 2.5, 0, 0), "O": (start + 2.5, 1, 0)}
    return [atom(a, name, chain, number, places[a], **options) for a in atoms]


def chain_of(*residues):
    return "\n".join(line for lines in residues for line in lines) + "\nEND\n"


@pytest.fixture
def read(tmp_path):
    def _read(text: str, name: str = "x.pdb", **options) -> Backbone:
        path = tmp_path / name
        path.write_text(text)
        return read_structure(path, **options)

    return _read


@pytest.fixture
def backbone():
    generator = np.random.default_rng(0)
    coords = generator.normal(scale=20, size=(9, 4, 3)).round(3).astype(np.float32)
    return Backbone(
        coords=coords,
        aatype=encode_sequence("ARGWXGMKV"),
        residue_index=np.array([-2, -1, 5, 5, 5, 6, 1, 2, 9], dtype=np.int32),
        insertion_codes=np.array(["", "", "", "A", "B", "", "", "", ""]),
        chain_ids=np.array(list("AAAAAABBB")),
        name="made",
    )


def test_plain_chain(read):
    made = read(
        chain_of(residue("GLY", "A", 1, 0), residue("TRP", "A", 2, 3.8)), name="two.residues.pdb"
    )
    assert (made.sequence, made.name, made.resolution) == ("GW", "two.residues", None)
    assert made.coords.shape == (2, 4, 3)
    assert made.coords[:, :, 0].tolist() == pytest.approx(
        np.array([[0, 1.2, 2.5, 2.5], [3.8, 5.0, 6.3, 6.3]])
    )
    assert made.breaks.tolist() == []


def test_resolution_is_read_from_the_remark(read):
    remark = "REMARK   2 RESOLUTION.    1.85 ANGSTROMS.\n"
    assert read(remark + chain_of(residue("GLY", "A", 1, 0))).resolution == 1.85
    remark = "REMARK   2 RESOLUTION. NOT APPLICABLE.\n"
    assert read(remark + chain_of(residue("GLY", "A", 1, 0))).resolution is None


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_remarks_in_other_alphabets_do_not_matter(tmp_path, encoding):
    path = tmp_path / "x.pdb"
    text = "REMARK   1 AUTH   Ångström\n" + chain_of(residue("GLY", "A", 1, 0))
    path.write_bytes(text.encode(encoding))
    assert read_structure(path).sequence == "G"


def test_insertion_codes_and_negative_numbers_are_kept(read):
    made = read(
        chain_of(
            residue("ALA", "A", -1, 0),
            residue("GLY", "A", 0, 3.8),
            residue("SER", "A", 0, 7.6, code="A"),
            residue("VAL", "A", 1, 11.4),
        )
    )
    assert [made.label(i) for i in range(4)] == ["A/-1", "A/0", "A/0A", "A/1"]
    assert made.sequence == "AGSV"


def test_highest_occupancy_conformer_is_read_whole(read):
    low = residue("SER", "A", 1, 0, alt="A", occupancy=0.4)
    high = residue("SER", "A", 1, 100, alt="B", occupancy=0.6)
    assert read(chain_of(low, high)).coords[0, 1, 0] == pytest.approx(101.2)
    equal = residue("SER", "A", 1, 100, alt="B", occupancy=0.4)
    assert read(chain_of(low, equal)).coords[0, 1, 0] == pytest.approx(1.2)


def test_conformers_fill_each_other_in(read):
    """Only CA is disordered; the rest of the residue has no alternate location."""
    shared = residue("SER", "A", 1, 5, atoms=("N", "C", "O"))
    low = residue("SER", "A", 1, 5.2, atoms=("CA",), alt="A", occupancy=0.3)
    high = residue("SER", "A", 1, 5.4, atoms=("CA",), alt="B", occupancy=0.7)
    made = read(chain_of(shared, low, high))
    assert made.coords[0, :, 0].tolist() == pytest.approx([5, 6.6, 7.5, 7.5])


def test_point_mutation_reads_the_residue_of_highest_occupancy(read):
    serine = residue("SER", "A", 1, 0, alt="A", occupancy=0.4)
    proline = residue("PRO", "A", 1, 9, alt="B", occupancy=0.6)
    assert read(chain_of(serine, proline)).sequence == "P"
    interleaved = [line for pair in zip(serine, proline, strict=True) for line in pair]
    assert read(chain_of(interleaved)).sequence == "P"


def test_modified_residues_read_as_their_parent(read):
    made = read(
        chain_of(
            residue("ALA", "A", 1, 0),
            residue("MSE", "A", 2, 3.8, record="HETATM"),
            residue("SEP", "A", 3, 7.6, record="HETATM"),
            residue("Q#Z", "A", 4, 11.4, record="HETATM"),  # nobody knows it
            residue("GLY", "A", 5, 13.8),
        )
    )
    assert made.sequence == "AMSXG"
    assert made.aatype[3] == 20


def test_ligands_waters_and_free_amino_acids_are_left_out(read):
    made = read(
        chain_of(
            residue("ALA", "A", 1, 0),
            residue("GLY", "A", 2, 3.8),
            residue("GLY", "A", 301, 80, record="HETATM"),  # a glycine molecule
            residue("LIG", "A", 302, 90, record="HETATM", atoms=("CA", "C", "O")),
            [atom("CA", "CA", "A", 303, (9, 9, 9), record="HETATM")],  # a calcium ion
            [atom("O", "HOH", "A", 401, (7, 7, 7), record="HETATM")],
        )
    )
    assert made.sequence == "AG"
    assert made.dropped == ("A/301 GLY is a HETATM residue bonded to no chain",)


def test_incomplete_residues_are_dropped_and_named(read):
    made = read(
        chain_of(
            residue("ALA", "A", 1, 0),
            residue("GLY", "A", 2, 3.8, atoms=("N", "CA")),
            residue("SER", "A", 3, 7.6, code="B", atoms=("CA",)),
            residue("VAL", "A", 4, 11.4),
        )
    )
    assert made.sequence == "AV"
    assert made.dropped == ("A/2 GLY lacks C, O", "A/3B SER lacks N, C, O")
    assert [made.label(i) for i in made.breaks] == ["A/1"]


def test_chains_may_interleave_and_case_matters(read):
    made = read(
        chain_of(
            residue("ALA", "a", 1, 0),
            residue("GLY", "A", 1, 50),
            residue("SER", "a", 2, 3.8),
            residue("VAL", " ", 1, 90),
        )
    )
    chains = made.chains()
    sequences = [(chain, part.sequence) for chain, part in chains.items()]
    assert sequences == [("a", "AS"), ("A", "G"), ("", "V")]
    assert made.chain_index.tolist() == [0, 0, 1, 2]
    assert chains["a"].breaks.tolist() == []


def test_one_chain_can_be_chosen(read):
    text = chain_of(residue("ALA", "A", 1, 0), residue("GLY", "b", 1, 50))
    assert read(text, chain="b").sequence == "G"
    with pytest.raises(StructureError, match=r"it has no chain 'B'; expected one of 'A', 'b'"):
        read(text, chain="B")


def test_models_count_from_one(read):
    model = "MODEL     {:4d}\n{}ENDMDL\n"
    parts = [chain_of(residue("ALA", "A", 1, 10 * k)).replace("END\n", "") for k in range(3)]
    text = "".join(model.format(k + 1, part) for k, part in enumerate(parts)) + "END\n"
    assert read(text).coords[0, 0, 0] == 0
    assert read(text, model=3).coords[0, 0, 0] == pytest.approx(20)
    for wrong in (0, 4):
        with pytest.raises(StructureError, match=rf"no model {wrong}; expected 1 <= model <= 3"):
            read(text, model=wrong)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.pdb", b"", "it is empty"),
        ("blank.cif", b"\n \n", "it is empty"),
        ("noise.pdb", bytes(range(256)) * 40, "it holds no atom"),
        ("noise.cif", bytes(range(255, -1, -1)) * 40, "it holds no atom"),
        ("noise.bcif", bytes(range(256)) * 40, "cannot be read as bcif"),
        ("notes.pdb", b"I will deposit this structure soon.\n", "it holds no atom"),
        ("page.cif", b"<html><body>404</body></html>\n", "it is an HTML page"),
        ("no_atoms.cif", b"data_x\n_cell.length_a 10\n", "it holds no atom"),
        ("noise.pdb.gz", b"no gzip at all", "it holds no atom"),
        ("cut.pdb.gz", gzip.compress(b"ATOM" * 10_000, mtime=0)[:40], "its compression is damaged"),
        ("table.csv", b"a,b\n", "its suffix is '.csv'"),
    ],
)
def test_what_is_no_structure_gets_one_clear_error(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StructureError, match=message) as caught:
        read_structure(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_file_cut_inside_a_line_is_refused(tmp_path):
    text = chain_of(residue("ALA", "A", 1, 0), residue("GLY", "A", 2, 3.8))
    path = tmp_path / "cut.pdb"
    path.write_text(text[: text.rindex("ATOM") + 36])
    with pytest.raises(StructureError, match=r"line 8, columns 31-38: .* cut short"):
        read_structure(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(StructureError, match="there is no such file"):
        read_structure(tmp_path / "x.pdb")


def test_nucleic_acids_alone_are_named(read):
    text = chain_of([atom(a, "DA", "A", 1, (i, 0, 0)) for i, a in enumerate(("P", "C1'", "N9"))])
    with pytest.raises(StructureError, match=r"it holds no amino acid, only DA; expected"):
        read(text)


def test_ca_traces_are_named(read):
    text = chain_of(*(residue("ALA", "A", i, 3.8 * i, atoms=("CA",)) for i in range(1, 5)))
    expected = r"no amino acid has a whole backbone \(the first: A/1 ALA lacks N, C, O\)"
    with pytest.raises(StructureError, match=expected):
        read(text)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(StructureError("a.pdb", "it is empty", "atoms", "Fetch it.")))
    assert str(error) == "a.pdb: it is empty; expected atoms. Fetch it."
    assert error.found == "it is empty"


@pytest.mark.parametrize("suffix", [".pdb", ".ent", ".cif", ".mmcif", ".bcif"])
@pytest.mark.parametrize("zipped", ["", ".gz"])
def test_round_trip(tmp_path, backbone, suffix, zipped):
    path = write_structure(tmp_path / f"made{suffix}{zipped}", backbone)
    again = read_structure(path)
    assert np.allclose(again.coords, backbone.coords, atol=6e-4)
    assert again.sequence == backbone.sequence
    assert [again.label(i) for i in range(9)] == [backbone.label(i) for i in range(9)]
    assert again.name == "made"
    assert again.dropped == ()
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left


@pytest.mark.parametrize("suffix", [".pdb", ".cif", ".bcif"])
def test_trajectory_is_written_as_models(tmp_path, backbone, suffix):
    from dataclasses import replace

    frames = [replace(backbone, coords=backbone.coords + k) for k in range(3)]
    path = write_structure(tmp_path / f"t{suffix}", frames)
    for k in range(3):
        again = read_structure(path, model=k + 1)
        assert np.allclose(again.coords, frames[k].coords, atol=6e-4)


def test_generated_backbone_is_alanine_with_cb(tmp_path):
    coords = torch.tensor([[*ALANINE.values(), (2.153, 0.0, 0.0)]] * 2)
    made = Backbone.from_coords(coords, name="sample")
    path = write_structure(tmp_path / "s.pdb", made, b_factor=np.array([100.0, 0.0]))
    lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
    assert [line[12:16].strip() for line in lines] == ["N", "CA", "C", "O", "CB"] * 2
    assert {line[17:20] for line in lines} == {"ALA"}
    assert [int(line[22:26]) for line in lines] == [1] * 5 + [2] * 5
    assert [float(line[60:66]) for line in lines] == [100.0] * 5 + [0.0] * 5
    beta = [float(lines[4][i : i + 8]) for i in (30, 38, 46)]
    assert beta == pytest.approx([-0.529, -0.774, -1.205], abs=2e-3)
    assert path.read_text().splitlines()[-2:][0].startswith("TER")
    assert path.read_text().endswith("END\n")


def test_glycine_has_no_cb_and_chains_end(tmp_path, backbone):
    lines = write_structure(tmp_path / "x.pdb", backbone).read_text().splitlines()
    glycine = [line for line in lines if line[17:20] == "GLY" and line.startswith("ATOM")]
    assert len(glycine) == 2 * 4
    assert sum(line.startswith("TER") for line in lines) == 2
    assert all(len(line) <= 80 for line in lines)


def test_pdb_columns_are_where_others_look(tmp_path, backbone):
    """Biotite reads back the same atoms from the PDB and from the mmCIF file."""
    import biotite.structure.io as strucio

    pdb = strucio.load_structure(write_structure(tmp_path / "x.pdb", backbone))
    cif = strucio.load_structure(write_structure(tmp_path / "x.cif", backbone))
    for field in ("atom_name", "res_name", "chain_id", "res_id", "ins_code", "element"):
        assert (getattr(pdb, field) == getattr(cif, field)).all(), field
    assert np.allclose(pdb.coord, cif.coord, atol=6e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chain_ids": np.full(9, "AB")}, "chain 'AB' has more than one letter"),
        ({"residue_index": np.arange(9995, 10004)}, "residue numbers reach 10003"),
        ({"residue_index": np.arange(-1005, -996)}, "residue numbers reach -1005"),
        ({"coords": np.full((9, 4, 3), 12_000.0)}, "coordinates reach 12000 Å"),
        ({"coords": np.full((9, 4, 3), np.nan)}, "a coordinate is no number"),
    ],
)
def test_what_pdb_cannot_hold_is_said(tmp_path, backbone, change, message):
    from dataclasses import replace

    wide = replace(backbone, **change)
    with pytest.raises(ValueError, match=f"{message}. Write mmCIF"):
        write_structure(tmp_path / "x.pdb", wide)
    assert list(tmp_path.iterdir()) == []


def test_long_chain_names_survive_mmcif(tmp_path, backbone):
    from dataclasses import replace

    wide = replace(
        backbone,
        chain_ids=np.array(["AAB"] * 5 + ["aab"] * 4),
        residue_index=np.arange(20_000, 20_009, dtype=np.int32),
    )
    again = read_structure(write_structure(tmp_path / "x.cif", wide))
    assert list(again.chains()) == ["AAB", "aab"]
    assert again.residue_index.tolist() == wide.residue_index.tolist()


def test_models_must_agree(tmp_path, backbone):
    with pytest.raises(ValueError, match="model 2 has other residues than model 1, got 4 and 9"):
        write_structure(tmp_path / "x.pdb", [backbone, backbone[:4]])
    with pytest.raises(ValueError, match="nothing to write"):
        write_structure(tmp_path / "x.pdb", [])
    with pytest.raises(ValueError, match=r"x\.xyz has no known suffix"):
        write_structure(tmp_path / "x.xyz", backbone)


def test_backbone_checks_its_arrays(backbone):
    with pytest.raises(ValueError, match=r"coords must have shape \(n, 4, 3\), got \(3, 3, 3\)"):
        Backbone.from_coords(np.zeros((3, 3, 3)))
    with pytest.raises(ValueError, match=r"aatype must have shape \(3,\), got \(2,\)"):
        Backbone.from_coords(np.zeros((3, 4, 3)), sequence="AR")


def test_breaks_do_not_lie_between_chains(backbone):
    last_of_a = 5
    assert last_of_a not in backbone.breaks
    assert len(backbone.breaks) == 7  # everything else in random coordinates is torn


def test_prepared_record_has_the_contracted_types(backbone):
    record = backbone.tensors()
    told = {name: (tuple(value.shape), value.dtype) for name, value in record.items()}
    assert told == {
        "coords": ((9, 4, 3), torch.float32),
        "aatype": ((9,), torch.int8),
        "residue_index": ((9,), torch.int32),
        "chain_index": ((9,), torch.int16),
    }


def test_sequences_round_trip():
    text = "ARNDCQEGHILKMFPSTWYVX"
    assert decode_sequence(encode_sequence(text)) == text
    assert encode_sequence("a-J").tolist() == [0, 20, 20]


def test_formats_go_by_suffix():
    assert [format_of(n) for n in ("A.PDB", "b.cif.gz", "c.bcif", "pdb", "d.gz")] == [
        "pdb",
        "cif",
        "bcif",
        None,
        None,
    ]


def test_fasta_entries_keep_their_order(tmp_path):
    path = tmp_path / "x.fa"
    path.write_text(">a, score=1\nARN\nDC\n\n>b\nGG\n")
    assert read_fasta(path) == [("a, score=1", "ARNDC"), ("b", "GG")]
    path.write_text("ARN\n>b\nGG\n")
    with pytest.raises(ValueError, match="is no FASTA file"):
        read_fasta(path)
