"""``rectiflow pde convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, positive

from rectiflow_cli.pde.flags import Pde


class Convert(Pde, commands.Convert):
    """Convert the authors' checkpoints of cylinders to ours and back."""

    examples = (
        "ldm_DiT_FF_cylinder.ckpt --statistics SHARDS/statistics.csv -o ours",
        "ours --to official -o theirs",
    )
    licence = "licence: the released weights come without one; ask their authors"
    official_files = ("ldm_cylinder.safetensors",)
    then = "simulate --first-frame frame.npz --mesh channel.msh --weights {folder} -o flow"

    def own_flags(self, parser: Parser) -> None:
        """Add what the authors' files do not tell."""
        add = parser.group("the authors' files")
        add("--part", choices=("codec",), help="Convert the autoencoder alone.")
        add("--statistics", metavar="CSV", help="Mean and deviation of the fields: statistics.csv.")
        add(
            "--tokenizer",
            metavar="NAME",
            help="Of weights that read words: RoBERTa's folder, or its name on the hub.",
        )
        add("--heads", type=positive, default=16, help="Of attention, which shapes do not tell.")

    def official(self, path: Path, args: Any) -> Any:
        """Load the diffusion with all it needs, or the autoencoder."""
        from rectiflow_pde.pipeline import SimulationPipeline
        from rectiflow_pde.weights import load_official_codec

        if args.part is not None:
            return load_official_codec(path)
        told = {"tokenizer": args.tokenizer} if args.tokenizer else {}
        told |= {"statistics": args.statistics, "heads": args.heads}
        return SimulationPipeline.load_official(path, **told)

    def write_official(self, pipe: Any, out: Path, args: Any) -> list[Path]:
        """Write the tensors under the authors' names."""
        from rectiflow_pde.weights import save_official

        return [save_official(pipe, out / self.official_files[0])]


main = Convert()
