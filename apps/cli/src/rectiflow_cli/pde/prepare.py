"""``rectiflow pde prepare``: flows of other solvers to shards."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser

from rectiflow_cli.pde import flags


class Prepare(flags.Pde, commands.Prepare):
    """Turn flows of other solvers into shards to train on, in SI units."""

    examples = (
        "runs -o shards --viscosity 1e-3 --density 1000 --infer-boundaries",
        "meshgraphnets -o shards --viscosity 1e-3 --density 1 --time-step 0.01",
    )
    takes = "Trajectories (npz, HDF5), series (PVD, XDMF, VTU) or prepared flows, or one of them."
    then = "train data.dir={folder}"
    mend = "Name what is missing, or mend the files, into a new folder."

    def own_flags(self, parser: Parser) -> None:
        """Add units, names and boundaries."""
        flags.add_units(parser.group("units"))
        add = parser.group("fields and boundaries")
        add("--velocity", metavar="NAME", help="Its field, where several could be meant.")
        add("--pressure", metavar="NAME", help="Its field, where several could be meant.")
        flags.add_boundaries(add)
        add(
            "--resample",
            type=flags.number,
            metavar="DT",
            help="Seconds between frames, linearly, where times are not even.",
        )
        add(
            "--split-list",
            metavar="FILE",
            help="CSV with name and split of flows; the rest by --splits.",
        )

    def prepare(self, args: Any, **how: Any) -> Any:
        """Prepare the flows."""
        from rectiflow.storage.reading import read_rows
        from rectiflow_pde.data.prepare import Reading, prepare
        from rectiflow_pde.io import FieldNames

        listed = read_rows(args.split_list, ("name", "split")) if args.split_list else []
        return prepare(
            args.folder,
            args.out,
            reading=Reading(
                flags.units(args),
                FieldNames(args.velocity, args.pressure),
                flags.boundaries(args),
                args.resample,
            ),
            splits={row["name"]: row["split"] for _, row in listed},
            **how,
        )


main = Prepare()
