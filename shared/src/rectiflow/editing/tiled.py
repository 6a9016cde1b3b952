"""Fields of larger sizes than a network was trained on: tiles, interleaved views, both at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rectiflow.grids import uniform
from rectiflow.integrate import Moved, integrate, plan
from rectiflow.solvers import Euler, Solver

if TYPE_CHECKING:
    from rectiflow.fields import VelocityField

_EULER = Euler()


@dataclass(frozen=True)
class Tiling:
    """Windows along one axis.

    Parameters
    ----------
    window : int
        The size that the network knows.
    stride : int
        Between windows, at most the window.
    axis : int, default -1
        Of the state.
    border : int, default 0
        How much of a window's inner ends counts for nothing: the reach of a network from which a
        tile differs from the whole. Windows must overlap by twice as much.
    """

    window: int
    stride: int
    axis: int = -1
    border: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.window - 2 * self.border or self.border < 0:
            raise ValueError(
                f"windows must overlap by two borders, got window={self.window}, "
                f"stride={self.stride}, border={self.border}; expected 1 <= stride <= window - 2 "
                "border."
            )

    def starts(self, extent: int) -> list[int]:
        """Return where windows begin; the last ends with the axis."""
        if extent < self.window:
            raise ValueError(
                f"a window of {self.window} does not fit an axis of {extent}; expected a larger "
                "state, which needs no tiles otherwise."
            )
        last = extent - self.window
        return [*range(0, last, self.stride), last]

    def shares(self, extent: int) -> list[list[float]]:
        """Return the share of each window at each of its places; at every place they sum to 1."""
        starts = self.starts(extent)
        counts = [0] * extent
        kept = []
        for start in starts:
            low = 0 if start == 0 else self.border
            high = self.window if start + self.window == extent else self.window - self.border
            kept.append((low, high))
            for place in range(start + low, start + high):
                counts[place] += 1
        return [
            [1 / counts[start + i] if low <= i < high else 0.0 for i in range(self.window)]
            for start, (low, high) in zip(starts, kept, strict=True)
        ]


def tiled(
    field: VelocityField | Sequence[VelocityField], *tilings: Tiling, rows: int = 0
) -> VelocityField:
    """Return a field of large states that evaluates windows and averages where they overlap.

    Averaging velocities is averaging states after an Euler step. The windows' weights are a
    partition of unity: a field that looks at each place alone is unchanged, and so is one that
    looks no further than ``border``.

    Parameters
    ----------
    field : VelocityField, or one for each window
        Of states of the windows' size. One for all gets the windows as rows, ``(windows b, ...)``,
        window by window; with several, each has its own condition.
    *tilings : Tiling
        One for each axis that is cut; windows are counted with the last axis fastest.
    rows : int, default 0
        The most rows of one call; all together with 0.

    References
    ----------
    Lin et al., "AccDiffusion v2: Towards More Accurate Higher-Resolution Diffusion Extrapolation"
    (2024). Bar-Tal et al., "MultiDiffusion" (ICML 2023).
    """
    if not tilings:
        raise ValueError("tiles need an axis, got no tiling; expected at least one.")

    def velocity(x: Tensor, t: float | Tensor) -> Tensor:
        extents = [x.shape[tiling.axis] for tiling in tilings]
        cuts, weights = [], []
        starts = [tiling.starts(n) for tiling, n in zip(tilings, extents, strict=True)]
        shares = [tiling.shares(n) for tiling, n in zip(tilings, extents, strict=True)]
        for index in product(*(range(len(s)) for s in starts)):
            cut: Any = [slice(None)] * x.ndim
            weight = x.new_ones([1] * x.ndim)
            for i, tiling, begin, share in zip(index, tilings, starts, shares, strict=True):
                axis = tiling.axis % x.ndim
                cut[axis] = slice(begin[i], begin[i] + tiling.window)
                form = [1] * x.ndim
                form[axis] = tiling.window
                weight = weight * x.new_tensor(share[i]).reshape(form)
            cuts.append(tuple(cut))
            weights.append(weight)
        parts = _evaluated(field, [x[cut] for cut in cuts], t, rows)
        total = torch.zeros_like(x)
        for cut, weight, part in zip(cuts, weights, parts, strict=True):
            total[cut] += weight * part
        return total

    return velocity  # type: ignore[return-value]


def dilated(
    field: VelocityField,
    factor: int,
    axes: Sequence[int] = (-2, -1),
    *,
    generator: torch.Generator | None = None,
    seen: Callable[[Tensor, float], Tensor] | None = None,
) -> VelocityField:
    """Return a field of large states that evaluates interleaved views, each of the whole at once.

    Parameters
    ----------
    field : VelocityField
        Of states smaller by ``factor`` along each axis; gets the views as rows.
    factor : int
        1 is the field itself.
    axes : sequence of int
        Interleaved axes.
    generator : torch.Generator, optional
        Shuffles, at each place by itself, which view a value is shown in, and undoes it after: so
        that views do not drift apart (window interaction).
    seen : callable, optional
        ``seen(x, t)``: what the network is shown instead of the state, such as :class:`Smoothed`.
    """
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}.")

    def velocity(x: Tensor, t: float) -> Tensor:
        shown = x if seen is None else seen(x, t)
        for axis in axes:
            if x.shape[axis] % factor:
                raise ValueError(
                    f"axes must be multiples of {factor}, got a state of shape {tuple(x.shape)}."
                )
        offsets = list(product(range(factor), repeat=len(axes)))
        cuts = []
        for offset in offsets:
            cut: Any = [slice(None)] * x.ndim
            for axis, first in zip(axes, offset, strict=True):
                cut[axis % x.ndim] = slice(first, None, factor)
            cuts.append(tuple(cut))
        views = torch.stack([shown[cut] for cut in cuts])
        order = None
        if generator is not None:
            drawn = torch.rand(views.shape, generator=generator, device=generator.device)
            order = drawn.argsort(0).to(views.device)
            views = views.gather(0, order)
        out = field(views.flatten(0, 1), t)
        assert isinstance(out, Tensor)
        out = out.unflatten(0, (len(offsets), len(x)))
        if order is not None:
            out = torch.empty_like(out).scatter_(0, order, out)
        whole = torch.empty_like(x)
        for cut, part in zip(cuts, out, strict=True):
            whole[cut] = part
        return whole

    return velocity  # type: ignore[return-value]


@dataclass(frozen=True)
class Smoothed:
    """What dilated views are shown: the state under a Gaussian filter, with its mean and spread.

    The filter is wide at noise and vanishes at the data.

    Parameters
    ----------
    factor : int
        Of the dilation; the kernel has ``2 factor - 1`` taps.
    axes : sequence of int
    width : float, default 0.8
        Standard deviation at t = 0, in places.
    """

    factor: int
    axes: Sequence[int] = (-2, -1)
    width: float = 0.8

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """Return the filtered state."""
        sigma = self.width * (0.99 * cosine(t) + 0.01)
        reach = self.factor - 1
        taps = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(-reach, reach + 1)]
        made = x
        for axis in self.axes:
            moved = made.movedim(axis, -1)
            padded = torch.nn.functional.pad(
                moved.flatten(0, -2)[:, None], (reach, reach), mode="replicate"
            )[:, 0].unflatten(0, moved.shape[:-1])
            total = sum(
                tap / sum(taps) * padded[..., i : i + moved.shape[-1]] for i, tap in enumerate(taps)
            )
            assert isinstance(total, Tensor)
            made = total.movedim(-1, axis)
        inner = tuple(range(1, x.ndim))
        mean, std = x.mean(inner, keepdim=True), x.std(inner, keepdim=True)
        found = made.std(inner, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        return (made - made.mean(inner, keepdim=True)) / found * std + mean


def cosine(t: float) -> float:
    """Return ``(1 + cos(pi t)) / 2``: 1 at noise, 0 at data."""
    return (1 + math.cos(math.pi * t)) / 2


def blended(near: VelocityField, far: VelocityField, *, power: float = 1.0) -> VelocityField:
    """Return the field that follows ``far`` at noise and ``near`` at data."""

    def velocity(x: Tensor, t: float) -> Tensor:
        share = cosine(t) ** power
        return (1 - share) * near(x, t) + share * far(x, t)

    return velocity  # type: ignore[return-value]


@torch.no_grad()
def enlarge(
    field: VelocityField,
    x1: Tensor,
    factor: int,
    *tilings: Tiling,
    generator: torch.Generator,
    steps: int = 50,
    solver: Solver = _EULER,
    power: float = 3.0,
) -> Tensor:
    """Make a larger sample of a small one: AccDiffusion v2's next phase.

    The sample is enlarged and noised; on the way back the state is drawn to the noised enlargement
    early (a skip residual), its layout comes from dilated views and its detail from tiles.

    Parameters
    ----------
    field : VelocityField
        Of the small size.
    x1 : Tensor, shape (b, c, *axes)
        A small sample.
    factor : int
        Along the axis of each tiling.
    *tilings : Tiling
        Of the large size.
    generator : torch.Generator
    steps : int, default 50
    solver : Solver
    power : float, default 3
        Of the skip residual's share.
    """
    axes = [tiling.axis for tiling in tilings]
    large = x1
    for axis in axes:
        large = _stretched(large, factor, axis)
    noise = torch.randn(
        large.shape, generator=generator, dtype=large.dtype, device=generator.device
    )
    noise = noise.to(large)
    shown = Smoothed(factor, axes)
    both = blended(
        tiled(field, *tilings),
        dilated(field, factor, axes, generator=generator, seen=shown if factor > 1 else None),
    )

    def skip(moved: Moved) -> Tensor | None:
        share = cosine(moved.stop) ** power
        if share < 1e-6:
            return None
        assert isinstance(moved.state, Tensor)
        known = moved.stop * large + (1 - moved.stop) * noise
        return torch.lerp(moved.state, known, share)

    made = integrate(both, noise, plan(uniform(steps), solver), hook=skip)
    inner = tuple(range(2, x1.ndim))
    spread = made.std(inner, keepdim=True).clamp_min(torch.finfo(made.dtype).tiny)
    made = (made - made.mean(inner, keepdim=True)) / spread
    return made * x1.std(inner, keepdim=True) + x1.mean(inner, keepdim=True)


def _stretched(x: Tensor, factor: int, axis: int) -> Tensor:
    """Interpolate linearly between the middles of cells, along one axis."""
    size = x.shape[axis]
    at = ((torch.arange(size * factor, device=x.device) + 0.5) / factor - 0.5).clamp(0, size - 1)
    low = at.floor().long().clamp(max=max(size - 2, 0))
    share = (at - low).to(x.dtype)
    moved = x.movedim(axis, -1)
    high = (low + 1).clamp(max=size - 1)
    return torch.lerp(moved[..., low], moved[..., high], share).movedim(-1, axis)


def _evaluated(
    field: VelocityField | Sequence[VelocityField],
    parts: list[Tensor],
    t: float | Tensor,
    rows: int,
) -> list[Tensor]:
    """Evaluate windows, together where one field serves all."""
    if not callable(field):
        if len(field) != len(parts):
            raise ValueError(
                f"one field per window, got {len(field)} fields for {len(parts)} windows."
            )
        return [each(part, t) for each, part in zip(field, parts, strict=True)]
    batch = len(parts[0])
    at_once = max(1, rows // batch) if rows else len(parts)
    out: list[Tensor] = []
    for first in range(0, len(parts), at_once):
        group = parts[first : first + at_once]
        out += field(torch.cat(group), t).split(batch)  # type: ignore[union-attr]
    return out
