"""Rollouts of Kuramoto-Sivashinsky states: one step after the other by a trained network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.costs import Load, Work
from rectiflow.figures import new_figure, save_figure
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.randomness import counter_generator
from rectiflow.results import Result
from rectiflow.storage.faults import FileError
from rectiflow.storage.files import whole_file
from torch import Tensor, nn

from rectiflow_pde.io.trajectories import read_npz
from rectiflow_pde.metrics.errors import Correlation
from rectiflow_pde.metrics.rollouts import agreeing
from rectiflow_pde.networks.circle import CircleUnet
from rectiflow_pde.refinement import OneStep, Refinement, RefinementFlow, Stepping

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

SCALE = 0.3
"""Of the change in a step, as published for Kuramoto-Sivashinsky."""

_BLOWN = 1e3


@dataclass(frozen=True)
class RolloutSettings:
    """What a checkpoint of a stepping network is to be used with.

    Parameters
    ----------
    refinements : int
        Of each step, after the guess; 0 for a network trained by least squares.
    smallest : float
        Variance of the noise in the last of them.
    stride : int
        Frames of the data in a step.
    points : int
        Along the circle in the training.
    spaces, times : tuple of float
        Least and greatest distance of points, and time between frames of the data.
    """

    refinements: int = 3
    smallest: float = 4e-7
    stride: int = 4
    points: int = 256
    spaces: tuple[float, float] = (0.225, 0.275)
    times: tuple[float, float] = (0.18, 0.22)

    @property
    def way(self) -> Stepping:
        """The way that the network was trained for."""
        return Refinement(self.refinements, self.smallest) if self.refinements else OneStep()

    @property
    def flow(self) -> Stepping:
        """The same network as a flow.

        Raises
        ------
        ValueError
            If it was trained by least squares.
        """
        if not self.refinements:
            raise ValueError(
                "these weights were trained by least squares and know one level alone; expected "
                "some with refinements. Leave the flow out."
            )
        return RefinementFlow(self.refinements, self.smallest)


def numbers_of(space: Tensor, time: Tensor) -> Float[Tensor, "b 2"]:
    """Return what the network is told: time and distance, shifted and scaled as published."""
    return torch.stack([(time - 0.15) * 100, (space - 0.2) * 100], -1)


class SteppingObjective(nn.Module):
    """What training of a stepping network minimises, on batches of :class:`Waves`.

    Parameters
    ----------
    network : CircleUnet
    way : Stepping
        PDE-Refiner's, or the plain guess.
    """

    def __init__(self, network: nn.Module, way: Stepping) -> None:
        super().__init__()
        self.network, self.way = network, way

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss."""
        u = batch["u"]
        numbers = numbers_of(batch["space"], batch["time"]).to(u)
        change = (batch["later"] - u) / SCALE
        return {"loss": self.way.loss(self.network, u, change, numbers, generator).mean()}


@dataclass(frozen=True)
class RolloutResult(Result):
    """Rollouts from one state.

    Attributes
    ----------
    indices : list of int
        Number of each sample.
    times : ndarray, shape (f,)
        The first is 0.
    states : ndarray, shape (m, f, n), float32
    length : float
        Of the circle.
    warnings : list of str
    """

    indices: list[int]
    times: np.ndarray
    states: np.ndarray
    length: float
    warnings: list[str]

    def agreement(self) -> Correlation:
        """Return :func:`~rectiflow_pde.metrics.rollouts.agreeing` of the samples."""
        return agreeing(self.states, self.times.tolist())

    def write(self, folder: Path, suffix: str = "", draw: bool = False) -> list[dict[str, Any]]:
        """Write each sample as npz, and with ``draw`` a picture over space and time."""
        rows = []
        for index, states in zip(self.indices, self.states, strict=True):
            name = f"rollout_{index:04d}"
            files = [f"{name}.npz"]
            arrays: dict[str, Any] = {"u": states, "times": self.times, "length": self.length}
            with whole_file(folder / files[0]) as part, part.open("wb") as file:
                np.savez_compressed(file, **arrays)
            if draw:
                files.append(f"{name}.png")
                save_figure(self.figure(states), folder / files[-1])
            rows.append({"name": name, "files": files, "warnings": self.warnings})
        return rows

    def figure(self, states: np.ndarray) -> Figure:
        """Draw a rollout over space and time."""
        figure = new_figure(6.4, 3.0)
        axes = figure.add_subplot(xlabel="time", ylabel="place")
        shown = axes.imshow(
            states.T,
            aspect="auto",
            origin="lower",
            cmap="RdBu_r",
            extent=(0.0, float(self.times[-1]), 0.0, self.length),
        )
        figure.colorbar(shown, ax=axes, label="u")
        return figure


