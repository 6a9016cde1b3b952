"""Metrics against closed forms, invariances and natural chains."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.spaces import quat_to_rotmat
from rectiflow_protein.data import read_archive
from rectiflow_protein.data.synthetic import backbone_from_torsions
from rectiflow_protein.metrics import (
    backbone_metrics,
    ca_ca_bonded_fraction,
    ca_ca_deviation,
    ca_ca_distances,
    ca_ca_strict_fraction,
    ca_ca_valid_fraction,
    ca_clashes,
    close_contacts_per_100,
    cluster_count,
    contacts_per_100,
    dihedral,
    diversity,
    foldseek_command,
    kabsch,
    nearest_tm,
    pairwise_tm,
    peptide_geometry,
    radius_of_gyration,
    ramachandran_fraction,
    read_foldseek,
    sc_mean_displacement,
    sc_rmsd,
    superpose,
    tm_score,
    torsions,
)
from rectiflow_protein.metrics.ramachandran import favoured
from rectiflow_protein.residues import CA_CA_DISTANCE, THREE_LETTER


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


@pytest.fixture(scope="module")
def natural(archive):
    return [torch.from_numpy(b.coords) for b in read_archive(archive).backbones[::40]]


def _line(*steps: float) -> torch.Tensor:
    """CA on a line with the given distances."""
    x = torch.tensor([0.0, *steps], dtype=torch.float64).cumsum(0)
    return torch.stack([x, 0 * x, 0 * x], dim=-1)


def _rotation(generator) -> torch.Tensor:
    q = torch.randn(4, generator=generator, dtype=torch.float64)
    return quat_to_rotmat(q / q.norm())


def test_published_ca_ca_fraction_has_no_lower_bound():
    ca = _line(3.9, 3.91, 1.5, 3.8)
    assert ca_ca_valid_fraction(ca).item() == pytest.approx(3 / 4)
    assert ca_ca_strict_fraction(ca).item() == pytest.approx(2 / 4)
    assert ca_ca_valid_fraction(torch.zeros(5, 3)).item() == 1  # collapsed, and still "valid"
    assert ca_ca_strict_fraction(torch.zeros(5, 3)).item() == 0


def test_ca_ca_deviation_is_the_mean_absolute_one():
    ca = _line(CA_CA_DISTANCE + 0.1, CA_CA_DISTANCE - 0.3)
    assert ca_ca_deviation(ca).item() == pytest.approx(0.2)


def test_masked_residues_take_their_pairs_with_them():
    ca = _line(3.8, 9.0, 3.8)
    mask = torch.tensor([True, True, False, True])
    assert ca_ca_distances(ca, mask).isfinite().tolist() == [True, False, False]
    assert ca_ca_valid_fraction(ca, mask).item() == 1
    assert ca_clashes(_line(0.5, 0.1, 5.0), mask).item() == 1


def test_clashes_count_pairs():
    ca = _line(0.6, 0.6, 4.0)  # distances 0.6, 0.6, 1.2, 4, ...
    assert ca_clashes(ca).item() == 2
    assert ca_clashes(ca, cutoff=1.5).item() == 3
    assert ca_clashes(ca, cutoff=1.5, separation=2).item() == 1
    assert close_contacts_per_100(ca).item() == pytest.approx(100 / 4)


def test_metrics_of_a_batch_are_those_of_its_members(generator):
    coords = 3 * torch.randn(3, 12, 4, 3, generator=generator)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 7:] = False
    batch = backbone_metrics(coords, mask)
    for i, n in enumerate((12, 7, 12)):
        alone = backbone_metrics(coords[i, :n])
        for name, value in alone.items():
            assert torch.allclose(batch[name][i], value, equal_nan=True, atol=1e-5), name


def test_metrics_do_not_depend_on_place_or_orientation(generator):
    coords = 3 * torch.randn(20, 4, 3, generator=generator, dtype=torch.float64)
    moved = coords @ _rotation(generator).T + 5
    for name, value in backbone_metrics(coords).items():
        assert torch.allclose(backbone_metrics(moved)[name], value), name


def test_radius_of_gyration_of_a_ring():
    angle = torch.arange(12) * 2 * math.pi / 12
    ring = 7 * torch.stack([angle.cos(), angle.sin(), 0 * angle], -1) + 3
    assert radius_of_gyration(ring).item() == pytest.approx(7, rel=1e-6)


@pytest.mark.parametrize("degrees", [-179.0, -60.0, 0.0, 45.0, 120.0])
def test_dihedral_of_a_turned_point(degrees):
    angle = math.radians(degrees)
    points = [[1.0, 0, 0], [0, 0, 0], [0, 0, 1.5], [math.cos(angle), math.sin(angle), 1.5]]
    assert dihedral(*torch.tensor(points)).item() == pytest.approx(angle, abs=1e-6)


def test_torsions_agree_with_biotite(generator):
    struc = pytest.importorskip("biotite.structure")
    coords = 2 * torch.randn(9, 4, 3, generator=generator)
    atoms = struc.AtomArray(36)
    atoms.coord = coords.reshape(-1, 3).numpy()
    atoms.atom_name = np.tile(["N", "CA", "C", "O"], 9)
    atoms.res_name[:], atoms.chain_id[:] = "ALA", "A"
    atoms.res_id = np.repeat(np.arange(9), 4)
    for ours, theirs in zip(torsions(coords), struc.dihedral_backbone(atoms), strict=True):
        assert np.allclose(ours.numpy(), theirs, atol=1e-4, equal_nan=True)
        assert ours.isnan().sum() == 1


def _peptide(length: float = 1.329) -> torch.Tensor:
    """Two residues with the ideal bond between them, (2, 3, 3)."""
    at_c, at_n = math.acos(-0.4473), math.acos(-0.5203)
    c = torch.zeros(3, dtype=torch.float64)
    ca = 1.525 * torch.tensor([math.cos(at_c), math.sin(at_c), 0])
    n_next = length * torch.tensor([1.0, 0, 0])
    ca_next = n_next + 1.458 * torch.tensor([-math.cos(at_n), -math.sin(at_n), 0])
    far = torch.full((3,), 5.0)
    return torch.stack([torch.stack([far, ca, c]), torch.stack([n_next, ca_next, far])])


def test_ideal_peptide_bond_is_valid_and_a_stretched_one_is_not():
    geometry = peptide_geometry(_peptide())
    assert geometry.length.item() == pytest.approx(1.329)
    assert geometry.cos_ca_c_n.item() == pytest.approx(-0.4473)
    assert geometry.cos_c_n_ca.item() == pytest.approx(-0.5203)
    assert geometry.valid.all()
    assert not peptide_geometry(_peptide(1.329 + 12.5 * 0.014)).valid.any()
    before_proline = torch.tensor([0, THREE_LETTER.index("PRO")])
    assert peptide_geometry(_peptide(1.341 + 11.5 * 0.016), aatype=before_proline).valid.all()
    masked = peptide_geometry(_peptide(), torch.tensor([True, False]))
    assert masked.length.isnan().all()
    assert not masked.valid.any()


def test_natural_chains_score_as_natural(natural):
    each = [backbone_metrics(coords) for coords in natural]
    found = {name: np.mean([float(metrics[name]) for metrics in each]) for name in each[0]}
    assert found["ca_ca_valid"] > 0.99
    assert found["ca_ca_strict"] > 0.97
    assert found["clashes"] == found["close_contacts"] == 0
    assert found["peptide_valid"] > 0.995
    assert 0.94 < found["ramachandran"] < 0.99
    assert found["helix"] + found["strand"] + found["coil"] == pytest.approx(1)


def test_mirrored_chains_leave_the_usual_regions(natural):
    mirror = torch.tensor([1.0, 1, -1])
    fractions = [ramachandran_fraction(coords * mirror).item() for coords in natural]
    assert np.mean(fractions) < 0.6  # mirrored helices lie in the left-handed region


def test_a_cis_bond_is_valid_before_proline_alone():
    ca = torch.tensor([[0.0, 0, 0], [3.8, 0, 0], [3.8, 2.95, 0], [7.6, 2.95, 0]])
    proline, alanine = THREE_LETTER.index("PRO"), THREE_LETTER.index("ALA")
    before = torch.tensor([alanine, alanine, proline, alanine])
    after = torch.tensor([alanine, proline, alanine, alanine])
    assert ca_ca_strict_fraction(ca, aatype=before) == 1
    assert ca_ca_strict_fraction(ca, aatype=after) == pytest.approx(2 / 3)
    assert ca_ca_strict_fraction(ca) == pytest.approx(2 / 3)


def test_favoured_torsions_are_those_of_nature():
    table = favoured()
    assert table.shape == (72, 72)
    cells = {
        (-63, -42): True,  # alpha helix
        (-120, 130): True,  # strand
        (-65, 145): True,  # polyproline
        (57, 45): True,  # left-handed helix
        (60, -130): False,
        (0, 0): False,
        (-140, -100): False,
        (120, 60): False,
    }
    found = {(a, b): bool(table[(b + 180) // 5, (a + 180) // 5]) for a, b in cells}
    assert found == cells
    assert 0.2 < table.float().mean() < 0.3


@pytest.mark.parametrize(("phi", "psi", "inside"), [(-63, -42, 1), (60, -130, 0)])
def test_ramachandran_leaves_glycine_out_where_it_is_known(phi, psi, inside):
    angles = (torch.full((8,), math.radians(x), dtype=torch.float64) for x in (phi, psi))
    coords = backbone_from_torsions(*angles)
    assert ramachandran_fraction(coords) == inside
    glycine = torch.full((8,), THREE_LETTER.index("GLY"))
    assert ramachandran_fraction(coords, aatype=glycine).isnan()


def test_ramachandran_without_a_torsion_is_nan(generator):
    assert ramachandran_fraction(torch.randn(2, 3, 3, generator=generator)).isnan()


def test_kabsch_recovers_a_motion(generator):
    x = torch.randn(4, 15, 3, generator=generator, dtype=torch.float64)
    rotation = torch.stack([_rotation(generator) for _ in range(4)])
    shift = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    y = x @ rotation.mT + shift[:, None]
    found, moved_by = kabsch(x, y)
    assert torch.allclose(found, rotation, atol=1e-12)
    assert torch.allclose(moved_by, shift, atol=1e-12)
    assert torch.allclose(superpose(x, y), y, atol=1e-12)


def test_kabsch_never_mirrors(generator):
    x = torch.randn(15, 3, generator=generator, dtype=torch.float64)
    mirror = x * torch.tensor([1.0, 1, -1])
    rotation, _ = kabsch(x, mirror)
    assert torch.linalg.det(rotation).item() == pytest.approx(1)
    assert sc_rmsd(x, mirror) > 0.1


def test_kabsch_is_the_best_of_many_rotations(generator):
    x, y = (torch.randn(10, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    best = sc_rmsd(x, y)
    x, y = x - x.mean(0), y - y.mean(0)
    for _ in range(200):
        other = (((x @ _rotation(generator).T - y) ** 2).sum(-1).mean()).sqrt()
        assert other >= best - 1e-12


def test_masked_points_do_not_matter(generator):
    x, y = (torch.randn(2, 12, 3, generator=generator) for _ in range(2))
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 8:] = False
    x[1, 8:] = 1000
    for measure in (sc_rmsd, sc_mean_displacement):
        both = measure(x, y, mask)
        assert both[0].item() == pytest.approx(measure(x[0], y[0]).item(), rel=1e-5)
        assert both[1].item() == pytest.approx(measure(x[1, :8], y[1, :8]).item(), rel=1e-5)


def test_the_two_definitions_of_scrmsd_differ(generator):
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64) * 10
    y = x.clone()
    y[0] += torch.tensor([9.0, 0, 0])
    mean, root = sc_mean_displacement(x, y), sc_rmsd(x, y)
    assert mean < root
    moved = superpose(x, y)
    distance = (moved - y).norm(dim=-1)
    assert mean.item() == pytest.approx(distance.mean().item())
    assert root.item() == pytest.approx(distance.square().mean().sqrt().item())


def test_superposition_of_unequal_shapes_is_refused():
    with pytest.raises(ValueError, match=r"two equal shapes .* got \(4, 3\) and \(5, 3\)"):
        kabsch(torch.zeros(4, 3), torch.zeros(5, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: ca_ca_distances(torch.zeros(4)),
            r"ca must have shape \(\.\.\., n, 3\), got \(4,\)",
        ),
        (lambda: torsions(torch.zeros(4, 3)), r"coords must have shape .* got \(4, 3\)"),
        (
            lambda: radius_of_gyration(torch.zeros(4, 3), torch.ones(5)),
            r"mask must have shape \(4,\), got \(5,\)",
        ),
        (lambda: tm_score(torch.zeros(2, 3), torch.zeros(9, 3)), r"at least 3 residues.*\(2, 3\)"),
        (lambda: cluster_count(np.zeros((2, 3))), r"square matrix, got shape \(2, 3\)"),
        (lambda: cluster_count(np.eye(3), 0.0), r"threshold must lie in \(0, 1\], got 0"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def _fold(n: int, seed: int) -> torch.Tensor:
    """Random compact walk with steps of 3.8 Å."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator), dim=-1)
    return (3.8 * steps).cumsum(0)


