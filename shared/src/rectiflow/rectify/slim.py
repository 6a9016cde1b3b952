"""Students of another size than their teacher."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import nn


def slim(network: nn.Module, start: str | None = None, **sizes: Any) -> nn.Module:
    """Return a network of the class of another, from scratch, of half its width or as told.

    Half the width of every layer is about a quarter of the parameters (SlimFlow). Which of a
    network's sizes are widths, the network tells by its method ``slim_sizes``. Statistics of the
    data that it keeps as buffers are handed on.

    Parameters
    ----------
    network : nn.Module
        :class:`~rectiflow.Pretrained`, with ``sizes``, a dataclass, or sizes as its arguments; it
        is left as it is.
    start : str, optional
        The folder of a slim network that was trained already, to go on from.
    **sizes
        Fields of its sizes to set instead.

    Raises
    ------
    ValueError
        When the network has no such size.
    """
    if start is not None:
        kind: Any = type(network)
        return kind.from_pretrained(start).train()
    kind, narrower = type(network), getattr(network, "slim_sizes", None)
    known: Any = getattr(network, "sizes", None)
    is_record = is_dataclass(known)
    known = known if is_record else getattr(network, "config", None)
    if not known or (narrower is None and not sizes):
        raise ValueError(
            f"{kind.__name__} does not tell which of its sizes are widths; name the sizes "
            "of the student."
        )
    names = {each.name for each in fields(known)} if is_record else known.keys()
    unknown = sorted(sizes.keys() - names)
    if unknown:
        raise ValueError(f"{kind.__name__} has no size {', '.join(unknown)}.")
    told = sizes or narrower()
    student = kind(replace(known, **told)) if is_record else kind(**{**known, **told})
    kept = dict(student.named_buffers())
    for name, value in network.named_buffers():
        if name in kept and kept[name].shape == value.shape:
            kept[name].copy_(value)
    return student
