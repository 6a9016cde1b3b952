"""Flat records: named tensors in which a state is one entry, or one entry per part.

A record stores a tensor state under its name, ``"x1"``, and a dict state under dotted names,
``"x1.trans"`` and ``"x1.rot"``. Batches, pairs and shards all use this form.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rectiflow.states import State


def flatten_state(name: str, state: State) -> dict[str, Tensor]:
    """Name the tensors of a state.

    Examples
    --------
    >>> import torch
    >>> sorted(flatten_state("x1", {"trans": torch.zeros(3), "rot": torch.zeros(4)}))
    ['x1.rot', 'x1.trans']
    """
    if isinstance(state, Tensor):
        return {name: state}
    return {f"{name}.{part}": value for part, value in state.items()}


def state_of(record: Mapping[str, Tensor], name: str) -> State | None:
    """Return the state stored under ``name``, or None when the record has none.

    Parameters
    ----------
    record : mapping of str to Tensor
        A record or a batch of records.
    name : str
        ``"x1"`` finds ``record["x1"]``, or gathers ``record["x1.trans"]``, ... into a dict.
    """
    if name in record:
        return record[name]
    prefix = f"{name}."
    parts = {key[len(prefix) :]: record[key] for key in record if key.startswith(prefix)}
    return parts or None
