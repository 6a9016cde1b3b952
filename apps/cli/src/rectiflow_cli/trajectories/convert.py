"""``rectiflow trajectories convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Parser, positive
from rectiflow.storage.files import whole_file

if TYPE_CHECKING:
    from rectiflow_trajectories.pipeline import TrajectoryPipeline


class Convert(commands.Convert):
    """Convert GeoTDM's checkpoints to ours and back; every tensor is accounted for."""

    domain = "trajectories"
    pipeline = "rectiflow_trajectories.pipeline:TrajectoryPipeline"
    examples = ("geotdm.pt --diffusion 100 -o ours", "ours --to official -o theirs")
    licence = "licence: the authors' repository says MIT"
    official_files = ("geotdm.pt",)
    then = "forecast FILE --weights {folder} -o futures"

    def own_flags(self, parser: Parser) -> None:
        """Add what the tensors do not tell."""
        add = parser.group("what the tensors do not tell")
        add("--given", type=int, help="Given frames; as published if absent.")
        add("--frames", type=positive, default=20, help="Frames made, without a learned prior.")
        add("--diffusion", type=positive, help="Steps of the diffusion; as published if absent.")

    def official(self, path: Path, args: Any) -> Any:
        """Load the authors' checkpoint."""
        from rectiflow_trajectories.weights import load_official

        return load_official(path, given=args.given, frames=args.frames, steps=args.diffusion)

    def write_official(self, pipe: TrajectoryPipeline, out: Path, args: Any) -> list[Path]:
        """Write the tensors under the same names."""
        import torch
        from rectiflow_trajectories.networks import EGTN

        if type(pipe.network) is not EGTN:
            raise ValueError(
                f"the authors' code knows EGTN alone, got a {type(pipe.network).__name__}; "
                "expected weights of it."
            )
        path = out / "geotdm.pt"
        with whole_file(path) as temporary:
            tensors = {k: v.detach().cpu().clone() for k, v in pipe.network.state_dict().items()}
            torch.save(tensors, temporary)
        return [path]


main = Convert()
