"""Made-up chains of ideal geometry, for trials and tests where no structures are at hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.randomness import counter_generator
from rectiflow.rectify import Pair, generate_pairs
from rectiflow.storage.files import whole_file
from torch import Tensor

from rectiflow_protein.data.prepare import prepare
from rectiflow_protein.frames import frames_from_backbone, place_oxygen
from rectiflow_protein.residues import ONE_LETTER, UNKNOWN
from rectiflow_protein.sampling import draw_noise

if TYPE_CHECKING:
    from jaxtyping import Float

# Bond lengths (Å) and angles (degrees) of a peptide chain; the last two as in AlphaFold.
_N_CA, _CA_C, _C_N = 1.458, 1.525, 1.329
_N_CA_C, _CA_C_N, _C_N_CA = 111.0, 116.57, 121.35

# (phi, psi) in degrees. Helices and strands are long, and the turns between them short.
_HELIX, _STRAND = (-63.0, -42.0), (-120.0, 130.0)
_TURN = ((-65.0, -35.0), (-90.0, 0.0), (60.0, 40.0), (-70.0, 145.0))
_HELIX_LENGTH, _STRAND_LENGTH, _TURN_LENGTH = (8, 16), (4, 8), (2, 4)
_JITTER = 4.0  # degrees, standard deviation of every torsion

_CLOSEST = 3.6  # Å between CA three or more apart
_ATTEMPTS = 50  # at the next piece, before the chain starts anew


def backbone_from_torsions(
    phi: Float[Tensor, " n"], psi: Float[Tensor, " n"]
) -> Float[Tensor, "n 4 3"]:
    """Build a chain of ideal bonds, angles and trans peptides from its torsions.

    Each atom is placed from the three before it (natural extension of the reference frame).

    Parameters
    ----------
    phi, psi : Tensor, shape (n,)
        Radians. The first phi and the last psi have no effect on N, CA and C.

    Returns
    -------
    Tensor, shape (n, 4, 3)
        N, CA, C, O in ångström, float64.

    References
    ----------
    Parsons et al., "Practical conversion from torsion space to Cartesian space for in silico
    protein synthesis" (J. Comput. Chem. 2005).
    """
    inner = math.radians(_N_CA_C)
    atoms = [
        np.zeros(3),
        np.array([_N_CA, 0.0, 0.0]),
        np.array([_N_CA - _CA_C * math.cos(inner), _CA_C * math.sin(inner), 0.0]),
    ]
    for i in range(1, len(phi)):
        atoms.append(_next_atom(atoms, _C_N, _CA_C_N, float(psi[i - 1])))
        atoms.append(_next_atom(atoms, _N_CA, _C_N_CA, math.pi))
        atoms.append(_next_atom(atoms, _CA_C, _N_CA_C, float(phi[i])))
    heavy = torch.from_numpy(np.stack(atoms)).unflatten(0, (-1, 3))
    return torch.cat([heavy, place_oxygen(heavy).unsqueeze(1)], dim=1)


def _next_atom(atoms: list[np.ndarray], bond: float, angle: float, torsion: float) -> np.ndarray:
    """Place the atom at a bond length (Å), bond angle (degrees) and torsion (radians)."""
    a, b, c = atoms[-3:]
    along = (c - b) / np.linalg.norm(c - b)
    normal = np.cross(b - a, along)
    normal /= np.linalg.norm(normal)
    theta = math.radians(angle)
    across = math.sin(theta) * np.array([math.cos(torsion), math.sin(torsion)])
    return c + bond * (
        -math.cos(theta) * along + across[0] * np.cross(normal, along) + across[1] * normal
    )


def synthetic_backbone(length: int, generator: torch.Generator) -> Float[Tensor, "n 4 3"]:
    """Draw a chain of helices and strands joined by turns, without clashes, not compact.

    Parameters
    ----------
    length : int
        Residues, at least 2.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, shape (length, 4, 3)
        N, CA, C, O in ångström, float32, centred on the CA.
    """
    if length < 2:
        raise ValueError(f"a chain has at least 2 residues, got length={length}.")
    torsions = torch.zeros(0, 2, dtype=torch.float64)
    failures = 0
    while len(torsions) < length:
        longer = torch.cat([torsions, _piece(generator), _turn(generator)])[:length]
        if _is_free(longer):
            torsions = longer
            continue
        failures += 1
        if failures % _ATTEMPTS == 0:
            torsions = torsions[:0]
    coords = backbone_from_torsions(*torsions.unbind(-1))
    return (coords - coords[:, 1].mean(0)).float()


def _is_free(torsions: Tensor) -> bool:
    if len(torsions) < 4:
        return True
    ca = backbone_from_torsions(*torsions.unbind(-1))[:, 1]
    near = torch.cdist(ca, ca) < _CLOSEST
    return not bool(near.triu(3).any())


def _piece(generator: torch.Generator) -> Tensor:
    """Torsions of a helix or of a strand, (n, 2) radians."""
    if bool(torch.rand((), generator=generator) < 0.5):
        return _noisy([_HELIX] * _between(_HELIX_LENGTH, generator), generator)
    return _noisy([_STRAND] * _between(_STRAND_LENGTH, generator), generator)


def _turn(generator: torch.Generator) -> Tensor:
    count = _between(_TURN_LENGTH, generator)
    chosen = torch.randint(len(_TURN), (count,), generator=generator)
    return _noisy([_TURN[int(i)] for i in chosen], generator)


def _noisy(degrees: list[tuple[float, float]], generator: torch.Generator) -> Tensor:
    values = torch.tensor(degrees, dtype=torch.float64)
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
    return torch.deg2rad(values + _JITTER * noise)


def _between(limits: tuple[int, int], generator: torch.Generator) -> int:
    return int(torch.randint(limits[0], limits[1] + 1, (), generator=generator))


def synthetic_chains(
    num: int, min_length: int, max_length: int, *, seed: int = 0
) -> list[Float[Tensor, "n 4 3"]]:
    """Draw chains whose lengths spread evenly from the smallest to the largest.

    Chain i depends on its length, the seed and i alone.
    """
    if num < 1 or not 2 <= min_length <= max_length:
        raise ValueError(
            f"synthetic chains need num >= 1 and 2 <= min_length <= max_length, got {num}, "
            f"{min_length} and {max_length}."
        )
    lengths = np.linspace(min_length, max_length, num).round().astype(int).tolist()
    return [
        synthetic_backbone(length, counter_generator("synthetic chain", seed, i))
        for i, length in enumerate(lengths)
    ]


def prepare_synthetic(
    out: Path | str, *, num: int, min_length: int, max_length: int, seed: int = 0
) -> Path:
    """Make a folder as :func:`prepare` does, of synthetic chains with random sequences.

    Parameters
    ----------
    out : Path or str
        The folder; the chains themselves are left beside it as ``<name>.npz``.
    num, min_length, max_length, seed
        As for :func:`synthetic_chains`.

    Returns
    -------
    Path
        The folder.
    """
    out = Path(out)
    chains = synthetic_chains(num, min_length, max_length, seed=seed)
    generator = counter_generator("synthetic sequences", seed)
    types = [torch.randint(UNKNOWN, (len(c),), generator=generator).tolist() for c in chains]
    archive = out.with_suffix(".npz")
    with whole_file(archive) as part:
        np.savez(
            part,
            coords=torch.cat(chains).numpy(),
            offsets=np.cumsum([0, *map(len, chains)]),
            sequence=np.array(["".join(ONE_LETTER[i] for i in row) for row in types]),
        )
    fractions = {"train": 0.8, "valid": 0.2, "test": 0.0}
    prepare(
        archive, out, min_length=min_length, max_length=max_length, fractions=fractions, seed=seed
    )
    return out


def synthetic_pairs(
    out: Path | str, *, num: int, min_length: int, max_length: int, seed: int = 0
) -> Path:
    """Make a folder of pairs, synthetic chains and noise that has nothing to do with them.

    Training on them exercises rectification where there is no teacher to sample from. Arguments
    are those of :func:`prepare_synthetic`.
    """
    chains = synthetic_chains(num, min_length, max_length, seed=seed)

    def sample(indices: list[int]) -> list[Pair]:
        return [Pair(i, draw_noise(len(chains[i]), seed, i), _frames(chains[i])) for i in indices]

    told = {"kind": "synthetic", "min_length": min_length, "max_length": max_length}
    generate_pairs(sample, out, num=num, batch=num, seed=seed, metadata=told, progress=False)
    return Path(out)


def _frames(coords: Float[Tensor, "n 4 3"]) -> dict[str, Tensor]:
    return frames_from_backbone(*coords[:, :3].unbind(1))
