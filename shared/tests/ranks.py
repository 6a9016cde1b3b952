"""Several processes of one training, forked and named as torchrun names them."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from typing import Any

import torch


def in_ranks(
    function: Callable[..., Any], *arguments: Any, ranks: int = 2, nodes: int = 1
) -> list[Any]:
    """Return what a function returns in each rank; fail with the traceback of one that fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    pipes, children = [], []
    for rank in range(ranks):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            _run(rank, ranks, nodes, port, theirs, function, arguments)
        os.close(theirs)
        pipes.append(ours)
        children.append(child)
    told = []
    for pipe in pipes:
        with os.fdopen(pipe, "rb") as file:
            told.append(file.read())
    for child in children:
        os.waitpid(child, 0)
    found = [pickle.loads(each) if each else ("error", "killed") for each in told]
    errors = [value for kind, value in found if kind == "error"]
    assert not errors, "\n".join(errors)
    return [value for _, value in found]


def _run(
    rank: int,
    ranks: int,
    nodes: int,
    port: int,
    pipe: int,
    function: Callable[..., Any],
    arguments: Any,
) -> None:
    from lightning.pytorch.utilities import rank_zero_only

    node, local = divmod(rank, ranks // nodes)
    try:
        os.environ |= {
            **{"RANK": str(rank), "LOCAL_RANK": str(local), "GROUP_RANK": str(node)},
            **{"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks // nodes)},
            **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            "TORCHELASTIC_RUN_ID": "test",
        }
        rank_zero_only.rank = rank
        torch.set_num_threads(1)
        told = ("done", function(*arguments))
    except BaseException:
        told = ("error", f"rank {rank}: {traceback.format_exc()}")
    with os.fdopen(pipe, "wb") as file:
        pickle.dump(told, file)
    os._exit(0)
