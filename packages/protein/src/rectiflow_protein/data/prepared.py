"""A folder of prepared chains: shards of records, and the table beside them."""

from __future__ import annotations

from collections.abc import Sequence

from rectiflow.storage.prepared import Prepared

from rectiflow_protein.data.dataset import BackboneDataset
from rectiflow_protein.data.filters import Filter

COLUMNS: dict[str, type] = {
    "name": str,
    "source": str,  # path below the prepared folder
    "chain": str,
    "length": int,
    "cluster": str,
    "split": str,  # train, valid or test
    "helix": float,  # fractions by DSSP
    "strand": float,
    "coil": float,
    "radius_gyration": float,  # Å over CA
    "resolution": float,  # Å; empty where unknown
    "num_chains": int,  # protein chains of the file
    "breaks": int,  # missing peptide bonds inside the chain
    "dropped": int,  # residues of the chain without a whole backbone
}
"""Columns of ``metadata.csv`` and the type of each."""


class PreparedBackbones(Prepared):
    """What :func:`prepare` left in a folder.

    Records hold ``coords (n, 4, 3)``, ``aatype``, ``residue_index`` and ``chain_index (n,)``.
    """

    columns = COLUMNS
    unit = "chain"

    def dataset(self, split: str, filters: Sequence[Filter] = ()) -> BackboneDataset:
        """Training examples of a split."""
        return BackboneDataset(self.records, self.rows(split, filters))
