"""``rectiflow protein resample``: make a stretch of a structure anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rectiflow.commands import Job, Parser

from rectiflow_cli.protein import flags
from rectiflow_cli.protein.sample import Sample

if TYPE_CHECKING:
    from rectiflow_protein.resample import Resample as Wanted


class Resample(Sample):
    """Make stretches of a chain anew, while every other residue keeps its coordinates exactly.

    The new residues are alanine; side chains of the others are not written.
    """

    name = "resample"
    examples = (
        "protein.pdb --residues 20-35 --num 4 -o loops",
        "complex.cif --residues B5-9,B40-48 -o loops --format cif",
    )
    whole_chains = False

    def what(self, parser: Parser) -> None:
        """Add the structure and its residues."""
        add = parser.group("what is made anew")
        add("file", metavar="FILE", help="The structure.")
        add(
            "--residues",
            required=True,
            metavar="20-35|A20-35,A50",
            help="Residues by the file's own numbers, and its chains where it has several.",
        )
        flags.add_bound(add)

    def jobs(self, args: Any) -> list[Job]:
        """Return a job for each new version."""
        from rectiflow_protein.io import read_structure
        from rectiflow_protein.resample import read_resample

        structure = read_structure(args.file, max_bytes=flags.max_bytes_of(args))
        self.wanted: Wanted = read_resample(structure, args.residues, args.file)
        args.lengths = [self.wanted.length]
        return super().jobs(args)

    def constraints(self, args: Any, key: str = "") -> list[Any]:
        """Return what keeps the rest, and what the flags ask for beside it."""
        return flags.make_constraints(args, self.wanted)


main = Resample()
