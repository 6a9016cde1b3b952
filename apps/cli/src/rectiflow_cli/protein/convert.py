"""``rectiflow protein convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands

from rectiflow_cli.protein.flags import Protein

if TYPE_CHECKING:
    from rectiflow_protein.pipeline import BackbonePipeline


class Convert(Protein, commands.Convert):
    """Convert the authors' checkpoints to ours and back; every tensor is accounted for."""

    examples = ("released.ckpt -o ours", "small --to official -o theirs")
    licence = (
        "licence: the model card of the released weights says apache-2.0; the authors' repository "
        "has no licence file"
    )
    official_files = ("reqflow.ckpt", "config.yaml")
    then = "sample --weights {folder} --length 100 -o samples"

    def write_official(self, pipe: BackbonePipeline, out: Path, args: Any) -> list[Path]:
        """Write ``reqflow.ckpt`` and ``config.yaml``."""
        from rectiflow_protein.weights import save_official

        return save_official(pipe.network, out)


main = Convert()
