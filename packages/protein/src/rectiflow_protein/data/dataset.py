"""Training examples from backbone records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_protein.data.crops import Crop
from rectiflow_protein.frames import frames_from_backbone

if TYPE_CHECKING:
    from jaxtyping import Int


class Records(Protocol):
    """Records by index: a reader of shards, or a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Mapping[str, Tensor]: ...


class BackboneDataset(Dataset[dict[str, Tensor]]):
    """Frames and masks of backbone records.

    Parameters
    ----------
    records : sequence of dict
        Each with ``coords (n, 4, 3)`` (ångström; N, CA, C, O), ``aatype``, ``residue_index`` and
        ``chain_index (n,)``: a reader of prepared shards, or a list.
    rows : sequence of int, optional
        Records to use, in this order; all by default.

    Examples
    --------
    >>> coords = torch.randn(7, 4, 3)
    >>> number = torch.arange(7)
    >>> record = {"coords": coords, "aatype": 0 * number, "residue_index": number,
    ...           "chain_index": 0 * number}
    >>> BackboneDataset([record])[0]["x1.rot"].shape
    torch.Size([7, 4])
    """

    def __init__(
        self, records: Records, rows: Sequence[int] | Int[np.ndarray, " n"] | None = None
    ) -> None:
        self.records = records
        self.rows = np.arange(len(records)) if rows is None else np.asarray(rows, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int | Crop) -> dict[str, Tensor]:
        """Return the example of one chain or of a piece of it; see :func:`example`."""
        if isinstance(i, Crop):
            record = self.records[int(self.rows[i.row])]
            return example({name: part[i.start : i.stop] for name, part in record.items()})
        return example(self.records[int(self.rows[i])])


def example(record: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the training example of a record.

    Returns
    -------
    dict
        ``x1.trans (n, 3)`` CA positions in ångström minus their mean, ``x1.rot (n, 4)`` unit
        quaternions (w, x, y, z; computed in float64), ``res_mask`` and ``diffuse_mask (n,)`` of
        ones, ``res_idx (n,)`` and ``aatype (n,)`` int64.
    """
    coords = record["coords"].double()
    frames = frames_from_backbone(coords[:, 0], coords[:, 1], coords[:, 2])
    trans = frames["trans"] - frames["trans"].sum(0) / (len(coords) + 1e-5)
    ones = torch.ones(len(coords))
    return {
        "x1.trans": trans.float(),
        "x1.rot": frames["rot"].float(),
        "res_mask": ones,
        "diffuse_mask": ones.clone(),
        "res_idx": renumber(record["residue_index"], record["chain_index"]),
        "aatype": record["aatype"].long(),
    }


def renumber(residue_index: Int[Tensor, " n"], chain_index: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Return residue numbers from 1 in each chain, keeping the gaps of the source numbering.

    Where the source numbers do not increase (insertion codes, or numbers that restart) the next
    number is the last plus one; elsewhere this is the published ``number - first + 1``.

    Examples
    --------
    >>> renumber(torch.tensor([-2, -1, 4, 4, 7, 8]), torch.tensor([0, 0, 0, 0, 1, 1])).tolist()
    [1, 2, 7, 8, 1, 2]
    """
    number, chain = residue_index.long(), chain_index.long()
    steps = torch.ones_like(number)
    steps[1:] = (number[1:] - number[:-1]).clamp_min(1)
    total = steps.cumsum(0)
    starts = torch.ones_like(chain, dtype=torch.bool)
    starts[1:] = chain[1:] != chain[:-1]
    first = total[starts][starts.long().cumsum(0) - 1]
    return total - first + 1
