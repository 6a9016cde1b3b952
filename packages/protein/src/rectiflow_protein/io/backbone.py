"""A protein backbone as arrays, the currency of reading, writing and preparing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rectiflow_protein.io.sequence import decode_sequence, encode_sequence

if TYPE_CHECKING:
    from jaxtyping import Float, Int


PEPTIDE_BREAK = 2.0  # Å; a C-N distance above this is no bond (a bond is 1.33)
CA_BREAK = 4.5  # Å; successive CA are 3.8 apart (trans) or 2.9 (cis)


@dataclass(frozen=True)
class Backbone:
    """Backbone heavy atoms of one or more chains, chain by chain as the file has them.

    Parameters
    ----------
    coords : ndarray, shape (n, 4, 3), float32
        N, CA, C, O in ångström.
    aatype : ndarray, shape (n,), int8
        Residue type in the order of :data:`~rectiflow_protein.residues.ONE_LETTER`; 20 is unknown.
    residue_index : ndarray, shape (n,), int32
        Residue numbers of the source file: may jump, repeat (insertion codes) or be negative.
    insertion_codes : ndarray, shape (n,), str
        Insertion code of each residue, ``""`` for none.
    chain_ids : ndarray, shape (n,), str
        Chain of each residue.
    name : str
        What the structure is called, by default the file's stem.
    resolution : float, optional
        In ångström; None where the method has none or the file does not say.
    dropped : tuple of str
        Residues, models and blocks of the file that are not here, each with the reason.
    copies : int, default 1
        Models of the file that hold these chains, each moved as a whole: an assembly.
    """

    coords: Float[np.ndarray, "n 4 3"]
    aatype: Int[np.ndarray, " n"]
    residue_index: Int[np.ndarray, " n"]
    insertion_codes: np.ndarray
    chain_ids: np.ndarray
    name: str = "backbone"
    resolution: float | None = None
    dropped: tuple[str, ...] = ()
    copies: int = 1

    def __post_init__(self) -> None:
        n = len(self.coords)
        if self.coords.shape != (n, 4, 3):
            raise ValueError(
                f"coords must have shape (n, 4, 3), got {self.coords.shape}; expected the atoms "
                "N, CA, C, O of each residue. Place O with residues.place_oxygen."
            )
        for field in ("aatype", "residue_index", "insertion_codes", "chain_ids"):
            if getattr(self, field).shape != (n,):
                raise ValueError(
                    f"{field} must have shape ({n},), got {getattr(self, field).shape}; expected "
                    "one value per residue of coords."
                )

    @classmethod
    def from_coords(
        cls,
        coords: np.ndarray | Tensor,
        *,
        sequence: str | None = None,
        first_residue: int = 1,
        chain_id: str = "A",
        name: str = "backbone",
    ) -> Backbone:
        """Make one chain of consecutive residues from coordinates, all alanine by default.

        Parameters
        ----------
        coords : array or Tensor, shape (n, 4, 3)
            N, CA, C, O in ångström.
        sequence : str, optional
            One-letter sequence; a generated backbone has none and is written as alanine.
        first_residue : int, default 1
            Number of the first residue.
        chain_id, name : str
            As in the class.
        """
        values = coords.detach().cpu().numpy() if isinstance(coords, Tensor) else coords
        values = np.asarray(values, dtype=np.float32)
        n = len(values)
        return cls(
            coords=values,
            aatype=encode_sequence("A" * n if sequence is None else sequence),
            residue_index=np.arange(first_residue, first_residue + n, dtype=np.int32),
            insertion_codes=np.full(n, "", dtype="<U1"),
            chain_ids=np.full(n, chain_id),
            name=name,
        )

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int]) -> Backbone:
        """Return the chosen residues."""
        index = rows if isinstance(rows, slice) else np.asarray(rows)
        return replace(
            self,
            coords=self.coords[index],
            aatype=self.aatype[index],
            residue_index=self.residue_index[index],
            insertion_codes=self.insertion_codes[index],
            chain_ids=self.chain_ids[index],
        )

    @property
    def sequence(self) -> str:
        """One-letter sequence, X for unknown."""
        return decode_sequence(self.aatype)

    @property
    def chain_index(self) -> Int[np.ndarray, " n"]:
        """Chains numbered 0, 1, ... in the order in which they appear, int16."""
        number = {chain: i for i, chain in enumerate(dict.fromkeys(self.chain_ids.tolist()))}
        return np.array([number[chain] for chain in self.chain_ids.tolist()], dtype=np.int16)

    @property
    def breaks(self) -> Int[np.ndarray, " b"]:
        """Residues i whose bond to residue i + 1 of the same chain is missing in space."""
        if len(self) < 2:
            return np.zeros(0, dtype=np.int64)
        n, ca, c = (self.coords[:, i] for i in range(3))
        bond = np.linalg.norm(n[1:] - c[:-1], axis=-1)
        step = np.linalg.norm(ca[1:] - ca[:-1], axis=-1)
        same = self.chain_ids[1:] == self.chain_ids[:-1]
        return np.flatnonzero(same & ((bond > PEPTIDE_BREAK) | (step > CA_BREAK)))

    def chains(self) -> dict[str, Backbone]:
        """Each chain as a backbone of its own, in the order in which they appear."""
        order = dict.fromkeys(self.chain_ids.tolist())
        return {chain: self[np.flatnonzero(self.chain_ids == chain)] for chain in order}

    def label(self, i: int) -> str:
        """Name of residue ``i`` as a user would type it, such as ``A/52A``."""
        return f"{self.chain_ids[i]}/{self.residue_index[i]}{self.insertion_codes[i]}"

    def tensors(self) -> dict[str, Tensor]:
        """Arrays of a prepared record: coords, aatype, residue_index, chain_index."""
        return {
            "coords": torch.from_numpy(np.ascontiguousarray(self.coords, dtype=np.float32)),
            "aatype": torch.from_numpy(np.asarray(self.aatype, dtype=np.int8)),
            "residue_index": torch.from_numpy(np.asarray(self.residue_index, dtype=np.int32)),
            "chain_index": torch.from_numpy(self.chain_index),
        }
