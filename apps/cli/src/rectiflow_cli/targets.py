"""Whether a composed config fits the code it names, before anything is built from it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rectiflow_cli.domains import DOMAINS, pick
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


def trusted_prefixes() -> tuple[str, ...]:
    """Return where what a config may name by ``_target_`` comes from: ours, torch's, Lightning's.

    A config can come with a run folder of somebody else, and ``_target_`` calls what it names.
    """
    domains = tuple(f"{domain.package}." for domain in DOMAINS)
    return (*_TRUSTED, *domains)


_TRUSTED = ("rectiflow.", "torch.optim.", "lightning.pytorch.loggers.")


def _trusted_object(where: str, name: Any) -> Any:
    """Import what a config names, if it is defined where only harmless things are."""
    from hydra.errors import InstantiationException
    from hydra.utils import get_object

    prefixes = trusted_prefixes()
    if not isinstance(name, str) or not name.startswith(prefixes):
        raise UsageError(_distrusted(where, name))
    try:
        target = get_object(name)
    except (InstantiationException, ImportError) as error:
        raise UsageError(
            f"{where}._target_ {name!r} cannot be imported ({error}); expected package.module.name."
        ) from error
    # A module of ours gives access to what it imports: rectiflow.x.os.system is not ours.
    home = f"{getattr(target, '__module__', None)}.{getattr(target, '__qualname__', '')}"
    if not callable(target) or not home.startswith(prefixes):
        raise UsageError(_distrusted(where, name))
    return target


def _distrusted(where: str, name: Any) -> str:
    return (
        f"{where}._target_ {name!r} is not run: a config may only name what is in "
        f"{', '.join(prefix.rstrip('.') for prefix in trusted_prefixes())}. If the config came "
        "with a run folder, do not trust it."
    )


def _check_arguments(where: str, node: Mapping[str, Any]) -> None:
    target = _trusted_object(where, node["_target_"])
    parameters = inspect.signature(target).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    names = [p.name for p in parameters]
    for key in node:
        if not str(key).startswith("_") and key not in names:
            pick(f"key of {where} ({node['_target_']})", str(key), names)
