"""Secondary structure agrees with mdtraj on natural chains and with geometry on ideal ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from rectiflow_protein.data import read_archive
from rectiflow_protein.residues import THREE_LETTER
from rectiflow_protein.secondary_structure import (
    COIL,
    HELIX,
    STRAND,
    dssp,
    hydrogen_bond_energy,
    letters,
    psea,
)


def build_chain(torsions: list[tuple[float, float]]) -> torch.Tensor:
    """Backbone (n, 4, 3) with given (phi, psi) in degrees, trans and of ideal geometry."""

    def place(a, b, c, length, angle, torsion):
        angle, torsion = math.radians(angle), math.radians(torsion)
        bc = (c - b) / np.linalg.norm(c - b)
        normal = np.cross(b - a, bc)
        normal /= np.linalg.norm(normal)
        side = np.cross(normal, bc)
        turn = math.cos(torsion) * side + math.sin(torsion) * normal
        return c + length * (-math.cos(angle) * bc + math.sin(angle) * turn)

    n = np.zeros(3)
    ca = np.array([1.458, 0, 0])
    angle = math.radians(111)
    c = ca + 1.525 * np.array([-math.cos(angle), math.sin(angle), 0])
    chain = []
    for _, psi in torsions:
        o = place(n, ca, c, 1.231, 120.5, psi + 180)
        chain.append([n, ca, c, o])
        n_next = place(n, ca, c, 1.329, 116.6, psi)
        ca_next = place(ca, c, n_next, 1.458, 121.7, 180)
        phi_next = torsions[len(chain) % len(torsions)][0]
        c_next = place(c, n_next, ca_next, 1.525, 111, phi_next)
        n, ca, c = n_next, ca_next, c_next
    return torch.tensor(np.array(chain), dtype=torch.float32)


def mdtraj_dssp(coords: np.ndarray, aatype: np.ndarray) -> str:
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for kind in aatype:
        residue = topology.add_residue(THREE_LETTER[kind], chain)
        for name in ("N", "CA", "C", "O"):
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
    frame = mdtraj.Trajectory(coords.reshape(1, -1, 3) / 10, topology)
    return "".join(mdtraj.compute_dssp(frame, simplified=True)[0])


@pytest.fixture(scope="module")
def natural(archive):
    return read_archive(archive).backbones[::20]


@pytest.mark.parametrize("torsions", [(-57.0, -47.0), (-49.0, -26.0), (-57.0, -70.0)])
def test_ideal_helices_are_helix_but_for_their_ends(torsions):
    """Alpha, 3-10 and pi helices: the residues between two turns are helix, the ends are coil."""
    codes = letters(dssp(build_chain([torsions] * 20)))
    assert "H" * 14 in codes
    assert codes[0] == codes[-1] == "C"


def test_an_extended_chain_alone_is_coil():
    assert set(letters(dssp(build_chain([(-120.0, 130.0)] * 20)))) == {"C"}


def test_ideal_chains_agree_with_mdtraj():
    generator = np.random.default_rng(1)
    for _ in range(5):
        kinds = generator.choice(3, size=6)
        torsions = [((-57.0, -47.0), (-120.0, 130.0), (-60.0, 120.0))[k] for k in kinds]
        coords = build_chain([t for t in torsions for _ in range(6)])
        aatype = generator.integers(0, 20, size=len(coords))
        ours = letters(dssp(coords, aatype=torch.from_numpy(aatype)))
        assert ours == mdtraj_dssp(coords.numpy(), aatype)


def test_natural_chains_agree_with_mdtraj(natural):
    same = total = 0
    for chain in natural:
        codes = dssp(torch.from_numpy(chain.coords), aatype=torch.from_numpy(chain.aatype))
        ours, theirs = letters(codes), mdtraj_dssp(chain.coords, chain.aatype)
        same += sum(a == b for a, b in zip(ours, theirs, strict=True))
        total += len(theirs)
    assert total > 5000
    assert same / total > 0.995


def test_distorted_chains_agree_with_mdtraj(natural):
    """Half-broken geometry, as an early model makes, has many borderline bonds."""
    noise = np.random.default_rng(0)
    same = total = 0
    for chain in natural:
        coords = (chain.coords + 0.25 * noise.standard_normal(chain.coords.shape)).astype("f4")
        codes = dssp(torch.from_numpy(coords), aatype=torch.from_numpy(chain.aatype))
        theirs = mdtraj_dssp(coords, chain.aatype)
        same += sum(a == b for a, b in zip(letters(codes), theirs, strict=True))
        total += len(theirs)
    assert same / total > 0.97


def test_a_padded_batch_gives_what_each_chain_gives_alone(natural):
    chains = [torch.from_numpy(chain.coords) for chain in natural[:6]]
    longest = max(len(c) for c in chains)
    batch = torch.zeros(len(chains), longest, 4, 3)
    mask = torch.zeros(len(chains), longest, dtype=torch.bool)
    for i, coords in enumerate(chains):
        batch[i, : len(coords)], mask[i, : len(coords)] = coords, True
    codes = dssp(batch, mask=mask)
    for i, coords in enumerate(chains):
        assert torch.equal(codes[i, : len(coords)], dssp(coords))
        assert codes[i, len(coords) :].eq(COIL).all()


def test_rotation_changes_nothing_and_chains_do_not_bond_into_one_helix():
    helix = build_chain([(-57.0, -47.0)] * 16)
    assert torch.equal(dssp(helix[:, :, [1, 2, 0]] + 7), dssp(helix))  # a cyclic turn of the axes
    chain = (torch.arange(16) >= 8).long()
    split = dssp(helix, chain_index=chain)
    assert split[7] == split[8] == COIL
    assert dssp(helix)[7] == dssp(helix)[8] == HELIX


def test_proline_donates_no_bond():
    helix = build_chain([(-57.0, -47.0)] * 16)
    everywhere = torch.full((16,), THREE_LETTER.index("PRO"))
    assert dssp(helix, aatype=everywhere).eq(COIL).all()


def test_energy_of_a_textbook_bond():
    """O 2.9 Å from N on the line of N-H: about -3 kcal/mol, as Kabsch and Sander state."""
    coords = torch.zeros(3, 4, 3)
    coords[0] = torch.tensor([[-9.0, 0, 0], [-8, 0, 0], [0, 1.33, 0], [0, 2.56, 0]])
    coords[1] = torch.tensor([[0.0, 0, 0], [0, 0, 9], [0, 0, 10], [0, 0, 11]])
    coords[2] = torch.tensor([[0.0, -9, 0], [0, -8, 0], [0, -4.13, 0], [0, -2.9, 0]])
    assert -3.5 < hydrogen_bond_energy(coords)[1, 2] < -2.5


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5])
def test_chains_too_short_for_two_turns_are_coil(n):
    helix = build_chain([(-57.0, -47.0)] * 8)
    assert dssp(helix[:n]).tolist() == [COIL] * n
    assert dssp(helix).tolist().count(HELIX) > 0


def test_a_wrong_shape_is_named():
    with pytest.raises(
        ValueError, match=r"coords must have shape \(\.\.\., n, 4, 3\), got \(5, 3, 3\)"
    ):
        dssp(torch.zeros(5, 3, 3))
    with pytest.raises(ValueError, match=r"ca must have shape \(n, 3\), got \(5, 4, 3\)"):
        psea(torch.zeros(5, 4, 3))


def test_psea_knows_helix_and_strand():
    helix = build_chain([(-57.0, -47.0)] * 20)[:, 1]
    strand = build_chain([(-120.0, 130.0)] * 20)[:, 1]
    assert (psea(helix) == HELIX).float().mean() > 0.8
    assert (psea(strand) == STRAND).float().mean() > 0.6
    assert psea(helix[:4]).tolist() == [COIL] * 4


def test_psea_fractions_are_those_of_the_archive(natural, archive):
    with np.load(archive) as file:
        told = file["helix_fraction"][::20], file["strand_fraction"][::20]
    for chain, helix, strand in zip(natural, *told, strict=True):
        codes = psea(torch.from_numpy(chain.coords[:, 1]))
        assert (codes == HELIX).float().mean().item() == pytest.approx(helix, abs=1e-6)
        assert (codes == STRAND).float().mean().item() == pytest.approx(strand, abs=1e-6)
