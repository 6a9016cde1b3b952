"""What several tests of proteins use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.pipeline import BackbonePipeline


@pytest.fixture(scope="session")
def archive(shared_data: Path) -> Path:
    """Return the shared archive of natural chains; skip without it."""
    path = shared_data / "protein" / "backbones.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.fixture(scope="session")
def tiny() -> ReQFlowConfig:
    """Return the narrowest sizes."""
    return ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)


@pytest.fixture(scope="module")
def pipe(tiny: ReQFlowConfig) -> BackbonePipeline:
    """Return a narrow pipeline whose every path is live."""
    torch.manual_seed(0)
    network = ReQFlowNetwork(tiny)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.4 / parameter.shape[-1] ** 0.5, generator=g)
    return BackbonePipeline(network)
