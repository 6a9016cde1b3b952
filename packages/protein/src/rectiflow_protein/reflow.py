"""Rectification of backbones: pairs of noise and sample, judged and made into training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan, reverse
from rectiflow.rectify import Pair, Verdict
from rectiflow.solvers import Euler
from rectiflow.states import State
from rectiflow.storage.records import state_of
from torch import Tensor
from torch.utils.data import Dataset

from rectiflow_protein.data.batching import collate
from rectiflow_protein.flow import FRAME_PATH, START_TIME
from rectiflow_protein.frames import FRAME_SPACE, atoms_from_frames
from rectiflow_protein.metrics import backbone_metrics
from rectiflow_protein.result import NO_CB
from rectiflow_protein.sampling import batches

if TYPE_CHECKING:
    from jaxtyping import Float
    from rectiflow.solvers import Solver

    from rectiflow_protein.constraints import Constraint
    from rectiflow_protein.designability import SequenceDesigner, StructurePredictor
    from rectiflow_protein.pipeline import BackbonePipeline

Keep = Callable[[Pair], Verdict]


def pair_sampler(
    pipe: BackbonePipeline,
    lengths: Sequence[int],
    *,
    steps: int,
    seed: int,
    solver: Solver | None = None,
    constraints: Sequence[Constraint] = (),
) -> Callable[[list[int]], list[Pair]]:
    """Return what :func:`rectiflow.rectify.generate_pairs` calls to make pairs.

    Candidate i has ``lengths[i % len(lengths)]`` residues. Noise and sample are kept as frames in
    float32, without a detour through a structure file.

    Parameters
    ----------
    pipe : BackbonePipeline
        The teacher.
    lengths : sequence of int
        Lengths to go round.
    steps, seed, solver, constraints
        As for the pipeline.
    """

    def sample(indices: list[int]) -> list[Pair]:
        result = pipe(
            [lengths[i % len(lengths)] for i in indices],
            steps=steps,
            seed=seed,
            solver=solver,
            constraints=constraints,
            indices=indices,
        )
        return [Pair(index=s.index, x0=dict(s.noise), x1=dict(s.frames)) for s in result.samples]

    return sample


def inverted_pair_sampler(
    pipe: BackbonePipeline, chains: Dataset[dict[str, Tensor]], *, steps: int
) -> Callable[[list[int]], list[Pair]]:
    """Return what makes pairs of real chains, each with the noise that the teacher maps to it.

    The flow is integrated from data to noise by Euler's method with the linear schedule. Real
    pairs hold reflow to the data: trained on generated pairs alone it drifts.

    Parameters
    ----------
    pipe : BackbonePipeline
        The teacher.
    chains : Dataset
        A :class:`~rectiflow_protein.data.dataset.BackboneDataset`; candidate i is chain i.
    steps : int
        Network calls per chain.

    References
    ----------
    Lee et al., "Improving the Training of Rectified Flows" (NeurIPS 2024), section 4.3.
    """

    def sample(indices: list[int]) -> list[Pair]:
        found = [chains[i] for i in indices]
        lengths = [len(chain["res_idx"]) for chain in found]
        pairs: dict[int, Pair] = {}
        for rows in batches(lengths, pipe.pairs_per_batch):
            batch = collate([found[r] for r in rows])
            x1: Any = state_of(batch, "x1")
            x0 = invert(pipe, x1, steps=steps, mask=batch["res_mask"])
            for k, r in enumerate(rows):
                parts = [{name: x[k, : lengths[r]] for name, x in end.items()} for end in (x0, x1)]
                pairs[r] = Pair(index=indices[r], x0=parts[0], x1=parts[1])
        return [pairs[r] for r in range(len(indices))]

    return sample


@torch.no_grad()
def invert(
    pipe: BackbonePipeline,
    chains: dict[str, Tensor],
    *,
    steps: int,
    mask: Float[Tensor, "b n"] | None = None,
) -> dict[str, Tensor]:
    """Return the noise that a flow maps to chains.

    Parameters
    ----------
    pipe : BackbonePipeline
        The flow.
    chains : dict
        ``trans (b, n, 3)``, Å, and ``rot (b, n, 4)``.
    steps : int
        Network calls, from t = 0.99 down to 0.01: the velocity is singular at 1.
    mask : Tensor, shape (b, n), optional
        1 for residues, 0 for padding.
    """
    b, n = chains["trans"].shape[:2]
    res_idx = torch.arange(n, dtype=torch.float32, device=pipe.device).expand(b, n)
    res_mask = None if mask is None or bool(mask.all()) else mask.to(pipe.device)
    previous: Tensor | None = None

    def velocity(x: State, t: float | Tensor) -> State:
        nonlocal previous
        assert isinstance(x, dict)
        times = torch.full((b,), float(t), device=pipe.device)
        prediction = pipe.network(x, times, res_idx=res_idx, res_mask=res_mask, trans_sc=previous)
        previous = prediction["trans"].clone()
        return FRAME_PATH.from_data(prediction, x, float(t))

    x1 = {name: part.to(pipe.device) for name, part in chains.items()}
    moves = reverse(plan(uniform(steps, START_TIME, 1 - START_TIME), Euler()))
    x0 = integrate(velocity, x1, moves, space=FRAME_SPACE)
    return {name: part.cpu() for name, part in x0.items()}


@dataclass(frozen=True)
class GeometricFilter:
    """Keeps pairs whose sample looks like a protein; needs no outside program.

    Parameters
    ----------
    min_valid : float
        Share of consecutive CA distances below 3.902 Å.
    max_close_contacts : float
        CA pairs nearer than 3 Å per 100 residues.
    max_coil : float
        Share of residues in neither helix nor strand, as in the published data filter.
    min_strand : float
        Share of strand. What is rectified makes more of what its pairs were chosen for: a bound on
        coil alone chooses helices.
    max_relative_gyration : float
        Radius of gyration over that of a native globule of the same length,
        ``2.2 n^0.38`` Å (Skolnick's fit).

    References
    ----------
    Yue et al. (2025), section 4.1: filtering the pairs is what makes reflow work.
    """

    min_valid: float = 0.97
    max_close_contacts: float = 1.0
    max_coil: float = 0.5
    min_strand: float = 0.0
    max_relative_gyration: float = 1.3

    def __call__(self, pair: Pair) -> Verdict:
        """Judge a pair by its sample."""
        coords = sample_coords(pair)
        found = {name: float(value) for name, value in backbone_metrics(coords).items()}
        found["relative_gyration"] = found["radius_of_gyration"] / (2.2 * len(coords) ** 0.38)
        limits = {
            "broken chain": found["ca_ca_valid"] < self.min_valid,
            "clashes": found["close_contacts"] > self.max_close_contacts,
            "too much coil": found["coil"] > self.max_coil,
            "too little strand": found["strand"] < self.min_strand,
            "not compact": found["relative_gyration"] > self.max_relative_gyration,
        }
        reason = next((name for name, failed in limits.items() if failed), "")
        return Verdict(not reason, reason, found)


@dataclass(frozen=True)
class DesignabilityFilter:
    """Keeps pairs whose sample folds back from a designed sequence, as published.

    Up to 400 residues the smallest mean CA displacement must be below 2 Å; longer chains also
    pass with a TM-score above 0.9.

    Parameters
    ----------
    designer : SequenceDesigner
        For example :class:`~rectiflow_protein.designability.ProteinMPNN`.
    predictor : StructurePredictor
        For example :class:`~rectiflow_protein.designability.ESMFold`.
    num_sequences : int
        Sequences per sample.
    """

    designer: SequenceDesigner
    predictor: StructurePredictor
    num_sequences: int = 8

    def __call__(self, pair: Pair) -> Verdict:
        """Judge a pair by its sample."""
        from rectiflow_protein.designability import self_consistency
        from rectiflow_protein.io import Backbone

        backbone = Backbone.from_coords(sample_coords(pair), name=f"pair_{pair.index}")
        (found,) = self_consistency(
            [backbone], self.designer, self.predictor, num_sequences=self.num_sequences
        )
        tm = max(found.tm)
        kept = found.is_designable or (found.length > 400 and tm > 0.9)
        scores = {
            "sc_mean_displacement": min(found.mean_displacement),
            "sc_rmsd": min(found.rmsd),
            "sc_tm": tm,
        }
        return Verdict(kept, "" if kept else "not designable", scores)


def pair_example(record: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Make the training example of a stored pair, as :func:`rectiflow_protein.data.example` does.

    The chain is whole, all its residues move, and they are numbered from 1.
    """
    n = len(record["x1.trans"])
    return {
        **{name: record[name] for name in ("x0.trans", "x0.rot", "x1.trans", "x1.rot")},
        "res_mask": torch.ones(n),
        "diffuse_mask": torch.ones(n),
        "res_idx": torch.arange(1, n + 1),
    }


def sample_coords(pair: Pair) -> Float[Tensor, "n 4 3"]:
    """Return N, CA, C and O of a pair's sample, Å."""
    assert isinstance(pair.x1, dict)
    return atoms_from_frames(pair.x1)[:, NO_CB]