def test_tm_score_is_one_for_a_moved_copy_and_normalised_by_the_second(generator):
    long = _fold(60, 1)
    copy = long @ _rotation(generator).float().T + 4
    assert tm_score(long, copy) == pytest.approx(1, abs=1e-4)
    part = long[:30]
    assert tm_score(long, part) > 0.99  # every residue of the second is matched
    assert tm_score(part, long) == pytest.approx(0.5, abs=0.02)


def test_diversity_is_averaged_over_lengths():
    same = [_fold(40, 1), _fold(40, 1)]
    different = [_fold(50, 2), _fold(50, 3)]
    between = pairwise_tm(different)[0, 1]
    assert diversity(same) == pytest.approx(1, abs=1e-4)
    assert diversity([*same, *different]) == pytest.approx((1 + between) / 2, abs=1e-4)
    assert math.isnan(diversity([_fold(40, 1), _fold(50, 2)]))


def test_pairwise_scores_are_normalised_by_the_column():
    chains = [_fold(60, 1), _fold(60, 1)[:30]]
    scores = pairwise_tm(chains)
    assert scores[0, 1] > 0.99 > scores[1, 0]


def test_clusters_have_only_alike_pairs():
    chain_of_three = np.array([[1, 0.7, 0.4], [0.7, 1, 0.7], [0.4, 0.7, 1]])
    assert cluster_count(chain_of_three, 0.5) == 2  # not 1: first and last differ
    assert cluster_count(chain_of_three, 0.3) == 1
    assert cluster_count(chain_of_three, 0.8) == 3
    assert cluster_count(np.eye(1)) == 1


