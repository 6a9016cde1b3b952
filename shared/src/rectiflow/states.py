"""What a flow moves: a tensor, or a flat dict of named tensors for a product of spaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

State: TypeAlias = Tensor | dict[str, Tensor]
"""A batch of points, ``(b, *event)``, or a flat dict of them with one batch size."""


def map_state(fn: Callable[..., Tensor], *states: State) -> State:
    """Apply ``fn`` to matching leaves of ``states``.

    Parameters
    ----------
    fn : callable
        Takes one tensor of each state.
    *states : State
        All tensors, or all dicts with the same keys.

    Returns
    -------
    State
        Of the same form as the first.

    Raises
    ------
    ValueError
        When the states do not have the same parts.
    """
    first = states[0]
    for other in states:
        if isinstance(other, dict):
            break
    else:
        return fn(*states)
    for other in states:
        if _parts(other) != _parts(first):
            raise ValueError(
                f"states must have the same parts, got {_parts(first)} and {_parts(other)}; "
                "expected one tensor per name in each"
            )
    return {name: fn(*(state[name] for state in states)) for name in first}  # type: ignore[index]


def _parts(x: State) -> list[str] | str:
    return sorted(x) if isinstance(x, dict) else "one tensor"


def leaves(x: State) -> list[Tensor]:
    """Return the tensors of a state, in the order of its names."""
    return list(x.values()) if isinstance(x, dict) else [x]


def batch_of(x: State) -> tuple[int, torch.device, torch.dtype]:
    """Return the batch size, device and dtype of a state, read off its first tensor."""
    first = leaves(x)[0]
    return first.shape[0], first.device, first.dtype


def expand_time(t: float | Tensor, like: Tensor) -> float | Tensor:
    """Give a time of shape ``(b,)`` the trailing axes of ``like``; numbers pass unchanged.

    A time of more than one axis, such as one per residue ``(b, n)``, is padded likewise.
    """
    if not isinstance(t, Tensor) or t.ndim == 0:
        return t
    return t.reshape(*t.shape, *(1,) * (like.ndim - t.ndim)).to(like)


def combine(weights: Sequence[float | Tensor], states: Sequence[State]) -> Any:
    """Return the weighted sum of states, part by part: a new state.

    Parameters
    ----------
    weights : sequence of float or Tensor
        One per state: a number, of which exactly 0.0 costs nothing, or a tensor of the form of a
        time, see :func:`expand_time`.
    states : sequence of State
        Of one form.
    """
    terms: Any = states
    if isinstance(terms[0], dict) or isinstance(terms[-1], dict):
        return map_state(lambda *parts: combine(weights, parts), *terms)
    total, given = None, None
    for weight, part in zip(weights, terms, strict=True):
        if isinstance(weight, Tensor):
            scaled: Any = expand_time(weight, part)
            total = scaled * part if total is None else torch.addcmul(total, scaled, part)
        elif weight != 0.0:
            if total is not None:
                total = torch.add(total, part, alpha=weight)
            elif weight == 1.0:
                total = given = part
            else:
                total = weight * part
    if total is given:
        return torch.zeros_like(terms[0]) if given is None else given.clone()
    return total


def squares(x: State) -> Tensor:
    """Return squares summed over the event and the parts, shape ``(b,)``."""
    return torch.stack([part.reshape(len(part), -1).square().sum(1) for part in leaves(x)]).sum(0)


def check_like(found: State, expected: State, name: str) -> None:
    """Refuse a state whose shapes would broadcast silently; ``name`` says in the error what it is.

    Raises
    ------
    ValueError
        When parts or shapes differ.
    """
    if _shapes(found) != _shapes(expected):
        raise ValueError(f"{name} must have shape {_shapes(expected)}, got {_shapes(found)}")


def _shapes(x: State) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    if isinstance(x, dict):
        return {name: tuple(part.shape) for name, part in x.items()}
    return tuple(x.shape)


def settle(mask: bool | Tensor) -> bool | Tensor:
    """Return one bool where a mask over the rows is unanimous.

    Only masks on the host are read, so that nothing waits for a device; others pass unchanged.
    """
    if isinstance(mask, Tensor) and mask.device.type == "cpu" and not torch.compiler.is_compiling():
        return bool(mask.all()) or (False if not mask.any() else mask)
    return mask


def select(mask: bool | Tensor, x: Any, y: Any) -> Any:
    """Return ``x`` where the mask is true and ``y`` elsewhere: whole, or row by row.

    ``x`` and ``y`` are states, or times: numbers, or tensors of the shape of the mask.
    """
    if not isinstance(mask, Tensor):
        return x if mask else y
    if isinstance(x, float) or isinstance(y, float):
        x = torch.full_like(mask, x, dtype=torch.float64) if isinstance(x, float) else x
        return torch.where(mask, x, y)

    def rows(a: Tensor, b: Tensor) -> Tensor:
        of_rows = mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim))
        return torch.where(of_rows.to(a.device), a, b)

    return map_state(rows, x, y)
