"""Networks whose parameters, gradients and moments are shared out among processes (FSDP2).

``torch.distributed.fsdp.fully_shard`` makes each parameter a ``DTensor``, of which a process holds
a part; what works on the parts alone is the same for whole tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


def shard(network: nn.Module, mesh: Any) -> None:
    """Share the parameters of a network out, block by block.

    A block is a member of an outermost ``ModuleList``: its parameters are gathered when it is
    called, and let go of after it.

    Parameters
    ----------
    network : nn.Module
        Used by calling it.
    mesh : DeviceMesh
        Of one dimension.
    """
    from torch.distributed.fsdp import fully_shard

    for block in _blocks(network):
        fully_shard(block, mesh=mesh)
    # What is outside of blocks is let go of as well: it would outlive a change of the parameters,
    # such as by a validation of averages.
    fully_shard(network, mesh=mesh, reshard_after_forward=True)


def _blocks(module: nn.Module) -> Iterable[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def is_sharded(module: nn.Module) -> bool:
    """Return whether a process holds a part of the parameters only."""
    return any(_is_part(value) for value in module.parameters())


def _is_part(value: Tensor) -> bool:
    """Return whether a tensor is a ``DTensor``, whose module takes a second to import."""
    return hasattr(value, "to_local")


def part_of(value: Tensor) -> Tensor:
    """Return what this process holds of a tensor; it shares its memory."""
    held: Any = value
    return held.to_local() if _is_part(value) else value


def whole_of(value: Tensor) -> Tensor:
    """Return a tensor whole; all processes take part."""
    held: Any = value
    return held.full_tensor() if _is_part(value) else value


def laid_out(value: Tensor, like: Tensor) -> Tensor:
    """Return a tensor that all processes have whole, shared out as another is."""
    if not _is_part(like) or _is_part(value):
        return value
    from torch.distributed.tensor import distribute_tensor

    held: Any = like
    placed = value.to(like.device)
    return distribute_tensor(placed, held.device_mesh, held.placements, src_data_rank=None)


@torch.no_grad()
def copy_into(target: Tensor, value: Tensor) -> None:
    """Overwrite a tensor by another, which is whole or shared out as it is."""
    part_of(target).copy_(part_of(laid_out(value, target)))
