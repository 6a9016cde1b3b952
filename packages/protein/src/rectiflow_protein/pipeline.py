"""The object users hold: lengths in, protein backbones out."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import torch
from rectiflow.integrate import Step, integrate, plan
from rectiflow.randomness import counter_generator
from rectiflow.solvers import Solver
from rectiflow.states import State
from rectiflow.storage.pretrained import find_pretrained, weights_hash
from torch import Tensor

from rectiflow_protein.flow import (
    PRIOR_SCALE,
    START_TIME,
    FrameAncestral,
    FrameEuler,
    endpoint_velocity,
)
from rectiflow_protein.frames import FRAME_SPACE, atoms_from_frames, centre
from rectiflow_protein.motif import Motif, MotifFrames, motif_atoms
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.residues import ATOM5, BACKBONE_ATOMS

if TYPE_CHECKING:
    from jaxtyping import Float

    from rectiflow_protein.io import Backbone

log = logging.getLogger(__name__)

_NO_CB = [ATOM5.index(atom) for atom in BACKBONE_ATOMS]

PRETRAINED = Path(__file__).parent / "pretrained"
"""Checkpoints that ship with the package, by folder name."""

PADDING = 0.1
"""Chains up to this much shorter than the longest share its batch."""

PAIRS_PER_BATCH = {"cpu": 2**16, "cuda": 2**22}
"""Residue pairs in a batch, by device: what fits the cache, or a few gigabytes."""


class Correction(Protocol):
    """Changes what the network predicts, before it is followed and shown to the next call."""

    def __call__(
        self, frames: dict[str, Tensor], t: float, mask: Float[Tensor, "b n"] | None = None
    ) -> dict[str, Tensor]:
        """Return the clean frames to go for, given those predicted at time t."""
        ...


@dataclass(frozen=True)
class BackboneSample:
    """One generated backbone.

    Attributes
    ----------
    index : int
        Number of the sample; with the seed it fixes the noise, whatever the batch.
    atoms : ndarray, shape (n, 5, 3)
        Ångström; N, CA, C, CB, O of poly-alanine.
    frames, noise : dict of Tensor
        Final and initial frames, ``trans (n, 3)`` and ``rot (n, 4)``.
    trajectory : ndarray, shape (steps, n, 5, 3), optional
        Atoms of the states, noise first.
    predictions : ndarray, shape (steps, n, 5, 3), optional
        Atoms of the clean chain as predicted at each step.
    sequence : str, optional
        One-letter; alanine except for residues of a motif. All alanine if absent.
    motif : tuple of int
        Rows of a motif's residues, in its order.
    """

    index: int
    atoms: np.ndarray
    frames: dict[str, Tensor]
    noise: dict[str, Tensor]
    trajectory: np.ndarray | None = None
    predictions: np.ndarray | None = None
    sequence: str | None = None
    motif: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Return the stem of the sample's files."""
        return f"length_{len(self.atoms):03d}_sample_{self.index:05d}"


@dataclass(frozen=True)
class BackboneResult:
    """Generated backbones and how they were made.

    Attributes
    ----------
    samples : list of BackboneSample
        In the order of the lengths that were asked for.
    seconds : float
        Sampling time.
    settings : dict
        Seed, steps, network calls per sample, solver and hash of the weights.
    """

    samples: list[BackboneSample]
    seconds: float
    settings: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path | str, *, suffix: str = ".pdb") -> list[Path]:
        """Write a structure per sample, its trajectories if recorded, and ``result.json``.

        Parameters
        ----------
        folder : Path or str
            Made if absent.
        suffix : str
            ``.pdb`` or ``.cif``.

        Returns
        -------
        list of Path
            The structures.
        """
        from rectiflow_protein.io import write_structure

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        written = []
        for sample in self.samples:
            path = target / f"{sample.name}{suffix}"
            write_structure(path, _backbone(sample.atoms, sample.name, sample.sequence))
            written.append(path)
            movies = {"trajectory": sample.trajectory, "predictions": sample.predictions}
            for name, movie in movies.items():
                if movie is not None:
                    models = [_backbone(atoms, sample.name, sample.sequence) for atoms in movie]
                    write_structure(target / f"{sample.name}_{name}{suffix}", models)
        summary = {
            **self.settings,
            "seconds": round(self.seconds, 3),
            "samples": [
                {"file": path.name, "index": s.index, "length": len(s.atoms)}
                | ({"motif": [row + 1 for row in s.motif]} if s.motif else {})
                for path, s in zip(written, self.samples, strict=True)
            ],
        }
        partial = target / ".result.json.partial"
        partial.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, target / "result.json")
        return written


