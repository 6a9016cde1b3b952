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
from rectiflow_protein.metrics.ramachandran import favoured
from rectiflow_protein.residues import CA_CA_DISTANCE

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure

_CA_RANGE = (2.6, 5.0)  # Å; a cis peptide is at 2.9
_SHADE = (0.17, 0.63, 0.17, 0.2)  # green, nearly transparent


def ramachandran(
    backbones: Sequence[Float[Tensor, "n a 3"]], *, title: str = "Ramachandran"
) -> Figure:
    """Scatter of (phi, psi) in degrees over the regions that hold 98 % of natural residues.

    Parameters
    ----------
    backbones : sequence of Tensor, shape (n, a, 3)
        Ångström, atoms N, CA, C first.
    title : str
        Above the axes.
    """
    figure, axes = labelled(title, "phi (degrees)", "psi (degrees)")
    shade = np.zeros((*favoured().shape, 4))
    shade[favoured().numpy()] = _SHADE
    axes.imshow(shade, origin="lower", extent=(-180, 180, -180, 180), interpolation="bilinear")
    angles = [torsions(coords) for coords in backbones]
    phi = np.concatenate([torch.rad2deg(a.phi).cpu().numpy() for a in angles] or [np.zeros(0)])
    psi = np.concatenate([torch.rad2deg(a.psi).cpu().numpy() for a in angles] or [np.zeros(0)])
    axes.scatter(phi, psi, s=9, alpha=0.5, linewidths=0)
    ticks = range(-180, 181, 60)
    axes.set(xlim=(-180, 180), ylim=(-180, 180), xticks=ticks, yticks=ticks, aspect="equal")
    return figure


def ca_ca_histogram(
    backbones: Sequence[Float[Tensor, "n a 3"]], *, title: str = "Consecutive CA"
) -> Figure:
    """Histogram of consecutive CA distances, with the trans 3.80 Å marked.

    What lies outside 2.6 to 5.0 Å, as chain breaks do, is counted in the first and last bar, and
    the title says how many.

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
    values = values[np.isfinite(values)].astype(np.float64)
    low, high = _CA_RANGE
    outside = int(((values < low) | (values > high)).sum())
    if outside:
        axes.set_title(f"{title} ({outside} outside the range)")
    axes.hist(values.clip(low, high), bins=np.linspace(low, high, 97).tolist())
    axes.axvline(CA_CA_DISTANCE, color="black", linewidth=1)
    return figure


def largest_distance(chains: Sequence[Float[Tensor, "n 3"]]) -> float:
    """Largest CA distance in any chain, ångström: the end of a colour scale for all of them."""
    return max(float(torch.cdist(ca.float(), ca.float()).max()) for ca in chains)


def distance_matrix(
    ca: Float[Tensor, "n 3"], *, title: str = "CA distances", top: float | None = None
) -> Figure:
    """Picture of all CA distances of a chain, residues counted from 1.

    Parameters
    ----------
    ca : Tensor, shape (n, 3)
        CA positions in ångström.
    title : str
        Above the axes.
    top : float, optional
        End of the colour scale in ångström, to compare chains; by default the largest distance.
    """
    if ca.ndim != 2 or ca.shape[-1] != 3:
        raise ValueError(
            f"ca must have shape (n, 3), got {tuple(ca.shape)}; expected the CA of one chain. Pass "
            "coords[:, 1]."
        )
    figure, axes = labelled(title, "residue", "residue")
    distances = torch.cdist(ca.float(), ca.float()).cpu().numpy()
    ends = (0.5, len(distances) + 0.5)
    image = axes.imshow(
        distances,
        cmap="viridis_r",
        origin="lower",
        interpolation="nearest",
        extent=(*ends, *ends),
        vmin=0,
        vmax=top,
    )
    figure.colorbar(image, ax=axes, label="Å", fraction=0.046)
    return figure
