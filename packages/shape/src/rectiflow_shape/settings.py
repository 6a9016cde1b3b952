"""What a checkpoint is to be used with."""

from __future__ import annotations

from dataclasses import dataclass

_RANGES: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000),
    "guidance": (0.0, 100.0),
    "tokens": (1, 65_536),
    "shift": (0.01, 100.0),
    "depth": (4, 10),
}
"""Of settings, beyond which a checkpoint is damaged or asks for more memory than there is."""


@dataclass(frozen=True)
class ShapeSettings:
    """What a checkpoint is to be used with; stored beside its weights.

    Parameters
    ----------
    steps : int
        Of the solver, unless told otherwise.
    guidance : float
        Weight of guidance, unless told otherwise; 1 is none.
    tokens : int
        Of a sample, unless told otherwise.
    shift : float
        Of the grid of times; above 1, steps are dense near the noise.
    depth : int
        Surfaces are extracted on a lattice of ``2 ** depth`` cells a side, unless told otherwise.
    text_encoder : str, optional
        Name or folder, for :meth:`rectiflow.conditioning.TextEncoder.load`; None where the
        condition is no text.
    classes : tuple of str
        Categories that were trained on, in the order of their labels.
    """

    steps: int = 50
    guidance: float = 1.0
    tokens: int = 2048
    shift: float = 1.0
    depth: int = 7
    text_encoder: str | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        if not all(isinstance(name, str) and name for name in self.classes):
            raise ValueError(f"classes must be names, got {self.classes!r}.")
        if self.text_encoder is not None and not isinstance(self.text_encoder, str):
            raise ValueError(f"text_encoder must be a name, got {self.text_encoder!r}.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            kinds = (int, float) if name in ("guidance", "shift") else int
            if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
                raise ValueError(f"{name} must lie in {low:g} to {high:g}, got {value!r}.")
