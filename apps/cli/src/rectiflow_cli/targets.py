"""Whether a composed config fits the code it names, before anything is built from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rectiflow_cli.domains import pick
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from omegaconf import DictConfig


def check_config(cfg: DictConfig, known: Iterable[str]) -> None:
    """Refuse keys that nothing would read: Hydra lets ``+key=value`` add any.

    Parameters
    ----------
    cfg : DictConfig
        Composed config. A node with ``_target_`` holds arguments of that callable.
    known : iterable of str
        Keys that may stand at the top.

    Raises
    ------
    UsageError
        When a key is unknown; the message names the alternatives.
    """
    from omegaconf import OmegaConf

    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    names = list(known)
    for key in plain:
        pick("config key", str(key), names)
    for where, node in _targets(plain, ""):
        _check_arguments(where, node)


def _targets(node: Any, where: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every node with a ``_target_``, with its place."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(node, dict):
        if "_target_" in node:
            yield where, node
        children = node.items()
    elif isinstance(node, list):
        children = enumerate(node)
    for key, child in children:
        yield from _targets(child, f"{where}.{key}" if where else str(key))


def _check_arguments(where: str, node: Mapping[str, Any]) -> None:
    from hydra.errors import InstantiationException
    from hydra.utils import get_object

    try:
        target = get_object(node["_target_"])
    except (InstantiationException, ImportError) as error:
        raise UsageError(
            f"{where}._target_ {node['_target_']!r} cannot be imported ({error}); expected "
            "package.module.name."
        ) from error
    parameters = inspect.signature(target).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for key in node:
        if not str(key).startswith("_") and key not in names:
            pick(f"key of {where} ({node['_target_']})", str(key), names)
