"""How good simulated flows are, beside guesses that know no physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rectiflow.evaluation import Evaluation

from rectiflow_pde.mesh import NodeType
from rectiflow_pde.metrics.ensembles import calibration, coverage, crps
from rectiflow_pde.metrics.errors import correlation, relative_l2
from rectiflow_pde.metrics.interpolation import interpolation
from rectiflow_pde.metrics.mesh_fields import divergence
from rectiflow_pde.metrics.shedding import shedding
from rectiflow_pde.request import obstacle_of
from rectiflow_pde.trajectory import FIELDS, Trajectory

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_pde.pipeline import SimulationPipeline

_PROBE = 1.5
"""Diameters behind the middle of the obstacle, where shedding is listened to."""


@dataclass(frozen=True)
class Guess:
    """A way to simulate a true flow from its first frame.

    ``simulate(flow)`` returns ``(frames, n, 3)``, or several such samples before each other.
    """

    name: str
    simulate: Callable[[Trajectory], Float[np.ndarray, "*m f n 3"]]


def persistence(flow: Trajectory) -> Float[np.ndarray, "f n 3"]:
    """Repeat the first frame."""
    return np.repeat(flow.stacked[:1], len(flow.times), 0)


def time_mean(flow: Trajectory) -> Float[np.ndarray, "f n 3"]:
    """Repeat the mean of the true frames: the best guess that stands still, which knows them."""
    return np.repeat(flow.stacked.mean(0, keepdims=True), len(flow.times), 0)


def by_pipeline(
    pipe: SimulationPipeline,
    *,
    steps: int,
    seed: int = 0,
    index: int = 0,
    members: int = 1,
    name: str = "",
    **options: Any,
) -> Guess:
    """Return the guess of a checkpoint, given the first frame, or the caption if it reads words.

    Parameters
    ----------
    pipe : SimulationPipeline
    steps, seed : int
        Network calls, and the key of the noise.
    index : int
        Of the first sample, in units of ``members``.
    members : int
        Samples of each flow.
    name : str
        Before the number of steps in the guess's own.
    **options
        Further ones of a call: ``solver``, ``grid``, ``guidance``.
    """

    def simulate(flow: Trajectory) -> Float[np.ndarray, "*m f n 3"]:
        made = pipe(
            flow.caption if pipe.reads_words else None,
            mesh=flow.mesh,
            first_frame=None if pipe.reads_words else flow.stacked[0],
            viscosity=flow.parameters["viscosity"],
            frames=pipe.settings.frames if pipe.reads_words else len(flow.times),
            steps=steps,
            seed=seed,
            indices=range(index * members, (index + 1) * members),
            **options,
        )
        samples = np.stack([each.stacked for each in made.flows])
        return samples if members > 1 else samples[0]

    return Guess(f"{name} {steps} steps".strip(), simulate)


def calibrated(flow: Trajectory, members: Float[np.ndarray, "m f n 3"]) -> dict[str, float]:
    """Measure whether the spread of samples tells their error, in the velocity of the fluid.

    Lengths are in units of the mean inflow; the given frame and boundaries do not count.
    """
    fluid = flow.mesh.node_type == NodeType.FLUID
    speed = flow.parameters.get("u_mean", 1.0)
    drawn, true = (x[..., 1:, fluid, :2] / speed for x in (members, flow.stacked))
    found = calibration(drawn, true)
    told = {"spread": found.spread, "skill": found.skill, "spread_skill": found.corrected}
    return told | {"coverage": coverage(drawn, true), "crps": crps(drawn, true)[1]}


def frequency(flow: Trajectory, stacked: Float[np.ndarray, "f n 3"]) -> tuple[float | None, str]:
    """Return the shedding frequency in 1/s and the regime, from v behind the obstacle."""
    seen = obstacle_of(flow.mesh)
    if not seen:
        return None, "unknown"
    place = [[seen["centre_x"] + 2 * _PROBE * seen["radius"], seen["centre_y"]]]
    signal = interpolation(flow.mesh, np.array(place))(stacked[..., 1])[:, 0]
    told = {"scale": flow.parameters.get("u_mean", 1.0)}
    found = shedding(flow.times, signal, reynolds=flow.parameters.get("reynolds"), **told)
    return found.frequency, found.regime


def evaluate(
    flows: Mapping[str, Trajectory],
    guesses: Sequence[Guess],
    *,
    frames: int,
    step: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measure guesses of true flows from their first frames.

    Parameters
    ----------
    flows : mapping of str to Trajectory
        The truth, by name.
    guesses : sequence of Guess
    frames : int
        How many frames of each flow are compared, the given first one included.
    step : float, optional
        Seconds between them; those between the frames of the flow if absent.
    progress : callable, optional
        ``progress(done, total)``.

    Returns
    -------
    Evaluation
        A row for each flow and guess; means for all flows, and for those that shed and those that
        do not apart.
    """
    rows: list[dict[str, Any]] = []
    total = len(flows) * len(guesses)
    for name, whole in flows.items():
        flow = cut(whole, frames, step)
        truth, regime = frequency(flow, flow.stacked)
        for guess in guesses:
            members = guess.simulate(flow)[..., : len(flow.times), :, :]
            found = members if members.ndim == 3 else members[0]
            row: dict[str, Any] = {"name": name, "method": guess.name, "regime": regime}
            error = relative_l2(found, flow.stacked, given_frames=1)
            row["relative_l2"] = error.without_given
            later = relative_l2(found[1:], flow.stacked[1:])
            row |= {f"relative_l2_{f}": e for f, e in zip(FIELDS, later.per_channel, strict=True)}
            together = correlation(found[..., 1], flow.stacked[..., 1], flow.times)
            row["correlation_time"] = together.time()
            row["divergence"] = float(divergence(flow.mesh, found[-1, :, 0], found[-1, :, 1]).ratio)
            own, _ = frequency(flow, found) if truth else (None, "")
            row["frequency_error"] = abs(own / truth - 1) if own and truth else None
            if members.ndim > 3:
                row |= calibrated(flow, members)
                mean = relative_l2(members.mean(0), flow.stacked, given_frames=1)
                row["relative_l2_of_mean"] = mean.without_given
            rows.append(row)
            if progress is not None:
                progress(len(rows), total)
    return Evaluation(rows, summarise(rows))