def _hits(path: Path, *rows: tuple[str, float]) -> Path:
    line = "{}\tt\t0.1\t90\t1\t1\t1\t90\t1\t90\t{:.3E}\t100"
    path.write_text("\n".join(line.format(*row) for row in rows) + "\n")
    return path


def test_foldseek_scores_are_in_the_evalue_column(tmp_path):
    path = _hits(tmp_path / "a.m8", ("s1", 0.8), ("s1", 0.6), ("s2", 0.5))
    assert read_foldseek(path) == {"s1": 0.8, "s2": 0.5}
    assert read_foldseek(path, drop_first_hit=True) == {"s1": 0.6, "s2": 0.5}


def test_a_table_that_is_none_is_refused(tmp_path):
    path = tmp_path / "a.m8"
    path.write_text("query target\n")
    with pytest.raises(ValueError, match=r"line 1 is no Foldseek hit, got 'query target'"):
        read_foldseek(path)


def test_the_published_search_is_exhaustive():
    command = foldseek_command("in", "pdb", "out.m8", "tmp")
    assert command[:6] == ["foldseek", "easy-search", "in", "pdb", "out.m8", "tmp"]
    assert "--exhaustive-search" in command
    assert command[command.index("--alignment-type") + 1] == "1"


def test_bonded_counts_trans_and_cis():
    steps = torch.tensor([3.8, 2.95, 3.2, 3.94, 3.96, 2.79])
    ca = torch.zeros(7, 3)
    ca[1:, 0] = steps.cumsum(0)
    assert ca_ca_bonded_fraction(ca).item() == pytest.approx(3 / 6)
    mask = torch.tensor([1, 1, 1, 1, 1, 0, 1], dtype=torch.bool)
    assert ca_ca_bonded_fraction(ca, mask).item() == pytest.approx(3 / 4)


def test_contacts_are_three_or_more_apart():
    ca = torch.tensor([[0.0, 0, 0], [3.8, 0, 0], [0.5, 1, 0], [0, 3.4, 0], [9, 9, 9]])
    assert contacts_per_100(ca).item() == pytest.approx(100 / 5)  # 0 and 3; 0 and 2 are too near
    assert contacts_per_100(ca + torch.zeros(2, 1, 1)).shape == (2,)


def test_the_nearest_of_known_chains_is_found():
    g = torch.Generator().manual_seed(0)
    known = [torch.randn(30, 3, generator=g).cumsum(0) * 2 for _ in range(4)]
    turned = known[2] @ torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    chain = turned if torch.det(torch.linalg.lstsq(known[2], turned).solution) > 0 else -turned
    score, which = nearest_tm(chain, known)
    assert which == 2
    assert score > 0.99
    assert nearest_tm(chain[:15], known)[0] > 0.99  # of the length of the chain that is asked for
