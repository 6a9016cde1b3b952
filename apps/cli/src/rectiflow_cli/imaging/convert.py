"""``rectiflow imaging convert``: DRDM's checkpoints to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow import commands

from rectiflow_cli.imaging.flags import Imaging


class Convert(Imaging, commands.Convert):
    """Convert DRDM's checkpoints to ours and back."""

    pipeline = "rectiflow_imaging.pipeline:DeformationPipeline"
    examples = ("000000_cmr_recresacnet.pth -o ours", "ours --to official -o theirs")
    licence = "licence: Apache-2.0, as the authors' repository has it"
    then = "deform IMAGE --weights {folder} -o deformed"
    official_files = ("recresacnet.pth",)

    def write_official(self, pipe: Any, out: Path, args: Any) -> list[Path]:
        """Write a checkpoint for the authors' code."""
        from rectiflow_imaging.weights import write_official

        return [write_official(pipe.network, out / self.official_files[0])]


main = Convert()