def cut(flow: Trajectory, frames: int, step: float | None = None) -> Trajectory:
    """Return the first frames of a flow, ``step`` seconds apart if given.

    Raises
    ------
    ValueError
        If it has no frames so far apart.
    """
    stride = 1 if step is None else flow.stride(step)
    if stride is None:
        raise ValueError(
            f"frames are {flow.frame_step:g} s apart; expected {step:g} s, which the weights make, "
            "or a whole part of it. Prepare the flow with such a step, or use other weights."
        )
    some = slice(0, frames * stride, stride)
    fields = {name: values[some] for name, values in flow.fields.items()}
    return Trajectory(flow.mesh, flow.times[some], fields, flow.parameters, flow.caption)


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return means by method: of all flows, of shedding and of settling ones."""
    told: dict[str, Any] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        groups = {
            "all": own,
            "shedding": [row for row in own if row["regime"] == "shedding"],
            "settling": [row for row in own if row["regime"] != "shedding"],
        }
        told[method] = {
            name: {
                "flows": len(group),
                "relative_l2": _mean([row["relative_l2"] for row in group]),
                "divergence": _mean([row["divergence"] for row in group]),
                "frequency_error": _mean([row["frequency_error"] for row in group]),
                **_spread(group),
            }
            for name, group in groups.items()
            if group
        }
    return told


def _spread(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Join what samples of each flow tell of their spread; nothing where there was one of each."""
    if "spread" not in rows[0]:
        return {}
    spread, skill = (np.sqrt(np.mean([row[k] ** 2 for row in rows])) for k in ("spread", "skill"))
    larger = rows[0]["spread_skill"] * rows[0]["skill"] / max(rows[0]["spread"], 1e-12)
    ratio = float(larger * spread / skill) if skill else None
    means = ("coverage", "crps", "relative_l2_of_mean")
    return {"spread_skill": ratio} | {name: _mean([row[name] for row in rows]) for name in means}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
