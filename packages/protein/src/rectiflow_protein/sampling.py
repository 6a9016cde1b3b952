"""One request carried out: batches of similar length from noise to backbones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.integrate import Moved, integrate, plan
from rectiflow.randomness import KeyedNoise, counter_generator
from rectiflow.rectify import Jump
from rectiflow.solvers import Solver
from rectiflow.states import State
from torch import Tensor

from rectiflow_protein.constraints import Chains, Correction, Predict
from rectiflow_protein.flow import FRAME_PATH, PRIOR_SCALE, START_TIME
from rectiflow_protein.frames import FRAME_SPACE, atoms_from_frames, centre
from rectiflow_protein.result import BackboneSample

if TYPE_CHECKING:
    from jaxtyping import Float
    from rectiflow.plans import Plan

PADDING = 0.1
"""Chains up to this much shorter than the longest share its batch."""


def draw_noise(length: int, seed: int, index: int) -> dict[str, Tensor]:
    """Draw the initial frames of a sample, on the CPU.

    Translations are normal with 10 Å per axis and centred, rotations uniform.
    """
    generator = counter_generator("sample", seed, index)
    z = torch.randn(length, 3, generator=generator)
    rot = FRAME_SPACE.parts["rot"].prior((length,), generator=generator)
    assert isinstance(rot, Tensor)
    return {"trans": PRIOR_SCALE * centre(z), "rot": rot}


def sampling_plan(steps: int, solver: Solver, *, is_map: bool = False) -> Plan | None:
    """Return the moves of ``steps`` network calls, of which one is the last; None for one alone.

    A network of maps jumps, and makes no call after its last move.
    """
    count = steps if is_map else steps - 1
    if not count:
        return None
    return plan(np.linspace(START_TIME, 1.0, count + 1), Jump() if is_map else solver)


@dataclass(frozen=True)
class ChainNoise(KeyedNoise):
    """Draws of chains of several lengths: padding changes no sample's; translations are centred."""

    lengths: Sequence[int] = ()

    def like(self, x: State, stage: int = 0) -> State:
        """Draw ``trans`` and ``rot``, each of shape (b, n, 3)."""
        assert isinstance(x, dict)
        trans, rot = [], []
        for index, length in zip(self.samples, self.lengths, strict=True):
            generator = counter_generator("fresh", self.seed, index, self.step)
            z = torch.randn(2, length, 3, generator=generator)
            trans.append(centre(z[0]))
            rot.append(z[1])
        longest, zero = x["trans"].shape[1], [0.0, 0.0, 0.0]
        device = x["trans"].device
        return {
            "trans": _stack(trans, longest, zero).to(device),
            "rot": _stack(rot, longest, zero).to(device),
        }


