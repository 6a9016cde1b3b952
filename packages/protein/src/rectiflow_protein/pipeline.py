"""The object users hold: lengths in, protein backbones out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Self

import torch
from rectiflow.costs import Load, Work
from rectiflow.memory import require_memory
from rectiflow.pipeline import Kinds, Pipeline
from rectiflow.randomness import counter_seed
from rectiflow.solvers import Solver

from rectiflow_protein.constraints import Chains, Constraint, Predict, tokens_of
from rectiflow_protein.flow import FrameEuler
from rectiflow_protein.networks import ReQFlowNetwork
from rectiflow_protein.result import BackboneResult, BackboneSample
from rectiflow_protein.sampling import SampleBatch, batches, sampling_plan

log = logging.getLogger(__name__)

PAIRS_PER_BATCH = {"cpu": 2**16, "cuda": 2**22}
"""Residue pairs in a batch, by device: what fits the cache, or a few gigabytes."""

LONGEST_TRAINED = 512
"""Residues of the longest chains that published networks are trained on."""


class BackbonePipeline(Pipeline):
    """Generates protein backbones with a ReQFlow network.

    Parameters
    ----------
    network : ReQFlowNetwork
        On the device where sampling is to run.
    dtype : torch.dtype
        ``bfloat16`` makes the edge updates cheaper; see the model card for its error.

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

    shipped = Path(__file__).parent / "pretrained"

    def __init__(self, network: ReQFlowNetwork, dtype: torch.dtype | None = None) -> None:
        super().__init__({"network": network}, dtype=dtype or network.edge_dtype)
        self.set_dtype(self.dtype)

    @classmethod
    def kinds(cls) -> dict[str, Kinds]:
        """Return the class of the network."""
        return {"network": ReQFlowNetwork}

    @classmethod
    def load_official(cls, path: Path) -> Self:
        """Load the authors' checkpoint; see :func:`rectiflow_protein.weights.load_official`."""
        from rectiflow_protein.weights import load_official

        return cls(load_official(path))

    def set_dtype(self, dtype: torch.dtype) -> None:
        """Set what the network updates its edges in."""
        self.dtype = self.network.edge_dtype = dtype

    @property
    def pairs_per_batch(self) -> int:
        """Return how many residue pairs one call of the network takes on this device."""
        return PAIRS_PER_BATCH["cuda" if self.device.type == "cuda" else "cpu"]

    def work(self, part: str = "") -> Work:
        """Return the sampling of chains of one length, short and long, alone and several."""

        def run(load: Load) -> None:
            pairs = load.rows * load.tokens**2
            self([load.tokens] * load.rows, steps=load.calls, max_pairs=pairs)

        large = self.device.type == "cuda"
        more = ((4, 256), (2, 512), (16, 256)) if large else ((1, 256), (2, 128), (8, 64))
        return Work(run, ((1, 64), (1, 128), (4, 64), *more), (2, 5))

    def _require_fitting(self, longest: int) -> None:
        """Refuse what cannot fit, by the features of residue pairs alone: a layer has two of them.

        Lengths that no published network was trained on are worth a warning.
        """
        itemsize = torch.finfo(self.network.edge_dtype).bits // 8
        require_memory(
            2 * longest**2 * self.network.sizes.c_z * itemsize,
            self.device,
            f"{longest} residues",
            "Sample shorter ones.",
        )
        if longest > LONGEST_TRAINED:
            log.warning(
                "%d residues: published networks are trained on at most %d; expect worse "
                "structures, and check them with `rectiflow protein eval`",
                longest,
                LONGEST_TRAINED,
            )

    def __call__(
        self,
        lengths: Sequence[int],
        *,
        steps: int = 50,
        solver: Solver | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        last_time: float | None = None,
        constraints: Sequence[Constraint] = (),
        tries: int = 1,
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
        constraints : sequence of Constraint
            What the samples have to be like, such as a :class:`~rectiflow_protein.motif.Motif`;
            each prediction is corrected by one after the other.
        tries : int
            How often, at most, to make a sample that misses a constraint: each time from other
            noise. The nearest to what was asked for is kept.
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
            When a length, the number of steps or the indices are out of range, or a constraint
            cannot be met.
        """
        indices = list(range(len(lengths))) if indices is None else list(indices)
        _check(lengths, steps, indices)
        for length, constraint in product(set(lengths), constraints):
            constraint.check(length)
        tokens = [tokens_of(length, constraints) for length in lengths]
        self._require_fitting(max(tokens, default=0))
        solver = FrameEuler() if solver is None else solver
        budget = max_pairs or self.pairs_per_batch
        moves = sampling_plan(steps, solver, is_map=self.network.is_map)
        nfe = (0 if moves is None else moves.nfe) + (not self.network.is_map)
        done, total = 0, 0

        def tick() -> None:
            nonlocal done
            done += 1
            if progress is not None:
                progress(done, total)

        started = time.perf_counter()
        samples: dict[int, BackboneSample] = {}
        network: Predict = self.network
        for constraint in constraints:
            network = constraint.around(network)
        open_rows = list(range(len(lengths)))
        for again in range(tries):
            own_seed = counter_seed("again", seed, again) if again else seed
            groups = [
                [open_rows[i] for i in group]
                for group in batches([tokens[r] for r in open_rows], budget)
            ]
            total += len(groups) * nfe
            for rows in groups:
                own = [lengths[r] for r in rows]
                chains = Chains(own, [indices[r] for r in rows], own_seed, self.device)
                changes = [constraint.on(chains) for constraint in constraints]
                batch = SampleBatch(network, chains, last_time, changes, trajectory, tick)
                for r, made in zip(rows, batch.run(moves), strict=True):
                    samples[r] = _nearer(samples.get(r), made, constraints, again + 1)
            open_rows = [r for r in open_rows if _miss(samples[r], constraints) > 0]
            if not open_rows:
                break
        seconds = time.perf_counter() - started
        settings = self.describe() | self.sampling(
            steps, solver, seed, last_time, constraints, tries
        )
        return BackboneResult(
            [samples[r] for r in range(len(lengths))], settings=settings, seconds=seconds
        )

    def sampling(
        self,
        steps: int,
        solver: Solver | None,
        seed: int,
        last_time: float | None,
        constraints: Sequence[Constraint] = (),
        tries: int = 1,
    ) -> dict[str, Any]:
        """Return what shapes a sample beside the pipeline, its number and its length."""
        solver = FrameEuler() if solver is None else solver
        is_map = self.network.is_map
        moves = sampling_plan(steps, solver, is_map=is_map)
        return {
            "seed": seed,
            "steps": steps,
            "nfe": (0 if moves is None else moves.nfe) + (not is_map),
            "solver": repr(solver),
            "last_time": last_time,
            "constraints": [repr(constraint) for constraint in constraints],
            "tries": tries,
        }


def _miss(sample: BackboneSample, constraints: Sequence[Constraint]) -> float:
    return sum(constraint.miss(sample) for constraint in constraints)


def _nearer(
    before: BackboneSample | None,
    made: BackboneSample,
    constraints: Sequence[Constraint],
    count: int,
) -> BackboneSample:
    """Return the sample that misses the constraints by less, and tell how many were made."""
    if before is not None and _miss(before, constraints) <= _miss(made, constraints):
        made = before
    return replace(made, told={**made.told, "tried": count}) if count > 1 else made


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
