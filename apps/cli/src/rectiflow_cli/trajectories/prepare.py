"""``rectiflow trajectories prepare``: files of trajectories to shards of windows."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, positive

from rectiflow_cli.trajectories.flags import Trajectories, add_files

KINDS = ("particles", "molecule", "molecule-full", "pedestrians")


class Prepare(Trajectories, commands.Prepare):
    """Turn files of trajectories into shards of windows to train on."""

    examples = (
        "runs -o shards",
        "md17 -o shards --kind molecule --every 10 --stride 1 --most 7000 --splits 0.6,0.2,0.2",
    )
    takes = (
        "Files: loc*.npy of N-body runs with charges and edges, NPZ of MD17 or with positions, CSV "
        "of frame, node, x, y, z, TXT of ETH and UCY, XYZ."
    )
    then = "train data.dir={folder}"
    mend = "Correct the files, into a new folder."

    def own_flags(self, parser: Parser) -> None:
        """Add what is cut out."""
        add = parser.group("windows")
        add("--kind", choices=KINDS, default="particles", help="Which features nodes have.")
        add("--given", type=int, default=10, help="Frames told; 0 for whole trajectories.")
        add("--frames", type=positive, default=20, help="Frames to forecast, or to make.")
        add("--stride", type=positive, help="Frames between windows; their length if absent.")
        add("--every", type=positive, default=1, help="Keep one frame of so many.")
        add("--most", type=positive, help="Windows of a trajectory, evenly spaced.")
        add_files(add)

    def prepare(self, args: Any, **how: Any) -> Any:
        """Prepare the windows."""
        from rectiflow_trajectories.data import Windows, prepare

        cut = ("kind", "given", "frames", "stride", "every", "most", "unit", "unwrap")
        return prepare(
            args.folder,
            args.out,
            windows=Windows(**{name: getattr(args, name) for name in cut}),
            **how,
        )


main = Prepare()
