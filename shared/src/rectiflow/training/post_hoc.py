"""Choose the width of a power-function average after training, from stored snapshots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from rectiflow.storage.files import write_tensors
from rectiflow.training.ema import Ema, PowerDecay


@dataclass(frozen=True)
class Snapshot:
    """A stored power-function average.

    Parameters
    ----------
    path : Path
        A file written by :func:`save_snapshot`.
    updates : int
        Updates the average has seen.
    profile : PowerDecay
        Its profile.
    """

    path: Path
    updates: int
    profile: PowerDecay


def save_snapshot(
    ema: Ema, folder: Path | str, average: Mapping[str, Tensor] | None = None
) -> Snapshot:
    """Store an average for later reconstruction; the file says what it is.

    Parameters
    ----------
    ema : Ema
    folder : Path or str
    average : mapping, optional
        Its tensors whole, where a process holds a part of them only.

    Raises
    ------
    TypeError
        When the average does not have a :class:`PowerDecay` profile.
    """
    if not isinstance(ema.profile, PowerDecay):
        raise TypeError(
            f"snapshots need a power-function average, got profile {str(ema.profile)!r}; expected "
            "PowerDecay(sigma_rel)."
        )
    path = Path(folder) / f"ema-{ema.profile.sigma_rel:g}-{ema.updates:09d}.safetensors"
    metadata = {"updates": str(ema.updates), "sigma_rel": repr(ema.profile.sigma_rel)}
    write_tensors(path, ema.average if average is None else average, metadata)
    return Snapshot(path, ema.updates, ema.profile)


def read_snapshots(folder: Path | str) -> list[Snapshot]:
    """List the snapshots of a folder, by the number of updates."""
    found: list[Snapshot] = []
    for path in Path(folder).glob("ema-*.safetensors"):
        with safe_open(path, framework="pt") as file:
            told = file.metadata()
        found.append(Snapshot(path, int(told["updates"]), PowerDecay(float(told["sigma_rel"]))))
    return sorted(found, key=lambda each: (each.updates, each.profile.sigma_rel))


def reconstruct(
    snapshots: Sequence[Snapshot], sigma_rel: float, updates: int | None = None
) -> dict[str, Tensor]:
    """Approximate the average of another width by a combination of snapshots.

    The weights minimise the squared distance between the combined and the wanted profile, over
    continuous time; they are solved in float64 and sum to one within the fit's accuracy.

    Parameters
    ----------
    snapshots : sequence of Snapshot
        At least two widths, stored regularly during training, span the useful range.
    sigma_rel : float
        Wanted width.
    updates : int, optional
        Wanted end of the average; the newest snapshot's by default. Later snapshots are unused.

    Returns
    -------
    dict of str to Tensor
        float32 parameters by name.

    Raises
    ------
    ValueError
        When no snapshot is as early as ``updates``.

    References
    ----------
    Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models"
    (CVPR 2024), section 3.2 and appendix C.
    """
    end = updates if updates is not None else max((s.updates for s in snapshots), default=0)
    used = [snapshot for snapshot in snapshots if snapshot.updates <= end]
    if not used:
        raise ValueError(
            f"no snapshot has at most {end} updates, got {len(snapshots)} snapshots; expected at "
            "least one. Store them during training with snapshot_every."
        )
    weights = profile_weights(
        [(each.updates, each.profile) for each in used], (end, PowerDecay(sigma_rel))
    )
    total: dict[str, Tensor] = {}
    for weight, snapshot in zip(weights, used, strict=True):
        with safe_open(snapshot.path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                term = weight * file.get_tensor(name).double()
                total[name] = total[name] + term if name in total else term
    return {name: value.to(torch.float32) for name, value in total.items()}


def profile_weights(
    stored: Sequence[tuple[int, PowerDecay]], wanted: tuple[int, PowerDecay]
) -> list[float]:
    """Return the least-squares weights of stored profiles that combine to the wanted one."""
    gram = np.array([[_inner(a, b) for b in stored] for a in stored])
    target = np.array([_inner(a, wanted) for a in stored])
    # Profiles of neighbouring snapshots are nearly parallel: drop what float64 cannot resolve.
    weights, *_ = np.linalg.lstsq(gram, target, rcond=1e-13)
    return [float(weight) for weight in weights]


def _inner(a: tuple[int, PowerDecay], b: tuple[int, PowerDecay]) -> float:
    r"""Return the overlap of two profiles.

    With :math:`p(s) = (\gamma + 1) s^\gamma / n^{\gamma + 1}` on [0, n] and m the smaller n,

    .. math:: \int p_a p_b = \frac{(\gamma_a + 1)(\gamma_b + 1)}{\gamma_a + \gamma_b + 1}
              \frac{m^{\gamma_a + \gamma_b + 1}}{n_a^{\gamma_a + 1} n_b^{\gamma_b + 1}}.
    """
    (n_a, profile_a), (n_b, profile_b) = a, b
    gamma_a, gamma_b = profile_a.gamma, profile_b.gamma
    power = gamma_a + gamma_b + 1.0
    logarithm = (
        power * np.log(min(n_a, n_b)) - (gamma_a + 1) * np.log(n_a) - (gamma_b + 1) * np.log(n_b)
    )
    return float((gamma_a + 1) * (gamma_b + 1) / power * np.exp(logarithm))
