"""What a training looks at now and then: a few generated shapes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from rectiflow_shape.pipeline import ShapePipeline
from rectiflow_shape.plots import save_sheet
from rectiflow_shape.request import Asked
from rectiflow_shape.result import ShapeResult
from rectiflow_shape.settings import ShapeSettings

log = logging.getLogger(__name__)


class SampleValidation:
    """Samples shapes from the network in training and keeps their meshes to look at.

    Goes into ``fit(..., evaluate=SampleValidation(...))``; files go into ``samples/step_<step>``
    of the run folder. Every validation starts from the same noise.

    Parameters
    ----------
    vae : TripoSGVae, optional
        Of latents; mosaics have none.
    num, steps, depth : int
        How many shapes, of the solver and of the lattice.
    seed : int
        Of the noise.
    categories : sequence of str, optional
        What to ask for, by turns; all that the data has if absent.

    Attributes
    ----------
    settings : ShapeSettings
        What the export will be used with.
    """

    def __init__(
        self,
        vae: Any = None,
        *,
        num: int = 4,
        steps: int = 20,
        depth: int = 6,
        seed: int = 0,
        categories: Sequence[str] = (),
    ) -> None:
        if num < 1 or steps < 1:
            raise ValueError(f"num and steps must be at least 1, got {num} and {steps}.")
        self.vae, self.settings, self.num = vae, ShapeSettings(), num
        self.options: dict[str, Any] = {"steps": steps, "depth": depth, "seed": seed}
        self.categories = list(categories)

    def __call__(self, network: nn.Module, step: int, run_dir: Path) -> dict[str, float]:
        """Return the share of shapes in one part, and write the meshes."""
        pipe = ShapePipeline(network, self.vae, settings=self.settings)  # type: ignore[arg-type]
        made, failed = [], 0
        kinds = self.categories or self.settings.classes
        for index in range(self.num):
            category = kinds[index % len(kinds)] if kinds else None
            try:
                made += pipe(Asked(index, category), **self.options).samples
            except ValueError as error:  # no surface at all, early in a training
                log.warning("step %d, sample %d: %s", step, index, error)
                failed += 1
        found = {"failed": failed / self.num}
        if made:
            folder = Path(run_dir) / "samples" / f"step_{step:07d}"
            ShapeResult(made, settings=self.options).save(folder)
            save_sheet([sample.mesh for sample in made], folder / "sheet.png")
            parts = [sample.told["certificate"]["components"] for sample in made]
            found["one_part"] = sum(part == 1 for part in parts) / len(parts)
        return found
