"""A flow in words: the wording of Text2PDE, with the Reynolds number as users define it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

REGIMES = {
    "steady": "The flow is steady.",
    "settling": "The initial disturbance in the wake is decaying.",
    "growing": "Vortex shedding is still growing.",
    "shedding": "The wake sheds vortices periodically.",
}
"""Last sentence of a caption by regime; a flow of unknown regime has none."""

PUBLISHED_VISCOSITY = 1.0533e-6
"""Of water in m²/s, which the published captions are computed with."""


def caption_of(parameters: Mapping[str, float], regime: str = "unknown") -> str:
    """Describe a flow past a cylinder; the radius in centimetres, all else in SI.

    Parameters
    ----------
    parameters : mapping
        ``radius``, ``centre_x``, ``centre_y``, ``u_mean`` and ``reynolds``.
    regime : str
        One of :data:`REGIMES`, or unknown.

    Examples
    --------
    >>> told = {"radius": 0.05, "centre_x": 0.3, "centre_y": 0.2, "u_mean": 1, "reynolds": 100}
    >>> caption_of(told, "steady")  # doctest: +ELLIPSIS
    'Fluid passes over a cylinder with a radius of 5.00 and position: 0.30, 0.20. Fluid enters ...'
    """
    told = parameters
    return (
        f"Fluid passes over a cylinder with a radius of {100 * told['radius']:.2f} and position: "
        f"{told['centre_x']:.2f}, {told['centre_y']:.2f}. Fluid enters with a velocity of "
        f"{told['u_mean']:.2f}. The Reynolds number is {told['reynolds']:.0f}. "
        f"{REGIMES.get(regime, '')}"
    ).rstrip()


def published_caption(parameters: Mapping[str, float]) -> str:
    """Describe a flow in the very words of the published data, which the released weights know.

    Parameters
    ----------
    parameters : mapping
        ``radius``, ``centre_x``, ``centre_y`` and ``u_mean``.

    Raises
    ------
    ValueError
        If one of them is missing.
    """
    missing = [k for k in ("radius", "centre_x", "centre_y", "u_mean") if k not in parameters]
    if missing:
        raise ValueError(
            f"nothing tells {', '.join(missing)} of the flow; expected a prompt with its numbers, "
            "or a mesh with one round obstacle and a prompt with the inflow."
        )
    reynolds = published_reynolds(parameters["u_mean"], parameters["radius"])
    regimes = {200: "fully laminar", 350: "transitioning in the wake"}
    regime = next((word for top, word in regimes.items() if reynolds < top), "turbulent")
    told = {**parameters, "reynolds": reynolds}
    return f"{caption_of(told)} The flow is {regime}."


def published_reynolds(u_mean: float, radius: float) -> float:
    """Reynolds number as the published captions have it, in tens; about 9.49 times the physical.

    ``u_mean (2 radius / 100) / 1.0533e-6``: the diameter in metres is divided by 100 once too
    often, and the viscosity is that of water, where the data have 1e-3 m²/s.

    Examples
    --------
    >>> published_reynolds(1.0, 0.05)
    950.0
    """
    return round(u_mean * (2 * radius / 100) / PUBLISHED_VISCOSITY, -1)


def smoke_caption(density: Float[np.ndarray, "nx ny"], buoyancy: float) -> str:
    """Describe the plumes of a density: where it is above half of its maximum.

    Parts of less than 0.5 % of the box are left out. Published captions are a language model's;
    these say the same of the same density.

    Parameters
    ----------
    density : ndarray, shape (nx, ny)
        ``y`` goes up.
    buoyancy : float
    """
    from scipy.ndimage import center_of_mass, find_objects, label

    labels, _ = label(density > 0.5 * density.max())
    told = []
    for number, box in enumerate(find_objects(labels), 1):
        part = labels == number
        share = float(part.mean())
        if share < 0.005:
            continue
        sides = [s.stop - s.start for s in box]
        x, y = center_of_mass(part)
        where = f"{_third(y, density.shape[1], _UP)} {_third(x, density.shape[0], _ACROSS)}"
        size = "small" if share < 0.02 else "medium" if share < 0.08 else "large"
        shape = "elongated" if max(sides) > 1.6 * min(sides) else "round"
        told.append(f"a {size} {shape} plume at the {where.replace('middle centre', 'centre')}")
    plumes = f"{len(told)} plume{'s' if len(told) != 1 else ''}"
    places = f": {', '.join(told)}" if told else ""
    return f"The buoyancy factor is {buoyancy:.3f}. Smoke rises from {plumes}{places}."


_UP = ("bottom", "middle", "top")
_ACROSS = ("left", "centre", "right")


def _third(place: float, size: int, names: tuple[str, str, str]) -> str:
    return names[min(int(3 * (place + 0.5) / size), 2)]
