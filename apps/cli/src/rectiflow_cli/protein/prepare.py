"""``rectiflow protein prepare``: structure files to shards of chains."""

from __future__ import annotations

import argparse
from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, positive

from rectiflow_cli.protein import flags

OWN = (
    *("min_length", "max_length", "max_coil", "rg_quantile", "max_resolution", "max_chains"),
    "clusters",
)


class Prepare(flags.Protein, commands.Prepare):
    """Turn a folder of structure files into shards of chains to train on."""

    examples = (
        "structures -o shards --min-length 40 --max-length 128",
        "pdb -o shards --published --workers 8",
    )
    takes = "Structure files (PDB, mmCIF, BinaryCIF) or archives, or one such file."
    then = "train data.dir={folder} experiment=small"
    mend = "Loosen the filters (--min-length, --max-length, ...), into a new folder."

    def own_flags(self, parser: Parser) -> None:
        """Add the filters and the clusters."""
        add = parser.group("filters")
        add("--published", action="store_true", help="Filter as the published PDB set.")
        # Absent flags leave the choice to the library, or to --published.
        absent: dict[str, Any] = {"default": argparse.SUPPRESS}
        add("--min-length", type=positive, help="Residues, included; 60 if absent.", **absent)
        add("--max-length", type=positive, help="Residues, included; 512 if absent.", **absent)
        add("--max-coil", type=float, metavar="SHARE", help="Largest share of coil.", **absent)
        add(
            "--rg-quantile",
            type=float,
            metavar="Q",
            help="Keep chains compact for their length; 0.96 is published.",
            **absent,
        )
        add("--max-resolution", type=float, metavar="Å", help="Not included.", **absent)
        add("--max-chains", type=positive, help="Chains of a file; 1 keeps monomers.", **absent)
        add(
            "--clusters",
            metavar="FILE",
            help="Clusters that stay in one split; by shared 4-mers if absent.",
            **absent,
        )
        flags.add_bound(add)

    def prepare(self, args: Any, **how: Any) -> Any:
        """Prepare the chains."""
        from rectiflow_protein.data import PUBLISHED_FILTERS, prepare

        filters = PUBLISHED_FILTERS if args.published else {}
        given = {name: value for name, value in vars(args).items() if name in OWN}
        return prepare(
            args.folder,
            args.out,
            **{**filters, **given, "max_bytes": flags.max_bytes_of(args)},
            **how,
        )


main = Prepare()
