"""Pictures of backbones and of trainings, as matplotlib figures.

Figures are made without pyplot: nothing opens a window and nothing has to be closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from rectiflow.figures import labelled
from torch import Tensor

from rectiflow_protein.metrics import ca_ca_distances, torsions
from rectiflow_protein.metrics.geometry import RAMACHANDRAN_REGIONS
from rectiflow_protein.residues import CA_CA_DISTANCE

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def ramachandran(
    backbones: Sequence[Float[Tensor, "n a 3"]], *, title: str = "Ramachandran"
) -> Figure:
    """Scatter of (phi, psi) in degrees over the usual regions.

    Parameters
    ----------
    backbones : sequence of Tensor, shape (n, a, 3)
        Ångström, atoms N, CA, C first.
    title : str
        Above the axes.
    """
    figure, axes = labelled(title, "phi (degrees)", "psi (degrees)")
    for phi_from, phi_to, psi_from, psi_to in RAMACHANDRAN_REGIONS:
        for turn in (0, -360):  # a region may run over the edge
            corner = (phi_from, psi_from + turn)
            _rectangle(axes, corner, phi_to - phi_from, psi_to - psi_from)
    angles = [torsions(coords) for coords in backbones]
    phi = np.concatenate([torch.rad2deg(a.phi).cpu().numpy() for a in angles] or [np.zeros(0)])
    psi = np.concatenate([torch.rad2deg(a.psi).cpu().numpy() for a in angles] or [np.zeros(0)])
    axes.scatter(phi, psi, s=4, alpha=0.5, linewidths=0)
    ticks = range(-180, 181, 60)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xticks=ticks, yticks=ticks, aspect="equal")
    return figure


def ca_ca_histogram(
    backbones: Sequence[Float[Tensor, "n a 3"]], *, title: str = "Consecutive CA"
) -> Figure:
    """Histogram of consecutive CA distances, with the ideal 3.80 Å marked.

    Parameters
    ----------
    backbones : sequence of Tensor, shape (n, a, 3)
        Ångström, CA second.
    title : str
        Above the axes.
    """
    figure, axes = labelled(title, "CA-CA distance (Å)", "pairs")
    distances = [ca_ca_distances(coords[:, 1]).cpu().numpy() for coords in backbones]
    values = np.concatenate(distances or [np.zeros(0)])
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if len(values) else (3.7, 3.9)
    axes.hist(values, bins=np.linspace(min(low, 3.7), max(high, 3.9), 60).tolist())
    axes.axvline(CA_CA_DISTANCE, color="black", linewidth=1)
    return figure


def distance_matrix(ca: Float[Tensor, "n 3"], *, title: str = "CA distances") -> Figure:
    """Picture of all CA distances of a chain.

    Parameters
    ----------
    ca : Tensor, shape (n, 3)
        CA positions in ångström.
    title : str
        Above the axes.
    """
    if ca.ndim != 2 or ca.shape[-1] != 3:
        raise ValueError(
            f"ca must have shape (n, 3), got {tuple(ca.shape)}; expected the CA of one chain. Pass "
            "coords[:, 1]."
        )
    figure, axes = labelled(title, "residue", "residue")
    distances = torch.cdist(ca.float(), ca.float()).cpu().numpy()
    image = axes.imshow(distances, cmap="viridis_r", origin="lower", interpolation="nearest")
    figure.colorbar(image, ax=axes, label="Å", fraction=0.046)
    return figure


def _rectangle(axes: Axes, corner: tuple[float, float], width: float, height: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle(corner, width, height, color="tab:green", alpha=0.12, linewidth=0))