class SampleBatch:
    """One batch on its way; lives for one call."""

    def __init__(
        self,
        network: Predict,
        chains: Chains,
        last_time: float | None,
        corrections: Sequence[Correction],
        trajectory: bool,
        tick: Callable[[], None],
    ) -> None:
        device, lengths = chains.device, chains.lengths
        named = zip(lengths, chains.indices, strict=True)
        self.noise = noise = [draw_noise(length, chains.seed, index) for length, index in named]
        self.network, self.chains, self.tick = network, chains, tick
        self.last_time, self.corrections, self.keep = last_time, corrections, trajectory
        longest = max(lengths)
        self.mask = None
        if min(lengths) < longest:
            rows = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
            self.mask = rows.float().to(device)
        self.x0 = {
            "trans": _stack([x["trans"] for x in noise], longest, [0.0, 0.0, 0.0]).to(device),
            "rot": _stack([x["rot"] for x in noise], longest, [1.0, 0.0, 0.0, 0.0]).to(device),
        }
        number = torch.arange(longest, dtype=torch.float32, device=device)
        self.res_idx = number.expand(len(noise), longest)
        self.prediction: dict[str, Tensor] | None = None
        self.states: list[dict[str, Tensor]] = []
        self.predictions: list[dict[str, Tensor]] = []

    def predict(self, x: dict[str, Tensor], t: float, *until: float) -> dict[str, Tensor]:
        """Call the network, conditioned on what it predicted last; one of maps, on where to go."""
        told: dict[str, Any] = {"res_idx": self.res_idx, "res_mask": self.mask}
        if self.prediction is not None and not until:
            # A compiled network that replays a CUDA graph reuses its output buffers: keep a copy.
            told["trans_sc"] = self.prediction["trans"].clone()
        times = torch.full((len(self.noise),), t, device=self.res_idx.device)
        if until:
            told["until"] = torch.full_like(times, *until)
        prediction = self.network(x, times, **told)
        for correct in self.corrections:
            prediction = correct(prediction, t, self.mask)
        self.prediction = prediction
        self.tick()
        if self.keep:
            self.predictions.append({k: v.clone() for k, v in prediction.items()})
        return prediction

    def velocity(self, x: State, t: float | Tensor, *until: float | Tensor) -> State:
        """Head for the prediction; padding stays where it is."""
        assert isinstance(x, dict)
        found = self.predict(x, float(t), *map(float, until))
        v: Any = FRAME_PATH.from_data(found, x, float(t))
        if self.mask is None:
            return v
        return {name: part * self.mask.unsqueeze(-1) for name, part in v.items()}

    def record(self, moved: Moved) -> None:
        """Keep the state a move ended in."""
        if self.keep:
            assert isinstance(moved.state, dict)
            self.states.append({k: v.clone() for k, v in moved.state.items()})

    @torch.no_grad()
    def run(self, moves: Plan | None) -> Iterator[BackboneSample]:
        """Integrate, make the last call, and take the samples apart."""
        seed, indices, lengths = self.chains.seed, self.chains.indices, self.chains.lengths
        x: Any = self.x0
        if self.keep:
            self.states.append(self.x0)
        if moves is not None:
            noise = ChainNoise(seed, indices, lengths=lengths)
            x = integrate(
                self.velocity,
                x,
                moves,
                space=FRAME_SPACE,
                noise=noise,
                hook=self.record,
            )
        before = START_TIME if moves is None else moves.moves[-1].start
        last = before if self.last_time is None else self.last_time
        jumped = moves is not None and isinstance(moves.moves[-1].solver, Jump)
        ended = x if jumped else self.predict(x, last)  # the last jump ends at the chain
        final = {k: v.clone() for k, v in ended.items()}
        movies = [self._movie(self.states), self._movie(self.predictions)]
        atoms = atoms_from_frames(final, self.mask).cpu().numpy()
        for row, (index, begin) in enumerate(zip(indices, self.noise, strict=True)):
            n = len(begin["trans"])
            states, predictions = (m if m is None else m[:, row, :n] for m in movies)
            frames = {name: part[row, :n].cpu() for name, part in final.items()}
            sample = BackboneSample(index, atoms[row, :n], frames, begin, states, predictions)
            for correct in self.corrections:
                sample = correct.finish(row, sample)
            yield sample

    def _movie(self, frames: list[dict[str, Tensor]]) -> np.ndarray | None:
        if not frames:
            return None
        return np.stack([atoms_from_frames(x, self.mask).cpu().numpy() for x in frames])


def _stack(parts: list[Tensor], longest: int, fill: list[float]) -> Float[Tensor, "b n c"]:
    padding = torch.tensor(fill)
    return torch.stack([torch.cat([p, padding.expand(longest - len(p), -1)]) for p in parts])


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group rows of similar length, longest first, within a budget of residue pairs."""
    order = sorted(range(len(lengths)), key=lambda r: -lengths[r])
    group: list[int] = []
    for row in order:
        if group:
            longest = lengths[group[0]]
            too_many = (len(group) + 1) * longest**2 > budget
            if too_many or lengths[row] < longest * (1 - PADDING):
                yield group
                group = []
        group.append(row)
    if group:
        yield group