class BackbonePipeline:
    """Generates protein backbones with a ReQFlow network.

    Parameters
    ----------
    network : ReQFlowNetwork
        On the device where sampling is to run.

    References
    ----------
    Yue et al., "ReQFlow: Rectified Quaternion Flow for Efficient and High-Quality Protein
    Backbone Generation" (ICML 2025, arXiv 2502.14637).

    Examples
    --------
    >>> pipe = BackbonePipeline.from_pretrained("small")  # doctest: +SKIP
    >>> result = pipe([80, 80, 100], steps=50, seed=0)  # doctest: +SKIP
    >>> result.samples[0].atoms.shape  # doctest: +SKIP
    (80, 5, 3)
    """

    def __init__(self, network: ReQFlowNetwork) -> None:
        self.network = network.eval()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: Path | str,
        *,
        device: torch.device | str = "cpu",
        edge_dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Load a pipeline.

        Parameters
        ----------
        name_or_path : Path or str
            A checkpoint that ships with the package (``"small"``), a folder written by
            ``save_pretrained``, the authors' checkpoint or its folder, or ``owner/name`` on the
            hub.
        device : device
            Where to run.
        edge_dtype : torch.dtype
            ``bfloat16`` makes the edge updates cheaper; see the model card for its error.

        Raises
        ------
        FileNotFoundError
            When nothing of that name is found; the message lists what ships.
        CheckpointError
            When the weights do not fit.
        """
        path = find_pretrained(name_or_path, PRETRAINED)
        if (path / "config.json").is_file():
            network = ReQFlowNetwork.from_pretrained(path)
        else:
            from rectiflow_protein.weights import load_official

            network = load_official(path)
        network.edge_dtype = edge_dtype
        return cls(network.to(device))

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return next(self.network.parameters()).device

    def compile(self) -> Self:
        """Compile the network, as CUDA graphs on a GPU; each batch shape compiles once."""
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.network.compile(dynamic=False, mode=mode)
        return self

    def __call__(
        self,
        lengths: Sequence[int],
        *,
        steps: int = 50,
        solver: Solver | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        last_time: float | None = None,
        corrections: Sequence[Correction] = (),
        motif: Motif | None = None,
        max_pairs: int | None = None,
        trajectory: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> BackboneResult:
        """Generate one backbone for each length.

        Parameters
        ----------
        lengths : sequence of int
            Residues of each sample, in any order.
        steps : int
            The authors' ``num_timesteps``: one fewer moves, and a last network call whose
            prediction is the sample. With Euler's method, the network calls per sample.
        solver : Solver, optional
            The authors' :class:`~rectiflow_protein.flow.FrameEuler` with the exponential rotation
            schedule if absent. Any core solver that allows curved spaces will do.
        seed : int
            With the index of a sample, fixes its noise.
        indices : sequence of int, optional
            Numbers of the samples; ``0, 1, ...`` if absent. Samples do not depend on which others
            are made in the same call.
        last_time : float, optional
            Time given to the last call. The authors repeat the time of the call before it, which
            is the default.
        corrections : sequence of Correction
            Applied to each prediction in turn, such as
            :class:`~rectiflow_protein.repulsion.Repulsion`.
        motif : Motif, optional
            Residues that stand in every sample as they are given; where, is drawn for each sample.
        max_pairs : int, optional
            Largest batch times squared length; chosen by device if absent.
        trajectory : bool
            Keep every state and prediction.
        progress : callable, optional
            Called with network calls done and in all.

        Returns
        -------
        BackboneResult

        Raises
        ------
        ValueError
            When a length, the number of steps or the indices are out of range.
        """
        indices = list(range(len(lengths))) if indices is None else list(indices)
        _check(lengths, steps, indices)
        solver = FrameEuler() if solver is None else solver
        budget = max_pairs or PAIRS_PER_BATCH["cuda" if self.device.type == "cuda" else "cpu"]
        groups = list(_batches(lengths, budget))
        nfe = (steps - 1) * solver.nfe + 1
        done, total = 0, len(groups) * nfe

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        started = time.perf_counter()
        samples: dict[int, BackboneSample] = {}
        for rows in groups:
            noise = [draw_noise(lengths[r], seed, indices[r]) for r in rows]
            changes = list(corrections)
            if motif is not None:
                generators = [counter_generator("motif", seed, indices[r]) for r in rows]
                places = [motif.place(lengths[r], g) for r, g in zip(rows, generators, strict=True)]
                own = [lengths[r] for r in rows]
                changes.append(MotifFrames(motif, places, own, self.device))
            batch = _SampleBatch(self.network, noise, last_time, changes, trajectory, tick)
            for r, made in zip(
                rows, batch.run(steps, solver, seed, [indices[r] for r in rows]), strict=True
            ):
                samples[r] = made
            if motif is not None:
                for r, place in zip(rows, places, strict=True):
                    samples[r] = _with_motif(samples[r], motif, place)
        seconds = time.perf_counter() - started
        settings = {
            "seed": seed,
            "steps": steps,
            "nfe": nfe,
            "solver": repr(solver),
            "corrections": [repr(change) for change in corrections],
            "edge_dtype": str(self.network.edge_dtype).removeprefix("torch."),
            "device": str(self.device),
            "weights_hash": weights_hash(self.network),
        }
        return BackboneResult([samples[r] for r in range(len(lengths))], seconds, settings)


def draw_noise(length: int, seed: int, index: int) -> dict[str, Tensor]:
    """Draw the initial frames of a sample, on the CPU.

    Translations are normal with 10 Å per axis and centred, rotations uniform.
    """
    generator = counter_generator("sample", seed, index)
    z = torch.randn(length, 3, generator=generator)
    rot = FRAME_SPACE.parts["rot"].prior((length,), generator=generator)
    assert isinstance(rot, Tensor)
    return {"trans": PRIOR_SCALE * centre(z), "rot": rot}


class _SampleBatch:
    """One batch on its way; lives for one call."""

    def __init__(
        self,
        network: ReQFlowNetwork,
        noise: list[dict[str, Tensor]],
        last_time: float | None,
        corrections: Sequence[Correction],
        trajectory: bool,
        tick: Callable[[], None],
    ) -> None:
        device = next(network.parameters()).device
        self.network, self.noise, self.tick = network, noise, tick
        self.last_time, self.corrections, self.keep = last_time, corrections, trajectory
        lengths = [len(x["trans"]) for x in noise]
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

    def predict(self, x: dict[str, Tensor], t: float) -> dict[str, Tensor]:
        """Call the network, conditioned on what it predicted last."""
        # A compiled network that replays a CUDA graph reuses its output buffers: keep a copy.
        previous = None if self.prediction is None else self.prediction["trans"].clone()
        times = torch.full((len(self.noise),), t, device=self.res_idx.device)
        prediction = self.network(
            x, times, res_idx=self.res_idx, res_mask=self.mask, trans_sc=previous
        )
        for correct in self.corrections:
            prediction = correct(prediction, t, self.mask)
        self.prediction = prediction
        self.tick()
        if self.keep:
            self.predictions.append({k: v.clone() for k, v in self.prediction.items()})
        return self.prediction

    def velocity(self, x: State, t: float | Tensor) -> State:
        """Head for the prediction; padding stays where it is."""
        assert isinstance(x, dict)
        v = endpoint_velocity(x, self.predict(x, float(t)), float(t))
        if self.mask is None:
            return v
        return {name: part * self.mask.unsqueeze(-1) for name, part in v.items()}

    def fresh_noise(self, seed: int, indices: list[int], step: int) -> dict[str, Tensor]:
        """Draw what a stochastic solver adds, for each sample by its number and the step."""
        parts: dict[str, list[Tensor]] = {"trans": [], "rot": []}
        for index, noise in zip(indices, self.noise, strict=True):
            generator = counter_generator("fresh", seed, index, step)
            z = torch.randn(2, len(noise["trans"]), 3, generator=generator)
            parts["trans"].append(centre(z[0]))
            parts["rot"].append(z[1])
        longest, zero = self.res_idx.shape[1], [0.0, 0.0, 0.0]
        device = self.res_idx.device
        return {name: _stack(z, longest, zero).to(device) for name, z in parts.items()}

    def record(self, step: Step) -> None:
        """Keep the state a move ended in."""
        if self.keep:
            assert isinstance(step.state, dict)
            self.states.append({k: v.clone() for k, v in step.state.items()})

    @torch.no_grad()
    def run(
        self, steps: int, solver: Solver, seed: int, indices: list[int]
    ) -> Iterator[BackboneSample]:
        """Integrate, make the last call, and take the samples apart."""
        grid = np.linspace(START_TIME, 1.0, steps).tolist()
        if isinstance(solver, FrameAncestral):
            solver = replace(solver, noise=lambda t: self.fresh_noise(seed, indices, grid.index(t)))
        x: Any = self.x0
        if self.keep:
            self.states.append(self.x0)
        if steps > 1:
            x = integrate(
                self.velocity, x, plan(grid, solver), space=FRAME_SPACE, callback=self.record
            )
        last = grid[max(steps - 2, 0)] if self.last_time is None else self.last_time
        final = {k: v.clone() for k, v in self.predict(x, last).items()}
        movies = [self._movie(self.states), self._movie(self.predictions)]
        atoms = atoms_from_frames(final, self.mask).cpu().numpy()
        for row, (index, noise) in enumerate(zip(indices, self.noise, strict=True)):
            n = len(noise["trans"])
            cut = [None if movie is None else movie[:, row, :n] for movie in movies]
            frames = {name: part[row, :n].cpu() for name, part in final.items()}
            yield BackboneSample(index, atoms[row, :n], frames, noise, *cut)

    def _movie(self, frames: list[dict[str, Tensor]]) -> np.ndarray | None:
        if not frames:
            return None
        return np.stack([atoms_from_frames(x, self.mask).cpu().numpy() for x in frames])


def _backbone(atoms: np.ndarray, name: str, sequence: str | None = None) -> Backbone:
    """Make a chain of generated atoms, poly-alanine by default."""
    from rectiflow_protein.io import Backbone

    return Backbone.from_coords(atoms[:, _NO_CB], name=name, sequence=sequence)


def _with_motif(sample: BackboneSample, motif: Motif, rows: Tensor) -> BackboneSample:
    """Give a sample the motif's own atoms and residue types; its CB is the ideal one."""
    atoms, letters = sample.atoms.copy(), ["A"] * len(sample.atoms)
    atoms[np.ix_(rows.numpy(), _NO_CB)] = motif_atoms(motif, sample.frames, rows).numpy()
    for row, letter in zip(rows.tolist(), motif.sequence, strict=True):
        letters[row] = letter
    return replace(sample, atoms=atoms, sequence="".join(letters), motif=tuple(rows.tolist()))


def _stack(parts: list[Tensor], longest: int, fill: list[float]) -> Float[Tensor, "b n c"]:
    padding = torch.tensor(fill)
    return torch.stack([torch.cat([p, padding.expand(longest - len(p), -1)]) for p in parts])


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
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


def _check(lengths: Sequence[int], steps: int, indices: Sequence[int]) -> None:
    if not lengths or min(lengths) < 2:
        raise ValueError(
            f"lengths must be at least 2 residues, got {list(lengths)[:8]}; expected one positive "
            "number per sample."
        )
    if steps < 1:
        raise ValueError(
            f"steps must be at least 1, got {steps}; expected network calls per sample."
        )
    if len(indices) != len(lengths) or len(set(indices)) != len(indices):
        raise ValueError(
            f"indices must be one distinct number per sample, got {len(indices)} for "
            f"{len(lengths)} lengths; expected them to be different."
        )
