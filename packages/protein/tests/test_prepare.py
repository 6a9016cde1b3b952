"""Preparing folders: complete, resumable, deterministic, and gentle with the input."""

from __future__ import annotations

import csv
import hashlib
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rectiflow.execution import Processes
from rectiflow.storage.shards import ShardError
from rectiflow_protein.data import (
    LengthFilter,
    PreparedBackbones,
    join_clusters,
    kmer_clusters,
    prepare,
    read_archive,
    read_clusters,
)
from rectiflow_protein.io import Backbone, StructureError, write_structure
from rectiflow_protein.residues import ONE_LETTER


def made(seed: int, n: int = 12, chain: str = "A") -> Backbone:
    random = np.random.default_rng(seed)
    coords = random.normal(scale=5, size=(n, 4, 3)).round(3)
    sequence = "".join(random.choice(list(ONE_LETTER[:20]), size=n))
    return Backbone.from_coords(coords, sequence=sequence, chain_id=chain)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seventy small files, three chunks of work, with a few bad ones among them."""
    inputs = tmp_path_factory.mktemp("structures")
    for k in range(64):
        suffix = ("pdb", "cif", "bcif", "pdb.gz")[k % 4]
        write_structure(inputs / f"d{k % 3}" / f"s{k:02d}.{suffix}", made(k, 10 + k % 7))
    (inputs / "empty.pdb").write_bytes(b"")
    (inputs / "noise.cif").write_bytes(bytes(range(256)))
    (inputs / "README.md").write_text("read me")
    (inputs / ".hidden.pdb").write_text("not looked at")
    write_structure(inputs / "short.pdb", made(1, 4))
    write_structure(inputs / "d0" / "twin.pdb", made(100))
    write_structure(inputs / "d1" / "twin.pdb", made(101))
    return inputs


def fingerprint(folder: Path) -> dict[str, str]:
    """Return digests of all that was made; the folder's record may name it twice."""
    files = sorted(path for path in folder.rglob("[!.]*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def refusals(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def test_every_file_is_used_or_refused_with_a_reason(folder, tmp_path):
    before = fingerprint(folder)
    seen: list[tuple[int, int]] = []
    out = tmp_path / "out"
    report = prepare(folder, out, min_length=5, progress=lambda *done: seen.append(done))
    assert fingerprint(folder) == before
    assert (report.inputs, report.accepted, report.rejected) == (70, 66, 4)
    assert seen == [(32, 70), (64, 70), (70, 70)]
    told = refusals(out)
    assert told["short.pdb"] == "4 residues, outside 5 to 512"
    assert told["empty.pdb"].startswith("it is empty")
    assert told["noise.cif"].startswith("it holds no atom")
    assert told["README.md"].startswith("its suffix is '.md'")
    prepared = PreparedBackbones(out, verify=True)
    assert len(prepared) == 66
    assert set(prepared.table["source"]) | set(told) == set(before) - {".hidden.pdb"}
    assert sum(report.splits.values()) == 66
    assert "66 chains" in str(report)
    assert sorted(p.name for p in out.iterdir()) == [
        ".rectiflow",
        "manifest.json",
        "metadata.columns",
        "metadata.csv",
        "rejected.csv",
        "report.json",
        "shard-00000.safetensors",
    ]


def test_records_are_the_files_and_the_table_describes_them(prepared):
    prepared = PreparedBackbones(prepared)
    names = prepared.table["name"].tolist()
    assert names.count("twin_A") == names.count("twin_A-2") == 1
    row = names.index("s07_A")
    record, original = prepared.records[row], made(7, 10)
    assert np.allclose(record["coords"], original.coords, atol=6e-4)
    assert record["aatype"].tolist() == original.aatype.tolist()
    assert record["residue_index"].tolist() == list(range(1, 11))
    assert prepared.table["length"][row] == 10
    assert prepared.table["source"][row] == "d1/s07.pdb.gz"
    fractions = sum(prepared.table[key] for key in ("helix", "strand", "coil"))
    assert np.allclose(fractions, 1)
    spread = record["coords"][:, 1] - record["coords"][:, 1].mean(0)
    radius = spread.square().sum(-1).mean().sqrt().item()
    assert prepared.table["radius_gyration"][row] == pytest.approx(radius, rel=1e-4)


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    """The folder, prepared once; tests only read it or copy it."""
    out = tmp_path_factory.mktemp("prepared")
    prepare(folder, out, min_length=5)
    return out


@pytest.mark.slow
def test_workers_do_not_change_the_result(folder, prepared, tmp_path):
    prepare(folder, tmp_path / "out", min_length=5, executor=Processes(2))
    assert fingerprint(tmp_path / "out") == fingerprint(prepared)


class KilledError(Exception):
    pass


def test_a_killed_preparation_continues(folder, prepared, tmp_path, monkeypatch):
    def kill(done: int, total: int) -> None:
        if done < total:
            raise KilledError

    out = tmp_path / "out"
    with pytest.raises(KilledError):
        prepare(folder, out, min_length=5, progress=kill)
    with pytest.raises(FileNotFoundError, match=r"metadata\.csv; expected a folder that prepare"):
        PreparedBackbones(out)
    (out / ".partial" / "000001").mkdir(exist_ok=True)  # a chunk that was begun
    (out / ".partial" / "000001" / ".shard-00000.safetensors.partial").write_bytes(b"half")

    import sys

    module = sys.modules["rectiflow.storage.preparation"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_rows", lambda *_: (_ for _ in ()).throw(KilledError()))
        with pytest.raises(KilledError):  # killed again, while finishing
            prepare(folder, out, min_length=5)
    seen = []
    prepare(folder, out, min_length=5, progress=lambda *done: seen.append(done))
    assert seen == []  # nothing was read twice
    assert fingerprint(out) == fingerprint(prepared)


def test_a_finished_preparation_is_not_repeated(folder, prepared):
    before = fingerprint(prepared)
    report = prepare(folder, prepared, min_length=5, progress=lambda *_: pytest.fail("read again"))
    assert (report.folder, report.accepted, report.rejected) == (prepared, 66, 4)
    assert fingerprint(prepared) == before


def test_another_preparation_is_not_mixed_in(folder, prepared):
    with pytest.raises(ShardError, match="filters"):
        prepare(folder, prepared, min_length=6)
    with pytest.raises(ShardError, match="inputs"):
        prepare(folder / "d0", prepared, min_length=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": 20, "max_length": 10}, "1 <= min_length <= max_length, got 20 and 10"),
        ({"rg_quantile": 1.5}, r"rg_quantile must lie in \(0, 1\], got 1.5"),
        ({"fractions": {"train": 0.5}}, r"must share 1 among train, valid, test, got"),
        ({"fractions": {"train": 0.5, "val": 0.5}}, r"must share 1 among train, valid, test"),
    ],
)
def test_bad_arguments_are_named(folder, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare(folder, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_input_folder_is_never_written_to(folder, tmp_path):
    with pytest.raises(ValueError, match="out must not lie inside the input folder"):
        prepare(folder, folder / "shards")
    with pytest.raises(FileNotFoundError, match="there is no"):
        prepare(tmp_path / "absent", tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no files"):
        prepare(tmp_path / "bare", tmp_path / "out")


def test_filters_that_judge_one_chain(tmp_path):
    inputs = tmp_path / "in"
    write_structure(inputs / "one.cif", made(1))
    text = (inputs / "one.cif").read_text()
    (inputs / "fine.cif").write_text(text + "\n_refine.ls_d_res_high 1.9\n#\n")
    (inputs / "coarse.cif").write_text(text + "\n_refine.ls_d_res_high 4.0\n#\n")
    options = {"min_length": 5, "max_resolution": 4.0}
    assert prepare(inputs, tmp_path / "a", **options).accepted == 1
    told = refusals(tmp_path / "a")
    assert told["coarse.cif"] == "resolution is 4, not below 4"
    assert told["one.cif"] == "resolution is unknown, and at most 4 is wanted"
    assert PreparedBackbones(tmp_path / "a").table["resolution"].tolist() == [1.9]
    assert prepare(inputs, tmp_path / "b", min_length=5, max_coil=0.5).accepted == 0  # random coil
    assert "coil is 1, above 0.5" in refusals(tmp_path / "b")["one.cif"]


def test_monomers_alone(tmp_path):
    inputs = tmp_path / "in"
    first, second = made(1), made(2, chain="B")
    fields = ("coords", "aatype", "residue_index", "insertion_codes", "chain_ids")
    pair = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in fields}
    write_structure(inputs / "dimer.pdb", Backbone(**pair))
    write_structure(inputs / "monomer.pdb", made(3))
    report = prepare(inputs, tmp_path / "out", min_length=5, max_chains=1)
    assert (report.accepted, report.rejected) == (1, 2)
    assert refusals(tmp_path / "out")["dimer.pdb"] == "num_chains is 2, above 1"


def test_chains_that_are_not_compact_are_refused(tmp_path):
    inputs = tmp_path / "in"
    for k in range(20):
        write_structure(inputs / f"s{k:02d}.pdb", made(k, 20))
    stretched = made(50, 20).coords * 3
    write_structure(inputs / "long.pdb", Backbone.from_coords(stretched))
    report = prepare(inputs, tmp_path / "out", min_length=5, rg_quantile=0.9)
    assert (report.accepted, report.rejected) == (20, 1)
    assert "for its length" in refusals(tmp_path / "out")["long.pdb"]


def test_relatives_share_a_split(tmp_path):
    inputs = tmp_path / "in"
    for k in range(30):
        for copy in range(2):
            write_structure(inputs / f"s{k:02d}_{copy}.pdb", made(k, 30))
    halves = {"train": 0.5, "valid": 0.25, "test": 0.25}
    prepare(inputs, tmp_path / "out", min_length=5, fractions=halves)
    table = PreparedBackbones(tmp_path / "out").table
    family = [name[:3] for name in table["name"]]
    assert len(set(zip(family, table["cluster"], table["split"], strict=True))) == 30
    counts = Counter(table["split"])
    assert set(counts) == {"train", "valid", "test"}
    assert 18 <= counts["train"] <= 42


def test_a_cluster_file_decides(tmp_path):
    inputs = tmp_path / "in"
    for k, name in enumerate(("1abc", "2def", "3ghi")):
        write_structure(inputs / f"{name}.pdb", made(k))
    (tmp_path / "clusters.txt").write_text("1ABC_1 2DEF_1\n9XYZ_1 1ABC_2\n")
    prepare(inputs, tmp_path / "out", min_length=5, clusters=tmp_path / "clusters.txt")
    clusters = PreparedBackbones(tmp_path / "out").table["cluster"].tolist()
    assert clusters[0] == clusters[1] == "1abc_1"
    assert clusters[2] == "3ghi_A"


def test_cluster_files_are_read_by_entry(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("101M_1 102L_1\n103L_2\n")
    assert read_clusters(path)["102l"] == "101m_1"
    assert read_clusters(path)["103l_2"] == "103l_2"
    path.write_text("")
    with pytest.raises(ValueError, match="names no cluster"):
        read_clusters(path)


def test_kmer_clusters_link_by_shared_words():
    random = np.random.default_rng(0)
    letters = list(ONE_LETTER[:20])
    base = "".join(random.choice(letters, size=100))
    other = "".join(random.choice(letters, size=100))
    half = base[:50] + other[50:]  # shares about half with each: single linkage joins all
    assert kmer_clusters([base, other]).tolist() == [0, 1]
    assert kmer_clusters([base, other, half]).tolist() == [0, 0, 0]
    assert kmer_clusters([base, other, half], shared=0.6).tolist() == [0, 1, 2]
    assert kmer_clusters(["ARN", "XXXXXXX", "ARN"]).tolist() == [0, 1, 2]  # no words
    assert kmer_clusters([]).tolist() == []
    with pytest.raises(ValueError, match="got k=0"):
        kmer_clusters([base], k=0)


def test_joined_clusters_are_the_coarsest():
    assert join_clusters([0, 1, 2, 3], ["a", "a", "b", "c"]) == [0, 0, 1, 2]
    assert join_clusters([0, 1, 1, 2], [5, 5, 6, 7]) == [0, 0, 0, 1]


def _archive(path: Path, **changes) -> Path:
    arrays = {
        "coords": np.random.default_rng(0).normal(size=(20, 4, 3)).astype("f4"),
        "offsets": np.array([0, 8, 20]),
        "sequence": np.array(["A" * 8, "G" * 12]),
        "first_residue": np.array(["-3", "52A"]),
        "chain_id": np.array(["B", ""]),
        "cluster": np.array([4, 4], dtype=np.int32),
    }
    arrays |= changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_archives_are_read_like_folders(tmp_path):
    path = _archive(tmp_path / "chains.npz")
    archive = read_archive(path)
    assert [b.residue_index[0] for b in archive.backbones] == [-3, 52]
    assert [b.sequence for b in archive.backbones] == ["A" * 8, "G" * 12]
    report = prepare(path, tmp_path / "out", min_length=5)
    assert (report.accepted, report.counts) == (2, {"residues": 20, "clusters": 1})
    prepared = PreparedBackbones(tmp_path / "out")
    with np.load(path) as file:
        assert np.array_equal(prepared.records[1]["coords"].numpy(), file["coords"][8:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offsets": None}, "it has no offsets among"),
        ({"offsets": np.array([0, 9, 20])}, "disagree"),
        ({"coords": np.zeros((20, 3, 3))}, "disagree"),
        ({"sequence": np.array([{}, {}], dtype=object)}, "cannot be read .*pickle"),
    ],
)
def test_archives_that_disagree_are_refused(tmp_path, changes, message):
    path = _archive(tmp_path / "chains.npz", **changes)
    with pytest.raises(StructureError, match=message):
        read_archive(path)
    report = prepare(path, tmp_path / "out")
    assert (report.accepted, report.rejected) == (0, 1)


def test_a_truncated_archive_is_refused(tmp_path):
    path = _archive(tmp_path / "chains.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StructureError, match="cannot be read"):
        read_archive(path)


def test_rows_of_a_split_pass_the_filters(prepared):
    prepared = PreparedBackbones(prepared)
    rows = prepared.rows("train", [LengthFilter(12, 13)])
    assert set(prepared.table["length"][rows]) == {12, 13}
    assert len(prepared.dataset("train", [LengthFilter(12, 13)])) == len(rows)
    with pytest.raises(ValueError, match="unknown split 'val'; known: train, valid, test"):
        prepared.rows("val")


def test_a_table_of_another_folder_is_noticed(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "out")
    path = tmp_path / "out" / "metadata.csv"
    text = path.read_text()
    path.write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(ValueError, match="has 65 rows for 66 records"):
        PreparedBackbones(tmp_path / "out")
    path.write_text(text.replace("length", "size", 1))
    with pytest.raises(ValueError, match="lacks the columns length"):
        PreparedBackbones(tmp_path / "out")
    path.write_text(text.replace(",12,", ",twelve,", 1))
    with pytest.raises(ValueError, match=r"line \d+ is damaged"):
        PreparedBackbones(tmp_path / "out")


def test_the_raw_files(shared_data, tmp_path):
    report = prepare(shared_data / "protein" / "raw", tmp_path / "out", min_length=40)
    assert (report.inputs, report.accepted, report.counts["residues"]) == (13, 7, 786)
    assert set(PreparedBackbones(tmp_path / "out").table["name"]) == {
        "101m_heme_A",
        "1a8o_mse_A",
        "1bhl_modified_residue_gaps_A",
        "1lcd_nmr_dna_complex_A",
        "1o1z_negative_numbers_A",
        "1orc_insertions_altloc_A",
        "a_structure_disordered_A",
    }


def test_the_shared_archive_has_its_clusters(archive):
    known = read_archive(archive)
    found = kmer_clusters([backbone.sequence for backbone in known.backbones])
    assert join_clusters(found.tolist(), known.clusters) == found.tolist()
    assert len(set(known.clusters)) == found.max() + 1
