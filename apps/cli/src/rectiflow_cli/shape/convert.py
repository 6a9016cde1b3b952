"""``rectiflow shape convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Parser

from rectiflow_cli.errors import UsageError
from rectiflow_cli.shape.flags import Shape

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapePipeline


class Convert(Shape, commands.Convert):
    """Convert TripoSG's checkpoints to ours and back; every tensor is accounted for."""

    examples = ("TripoSG -o ours", "ours --to official -o theirs")
    licence = "licence: the model card of the released weights says MIT"
    official_files = ("transformer", "vae", "scheduler")
    then = "from-image photo.png --weights {folder} -o out.glb"

    def own_flags(self, parser: Parser) -> None:
        """Add parts."""
        add = parser.group("the authors' files")
        add("--part", choices=("network", "vae", "image"), help="Convert one network alone.")

    def official(self, path: Path, args: Any) -> Any:
        """Load all networks together, or one."""
        if args.part is None:
            return super().official(path, args)
        from rectiflow_shape.weights import load_official_part

        return load_official_part(path, args.part)

    def write_official(self, pipe: ShapePipeline, out: Path, args: Any) -> list[Path]:
        """Write the folders ``transformer``, ``vae`` and ``scheduler``."""
        from rectiflow_shape.weights import save_official

        if pipe.vae is None:
            raise UsageError(
                f"{args.checkpoint} is a Mosaic-SDF, which has no official code; expected TripoSG."
            )
        return save_official(pipe, out)


main = Convert()
