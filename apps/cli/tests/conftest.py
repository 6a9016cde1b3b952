"""What several tests of the commands use."""

from __future__ import annotations

import pytest
import torch
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a narrow protein network whose every path is live."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    network = ReQFlowNetwork(ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    return str(folder)