class RolloutPipeline(Pipeline):
    """Steps a state on a circle by a network: PDE-Refiner, or the plain guess.

    Parameters
    ----------
    network : CircleUnet
    settings : RolloutSettings
    dtype : torch.dtype
        float32; the last refinements are below the resolution of anything less.

    References
    ----------
    Lippe et al., "PDE-Refiner: Achieving Accurate Long Rollouts with Neural PDE Solvers"
    (NeurIPS 2023).
    """

    shipped = Path(__file__).parent / "pretrained"
    settings_kind = RolloutSettings
    settings: RolloutSettings

    def __init__(
        self,
        network: CircleUnet,
        *,
        settings: RolloutSettings,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if dtype != torch.float32:
            raise ValueError(f"rollouts are computed in float32, got {dtype}; leave it out.")
        super().__init__({"network": network}, settings=settings, dtype=dtype)

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of the network."""
        return {"network": CircleUnet}

    def work(self, part: str = "") -> Work:
        """Return the stepping of some states, whose tokens are points and calls steps."""
        points = self.settings.points
        sizes = [(b, n) for b in (1, 4) for n in (points // 2, points, 2 * points)]
        return Work(self._run_steps, sizes, (1, 3))

    @torch.no_grad()
    def _run_steps(self, load: Load) -> None:
        u = torch.zeros(load.rows, 1, load.tokens, device=self.device)
        numbers = numbers_of(torch.ones(load.rows), torch.ones(load.rows)).to(u)
        way, draw, found = self.settings.way, partial(torch.randn_like, u), [u]
        for _ in range(load.calls):
            found.append(u + SCALE * way.change(self.network, u, numbers, draw))

    def __call__(
        self,
        state: Float[np.ndarray, " n"],
        *,
        length: float,
        steps: int = 100,
        frame_step: float = 0.2,
        num: int = 1,
        indices: Sequence[int] | None = None,
        way: Stepping | None = None,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> RolloutResult:
        """Roll a state out.

        Parameters
        ----------
        state : ndarray, shape (n,)
            Values around the circle, evenly spaced.
        length : float
            Of the circle.
        steps : int
            Of the network, each as long as ``settings.stride`` frames of the data.
        frame_step : float
            Time of such a frame; the network was told those of its training alone.
        num, indices : int, sequence of int
            Samples; a sample depends on seed and number alone.
        way : Stepping, optional
            ``settings.way`` if absent; ``settings.flow`` is the other.
        seed : int
        progress : callable, optional
            ``progress(done, steps)``.

        Raises
        ------
        ValueError
            If the state cannot be stepped, or a rollout grows without bound.
        """
        began = time.perf_counter()
        way = way or self.settings.way
        wanted = list(range(num)) if indices is None else list(indices)
        start = self._checked(state, length, frame_step)
        if steps < 1 or not wanted:
            raise ValueError(f"steps and num must be at least 1, got {steps} and {len(wanted)}.")
        draws = [counter_generator("rollout", seed, index) for index in wanted]
        u = start.expand(len(wanted), 1, -1)
        found = self.roll(u, length / u.shape[-1], frame_step, steps, draws, way, progress)
        told = {"steps": steps, "way": repr(way), "seed": seed, "frame_step": frame_step}
        return RolloutResult(
            wanted,
            frame_step * self.settings.stride * np.arange(steps + 1),
            found.cpu().numpy(),
            length,
            self.warnings(u.shape[-1], length, frame_step),
            settings=self.describe() | told,
            seconds=time.perf_counter() - began,
        )

    @torch.no_grad()
    def roll(
        self,
        u: Float[Tensor, "b 1 n"],
        space: float | Tensor,
        frame_step: float | Tensor,
        steps: int,
        generators: Sequence[torch.Generator],
        way: Stepping,
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[Tensor, "b f n"]:
        """Step states on, those given first; each has a generator, on the CPU, of its own."""
        space, at = (torch.as_tensor(x).expand(len(u)) for x in (space, frame_step))
        numbers = numbers_of(space, at).to(u)

        def draw() -> Tensor:
            fresh = [torch.randn(u.shape[1:], generator=each) for each in generators]
            return torch.stack(fresh).to(u)

        found = [u]
        for step in range(steps):
            u = u + SCALE * way.change(self.network, u, numbers, draw)
            # As a comparison of NaN is false, this finds that as well.
            if not bool((u.abs() < _BLOWN).all()):
                raise ValueError(
                    f"a rollout grew without bound in step {step + 1} of {steps}: these weights do "
                    "not fit such a state. Roll out fewer steps, or train longer."
                )
            found.append(u)
            if progress is not None:
                progress(step + 1, steps)
        return torch.stack(found, 1)[:, :, 0]

    def warnings(self, points: int, length: float, frame_step: float) -> list[str]:
        """Return where a request lies outside of the training."""
        told, s = [], self.settings
        for name, value, (low, high) in (
            ("the distance of points", length / points, s.spaces),
            ("the time between frames", frame_step, s.times),
        ):
            if not low * 0.99 <= value <= high * 1.01:
                told.append(f"{name} is {value:g}, outside of the training's {low:g} to {high:g}")
        return told

    def _checked(self, state: np.ndarray, length: float, frame_step: float) -> Tensor:
        state, divisor = np.asarray(state), self.network.divisor
        if state.ndim != 1 or len(state) % divisor or len(state) < 4 * divisor:
            raise ValueError(
                f"a state must be one row of values, a multiple of {divisor} and at least "
                f"{4 * divisor}, got shape {state.shape}."
            )
        if state.dtype.kind not in "fiu" or not np.isfinite(state).all():
            raise ValueError("a state must be of finite real numbers; it has others.")
        if not (length > 0 and frame_step > 0):
            raise ValueError(
                f"length and frame_step must be positive, got {length:g} and {frame_step:g}."
            )
        return torch.from_numpy(state.astype(np.float32)).to(self.device)


def read_state(path: str | Path) -> tuple[Float[np.ndarray, " n"], float | None, list[str]]:
    """Read a state around the circle.

    Parameters
    ----------
    path : str or Path
        A ``.npy`` of ``(n,)`` or ``(frames, n)``, or a ``.npz`` with such ``u``, and ``length``
        where it is known. Of several frames the last is taken.

    Returns
    -------
    state : ndarray
    length : float, optional
        As the file has it.
    notes : list of str

    Raises
    ------
    FileError
        If it holds nothing of the kind.
    """
    path = Path(path)
    arrays: Mapping[str, np.ndarray]
    if path.suffix == ".npy":
        try:
            arrays = {"u": np.load(path, allow_pickle=False)}
        except (ValueError, EOFError) as error:
            raise FileError(path, f"is damaged ({error})", "an array", "Write it again.") from error
    else:
        arrays = read_npz(path)
    state = arrays.get("u")
    length = arrays.get("length", np.array(np.nan))
    whole = state is not None and state.ndim in (1, 2) and state.size
    if state is None or not whole or length.size != 1 or length.dtype.kind not in "fiu":
        found = ", ".join(f"{k} {v.shape}" for k, v in arrays.items()) or "nothing"
        expected = "u of (n,) or (frames, n), and one length"
        raise FileError(path, f"holds {found}", expected, "Write it as that.")
    notes = []
    if state.ndim == 2:
        if len(state) > 1:
            notes.append(f"of {len(state)} frames the last is taken")
        state = state[-1]
    return state, float(length.item()) if "length" in arrays else None, notes
