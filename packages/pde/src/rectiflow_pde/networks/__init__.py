"""Networks of Text2PDE, under the authors' names of modules, and our own small codec."""

from rectiflow_pde.networks.autoencoder import (
    GridAutoencoder,
    GridConfig,
    MeshAutoencoder,
    MeshConfig,
    Posterior,
)
from rectiflow_pde.networks.conditioner import (
    GridFrameConditioner,
    GridFrameConfig,
    MeshFrameConditioner,
    MeshFrameConfig,
)
from rectiflow_pde.networks.dit import DitConfig, LatentTransformer
from rectiflow_pde.networks.text import TextConditioner, TextConfig

__all__ = [
    "DitConfig",
    "GridAutoencoder",
    "GridConfig",
    "GridFrameConditioner",
    "GridFrameConfig",
    "LatentTransformer",
    "MeshAutoencoder",
    "MeshConfig",
    "MeshFrameConditioner",
    "MeshFrameConfig",
    "Posterior",
    "TextConditioner",
    "TextConfig",
]
