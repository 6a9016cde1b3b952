"""What a training looks at now and then: held-out flows, simulated from their first frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rectiflow.figures import save_figure
from torch import nn

from rectiflow_pde.data.datamodule import SimulationData
from rectiflow_pde.evaluation import by_pipeline, cut, persistence
from rectiflow_pde.metrics.errors import relative_l2
from rectiflow_pde.networks.patches import PatchCodec
from rectiflow_pde.networks.simulator import FlowTransformer
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.plots import frame_figure
from rectiflow_pde.settings import SimulationSettings
from rectiflow_pde.trajectory import FIELDS, Trajectory


class SimulationValidation:
    """Simulates held-out flows with the network in training, measures them, draws one.

    Goes into ``fit(..., evaluate=SimulationValidation(...))``. The picture goes into
    ``samples/step_<step>.png`` of the run folder.

    Parameters
    ----------
    codec : PatchCodec
    data : SimulationData
        Its held-out flows are simulated.
    num, steps, seed : int
        How many flows, network calls for each, and the key of their noise.
    """

    def __init__(
        self,
        codec: PatchCodec,
        data: SimulationData,
        *,
        num: int = 8,
        steps: int = 10,
        seed: int = 0,
    ) -> None:
        if num < 1 or steps < 1:
            raise ValueError(f"num and steps must be at least 1, got {num} and {steps}.")
        self.codec = codec
        self.settings = SimulationSettings(
            data.scaling, data.raster, frames=data.frames, frame_step=data.frame_step
        )
        self.flows = [cut(flow, data.frames, data.frame_step) for flow in data.held_out[:num]]
        self.steps, self.seed = steps, seed

    def __call__(self, network: nn.Module, step: int, run_dir: Path) -> dict[str, float]:
        """Return mean ``relative_l2`` and that of persistence, and write the picture."""
        assert isinstance(network, FlowTransformer)
        pipe = SimulationPipeline(network, self.codec, settings=self.settings)
        guess = by_pipeline(pipe, steps=self.steps, seed=self.seed)
        made = [guess.simulate(flow) for flow in self.flows]
        first = self.flows[0]
        fields = {name: made[0][..., i] for i, name in enumerate(FIELDS)}
        drawn = Trajectory(first.mesh, first.times, fields, first.parameters)
        figure = frame_figure([("simulated", drawn), ("true", first)], len(first.times) - 1)
        folder = Path(run_dir) / "samples"
        folder.mkdir(exist_ok=True)
        save_figure(figure, folder / f"step_{step:07d}.png")
        still = [persistence(flow) for flow in self.flows]
        return {
            "relative_l2": _mean(made, self.flows),
            "relative_l2_persistence": _mean(still, self.flows),
        }


def _mean(found: list[np.ndarray], flows: list[Trajectory]) -> float:
    pairs = zip(found, flows, strict=True)
    errors = [relative_l2(a, b.stacked, given_frames=1).without_given for a, b in pairs]
    return float(np.mean([error for error in errors if error is not None]))
