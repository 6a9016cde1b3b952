"""The object users hold: words or a first frame in, the whole flow out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from rectiflow.costs import Load, Work
from rectiflow.guidance import RectifiedCFG
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.solvers import Euler, Solver
from rectiflow.spacing import Spacing
from torch import nn

from rectiflow_pde import sampling
from rectiflow_pde.data.captions import published_caption
from rectiflow_pde.guard import Guard, outside, strange
from rectiflow_pde.mesh import Mesh
from rectiflow_pde.networks import (
    LatentTransformer,
    MeshAutoencoder,
    MeshFrameConditioner,
    TextConditioner,
)
from rectiflow_pde.networks.patches import PatchCodec
from rectiflow_pde.networks.simulator import FlowTransformer
from rectiflow_pde.request import Request, make_request
from rectiflow_pde.result import SimulationResult
from rectiflow_pde.settings import SimulationSettings
from rectiflow_pde.trajectory import FIELDS, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float

_SAME = 0.01
"""Relative difference up to which a viscosity is that of the training."""


class SimulationPipeline(Pipeline):
    """Simulates flows past obstacles.

    Parameters
    ----------
    network : FlowTransformer or LatentTransformer
        Of the flow: ours, or the authors' diffusion.
    codec : PatchCodec or MeshAutoencoder
        Of its latents.
    conditioner : MeshFrameConditioner or TextConditioner, optional
        Turns first frames or words into tokens, for the authors' network.
    guard : Guard, optional
        What the weights were trained on.
    settings : SimulationSettings
    dtype : torch.dtype
        ``bfloat16`` runs the flow's network under autocast.

    References
    ----------
    Zhou et al., "Text2PDE: Latent Diffusion Models for Accessible Physics Simulation"
    (arXiv 2410.01153).

    Examples
    --------
    >>> pipe = SimulationPipeline.from_pretrained("small")  # doctest: +SKIP
    >>> flow = pipe("flow past a cylinder of radius 0.05 at Re 120").flows[0]  # doctest: +SKIP
    >>> flow.fields["u"].shape  # frames, nodes  # doctest: +SKIP
    """

    shipped = Path(__file__).parent / "pretrained"
    settings_kind = SimulationSettings
    settings: SimulationSettings

    def __init__(
        self,
        network: FlowTransformer | LatentTransformer,
        codec: PatchCodec | MeshAutoencoder,
        conditioner: MeshFrameConditioner | TextConditioner | None = None,
        guard: Guard | None = None,
        *,
        settings: SimulationSettings,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        parts: dict[str, nn.Module | None] = {"network": network, "codec": codec}
        parts |= {"conditioner": conditioner, "guard": guard}
        super().__init__(parts, settings=settings, dtype=dtype)
        self.codec: Any = codec
        self.conditioner: Any = conditioner
        self.guard = guard

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the classes of flow, codec, conditioner and guard."""
        return {
            "network": (FlowTransformer, LatentTransformer),
            "codec": (PatchCodec, MeshAutoencoder),
            "conditioner": (MeshFrameConditioner, TextConditioner),
            "guard": Guard,
        }

    @classmethod
    def load_official(cls, path: Path, **options: Any) -> Self:
        """Load the authors' checkpoint; see :func:`rectiflow_pde.weights.load_official`."""
        from rectiflow_pde.weights import load_official

        if path.is_dir():
            return super().load_official(path)
        return cls(**load_official(path, **options))

    def work(self, part: str = "words") -> Work:
        """Return the simulation of some flows from words, or with a first ``"frame"``.

        ``"Posterior"`` is assimilation by that method, whose tokens are readings.
        """
        if part in ("words", "frame"):
            run = partial(self._run_simulation, has_frame=part == "frame")
            return Work(run, [(b, 1) for b in (1, 2, 4)])
        sizes = (1, 20), (1, 80), (4, 20), (4, 80)
        return Work(partial(self._run_assimilation, part), sizes, (1, 3))

    def _run_assimilation(self, part: str, load: Load) -> None:
        from rectiflow import inverse

        from rectiflow_pde.assimilation import Expected, assimilate
        from rectiflow_pde.readings import Readings

        draw, count = np.random.default_rng(0), load.tokens
        places = draw.uniform((0.6, 0.05), (1.4, 0.35), (count, 2))
        times = draw.uniform(0, self.times()[-1], count)
        readings = Readings(places, times, np.arange(count) % 3, draw.uniform(0, 1, count))
        method = Expected() if part == "Expected" else getattr(inverse, part)()
        told: Any = {"evaluations": load.calls, "method": method, "num": load.rows}
        assimilate(self, readings, "cylinder of radius 0.05 at Re 100", **told)

    def _run_simulation(self, load: Load, has_frame: bool) -> None:
        from rectiflow_pde.meshing import Channel, mesh_channel

        once: Any = {"num": load.rows, "steps": load.calls, "frames": self.hop + 1}
        if not has_frame:
            self("cylinder of radius 0.05 at Re 100", **once)
            return
        channel = mesh_channel(Channel(0.05, (0.3, 0.2)), 0.02, 0.1)
        frame = np.zeros((channel.n_nodes, len(FIELDS)))
        frame[:, 0] = 1.0
        self(mesh=channel, first_frame=frame, **once)

    def __call__(
        self,
        prompt: str | None = None,
        *,
        mesh: Mesh | None = None,
        first_frame: Float[np.ndarray, "n 3"] | None = None,
        onto: Mesh | None = None,
        viscosity: float | None = None,
        num: int = 1,
        indices: Sequence[int] | None = None,
        frames: int | None = None,
        restart: int | None = None,
        steps: int | None = None,
        solver: Solver | None = None,
        grid: Spacing | None = None,
        guidance: float | None = None,
        rule: RectifiedCFG | None = None,
        seed: int = 0,
        start: float = 0.0,
    ) -> SimulationResult:
        """Simulate a flow.

        Parameters
        ----------
        prompt : str, optional
            The flow in words. With a mesh, what it shows is taken from it.
        mesh : Mesh, optional
            Made from the prompt if absent.
        first_frame : ndarray, shape (n, 3), optional
            u, v (m/s) and p over density (m²/s²) at the nodes of ``mesh``.
        onto : Mesh, optional
            Where the fields are wanted, if not on ``mesh``.
        viscosity : float, optional
            Kinematic, m²/s; 1e-3 unless the prompt tells.
        num : int
            Samples, which differ by their noise.
        indices : sequence of int, optional
            Their numbers, instead of 0 to ``num - 1``: a sample depends on seed and number alone.
        frames : int, optional
            Of the simulation, the first one included; the checkpoint's own if absent. It is made
            stretch by stretch where the network makes fewer at once.
        restart : int, optional
            The frame of each stretch that the next goes on from; the checkpoint's own if absent.
        steps : int, optional
            For each stretch, network calls with Euler's method; the checkpoint's own if absent.
        solver : Solver, optional
            Euler's method if absent.
        grid : Spacing, optional
            Where its steps lie; equal ones if absent.
        guidance : float, optional
            Weight of guidance by the prompt; the checkpoint's own if absent.
        rule : RectifiedCFG, optional
            How it acts, if not as plain classifier-free guidance.
        seed : int
        start : float
            Time of the first frame in s.

        Raises
        ------
        ValueError
            If the request cannot be understood, or is for what cannot be.
        """
        began = time.perf_counter()
        request = make_request(prompt, mesh=mesh, first_frame=first_frame, viscosity=viscosity)
        settings = self.settings
        steps = settings.steps if steps is None else steps
        guidance = settings.guidance if guidance is None else guidance
        wanted = list(range(num)) if indices is None else list(indices)
        if steps < 1 or not wanted:
            raise ValueError(f"steps and num must be at least 1, got {steps} and {len(wanted)}.")
        frames = self.length if frames is None else frames
        hop = self.hop if restart is None else restart
        if frames < 1 or not 1 <= hop <= max(settings.frames - 1, 1):
            raise ValueError(
                f"frames must be at least 1 and restart lie in 1 to {settings.frames - 1}, got "
                f"{frames} and {hop}."
            )
        if guidance != 1.0 and isinstance(self.network, LatentTransformer):
            raise ValueError(
                f"guidance is {guidance:g}, but the authors' networks were never trained without "
                "their condition; expected 1. Leave it out."
            )
        cond = sampling.condition(self, request)
        how: dict[str, Any] = {"solver": solver, "grid": grid, "guidance": guidance, "rule": rule}
        stretches, parts = self.stretches(frames, hop), []
        for number in range(stretches):
            z = self._latents(cond, wanted, steps, seed, stretch=number, **how)
            part = sampling.fields(self, z, onto or request.mesh, request)
            if number + 1 < stretches:
                cond, part = sampling.continued(self, request, cond, z, hop), part[:, : hop + 1]
            parts.append(part[:, 1:] if number else part)  # its first frame stands already
        made = np.concatenate(parts, 1)[:, :frames]
        if request.first_frame is not None and onto is None:
            made[:, 0] = request.first_frame
        told = {
            "first_frame": request.first_frame is not None,
            "steps": steps,
            **({"stretches": stretches, "restart": hop} if stretches > 1 else {}),
            "solver": repr(solver or Euler()),
            "grid": grid and repr(grid),
            "guidance": guidance,
            "rule": rule and repr(rule),
            "seed": seed,
        }
        seconds = time.perf_counter() - began
        mesh = onto or request.mesh
        return self.result(request, made, wanted, told, seconds, mesh=mesh, start=start)

    @property
    def length(self) -> int:
        """Return the frames of a simulation, unless told otherwise."""
        return self.settings.length or self.settings.frames

    @property
    def hop(self) -> int:
        """Return which frame of a stretch the next goes on from, unless told otherwise."""
        return self.settings.restart or max(self.settings.frames - 1, 1)

    def stretches(self, frames: int | None = None, restart: int | None = None) -> int:
        """Return how many stretches a simulation of so many frames is made of."""
        frames, hop = frames or self.length, restart or self.hop
        return max(-(-(frames - 1) // hop), 1)

    def times(self, start: float = 0.0, frames: int | None = None) -> Float[np.ndarray, " t"]:
        """Return the seconds of so many frames, those of a stretch if absent."""
        return start + self.settings.frame_step * np.arange(frames or self.settings.frames)

    def result(
        self,
        request: Request,
        made: Float[np.ndarray, "b t n 3"],
        indices: list[int],
        told: dict[str, Any],
        seconds: float,
        *,
        mesh: Mesh | None = None,
        start: float = 0.0,
    ) -> SimulationResult:
        """Return the fields of some samples as flows, with ``told`` of how they were made."""
        fields = [{name: each[..., i] for i, name in enumerate(FIELDS)} for each in made]
        where = mesh or request.mesh, self.times(start, made.shape[1])
        asked = request.numbers, request.prompt
        flows = [Trajectory(*where, each, *asked) for each in fields]
        settings = self.describe() | {"prompt": request.prompt, **told}
        warnings = self.warnings(request)
        return SimulationResult(indices, flows, warnings, settings=settings, seconds=seconds)

    def warnings(self, request: Request) -> list[str]:
        """Return how a request was understood, and where it lies outside of the training."""
        told, numbers, settings = [*request.notes], request.numbers, self.settings
        if self.reads_words:
            told.append(f"the weights are told: {published_caption(numbers)}")
        viscosity = numbers.get("viscosity", settings.viscosity)
        if not settings.scaling.by_inflow and abs(viscosity / settings.viscosity - 1) > _SAME:
            told.append(
                f"the viscosity is {viscosity:g} m²/s, and these weights know that of their "
                f"training alone, {settings.viscosity:g}: the result is of that"
            )
        told += strange(request.mesh, settings.scaling, request.first_frame)
        if self.guard is None:
            return [*told, *outside(numbers, settings.scaling)]
        latent = sampling.first_latent(self, request)
        return [*told, *self.guard.judge(numbers, settings.scaling, latent)]

    @property
    def reads_words(self) -> bool:
        """Whether the network is told words, and no first frame: the authors' text diffusion."""
        return isinstance(self.conditioner, TextConditioner)

    def _latents(
        self,
        cond: dict[str, torch.Tensor],
        indices: list[int],
        steps: int,
        seed: int,
        **how: Any,
    ) -> torch.Tensor:
        enabled = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype if enabled else None, enabled=enabled):
            return sampling.latents(self, cond, indices, steps=steps, seed=seed, **how).float()
