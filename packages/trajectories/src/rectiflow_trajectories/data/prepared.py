"""A folder of prepared trajectories: shards of windows, and the table beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from rectiflow.storage.prepared import Prepared

if TYPE_CHECKING:
    from torch import Tensor


class PreparedTrajectories(Prepared):
    """What :func:`~rectiflow_trajectories.data.prepare` left in a folder.

    Records hold a window: ``positions (n, t, d)``, ``nodes (n, f)`` or ``(n, t, f)``, and of all
    pairs ``edges (n n, e)``, float32, and ``linked (n n,)``. Positions are about their mean in the
    last given frame, or in all where none is given.
    """

    columns: ClassVar = {
        **dict.fromkeys(("name", "source", "split", "kind", "unit"), str),
        **dict.fromkeys(("start", "given", "frames", "nodes", "dimensions"), int),
    }
    unit = "window"

    def told(self, name: str) -> str | int:
        """Return what the whole table says in a column that is the same for all."""
        value = self.table[name][0]
        return str(value) if self.columns[name] is str else int(value)


def padded(record: dict[str, Tensor], nodes: int) -> dict[str, Tensor]:
    """Return what networks take of a record, with as many nodes as asked for, and ``real``."""
    count = len(record["positions"])
    more = nodes - count

    def wider(x: Tensor, axes: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, 0) * (x.ndim - axes) + (0, more) * axes)

    found = {name: wider(record[name], 1) for name in ("positions", "nodes")}
    pairs = {name: record[name].unflatten(0, (count, count)) for name in ("edges", "linked")}
    found["edges"] = wider(pairs["edges"], 2)
    found["linked"] = wider(pairs["linked"].bool(), 2)
    return found | {"real": torch.arange(nodes) < nodes - more}
