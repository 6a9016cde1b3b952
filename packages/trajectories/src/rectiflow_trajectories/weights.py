"""The authors' checkpoints, read and written: tensors under the same names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow.storage.pretrained import CheckpointError, require_same
from rectiflow.storage.tensor_files import load_tensors
from torch import Tensor

from rectiflow_trajectories.features import KINDS
from rectiflow_trajectories.networks import EGTN
from rectiflow_trajectories.settings import TrajectorySettings

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

PUBLISHED = {"particles": (10, 1000), "molecule": (10, 1000), "pedestrians": (8, 100)}
"""Given frames and steps of the diffusion of each kind."""

_EDGES = "s_modules.0.edge_mlp.actions.0.weight"
_TIMES = "t_modules.0.time_emb.weight"


def load_official(
    path: Path | str, *, given: int | None = None, frames: int = 20, steps: int | None = None
) -> TrajectoryPipeline:
    """Load a checkpoint of the authors; its sizes are told by its tensors.

    Parameters
    ----------
    path : Path or str
        A file of tensors, or a folder with one.
    given : int, optional
        Given frames, which the tensors do not tell: the published ones if there is a learned
        prior, else none.
    frames : int
        Frames that are made, where there is no learned prior to tell them.
    steps : int, optional
        Of the diffusion; the published ones if absent.

    Raises
    ------
    CheckpointError
        When tensors are missing, unknown or of another shape.
    """
    from rectiflow_trajectories.pipeline import TrajectoryPipeline

    path = Path(path)
    if path.is_dir():
        found = sorted(p for ending in ("pt", "pth", "ckpt") for p in path.glob(f"*.{ending}"))
        if len(found) != 1:
            raise FileNotFoundError(
                f"{path} has {len(found)} checkpoints; expected one file that ends in .pt, .pth or "
                ".ckpt, or a folder written by save_pretrained. Name the file."
            )
        [path] = found
    tensors = {name.removeprefix("module."): value for name, value in load_tensors(path).items()}
    network, kind = network_of(tensors, given, frames, path)
    usual = PUBLISHED[kind][1]
    settings = TrajectorySettings(
        kind=kind,
        dimensions=2 if kind == "pedestrians" else 3,
        unit={"molecule": "angstrom", "pedestrians": "m"}.get(kind, ""),
        steps=50,
        diffusion=steps or usual,
        rescale=kind == "pedestrians",
    )
    return TrajectoryPipeline(network, settings=settings)


def network_of(
    tensors: Mapping[str, Tensor], given: int | None, frames: int, path: Path
) -> tuple[EGTN, str]:
    """Make a network of the authors' tensors, and say of which kind its features are."""
    if not {_EDGES, _TIMES, "input_linear.weight"} <= set(tensors):
        raise CheckpointError(path, f"is not of EGTN, got {sorted(tensors)[:4]}")
    hidden, inner = tensors["input_linear.weight"].shape
    time_dim = tensors[_TIMES].shape[1]
    node_dim, edge_dim = inner - time_dim, tensors[_EDGES].shape[1] - 2 * hidden - 1
    kinds = {(KINDS[name].node_dim, KINDS[name].edge_dim): name for name in PUBLISHED}
    kind = kinds.get((node_dim, edge_dim))
    if kind is None:
        raise CheckpointError(path, f"has features of widths {node_dim, edge_dim}, no known kind")
    learned = "ws" in tensors
    network = EGTN(
        node_dim,
        edge_dim,
        hidden,
        _count(tensors, "s_modules."),
        time_dim,
        given=given if given is not None else PUBLISHED[kind][0] if learned else 0,
        frames=len(tensors["ws"]) if learned else frames,
        prior="learned" if learned else "centre",
        prior_layers=_count(tensors, "s_modules_ref.") or 1,
        pre_norm=kind == "pedestrians",
    )
    require_same(network, tensors, f"official EGTN of {path.name}")
    network.load_state_dict(dict(tensors))
    return network.eval(), kind


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {
        name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)
    }
    return len(numbers)
