"""Students of another size than their teacher."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from torch import nn


def slim(network: nn.Module, start: str | None = None, **sizes: Any) -> nn.Module:
    """Return a network of the class of another, from scratch, of half its width or as told.

    Half the width of every layer is about a quarter of the parameters (SlimFlow). Which of a
    network's ``sizes`` are widths, the network tells by its method ``slim_sizes``.

    Parameters
    ----------
    network : nn.Module
        With ``sizes``, a dataclass; it is left as it is.
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
    known: Any = getattr(network, "sizes", None)
    narrower: Any = getattr(network, "slim_sizes", None)
    if known is None or (narrower is None and not sizes):
        raise ValueError(
            f"{type(network).__name__} does not tell which of its sizes are widths; name the sizes "
            "of the student."
        )
    unknown = sorted(sizes.keys() - {each.name for each in fields(known)})
    if unknown:
        raise ValueError(f"{type(network).__name__} has no size {', '.join(unknown)}.")
    return type(network)(replace(known, **(sizes or narrower())))
