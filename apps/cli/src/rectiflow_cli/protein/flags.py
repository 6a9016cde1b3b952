"""Flags that several protein commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rectiflow.commands import Parser, add_sampler, pick_device, positive

from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow.solvers import Solver
    from rectiflow_protein.constraints import Constraint
    from rectiflow_protein.designability import SequenceDesigner, StructurePredictor
    from rectiflow_protein.flow import RotationSchedule


class Protein:
    """What every verb of this domain is."""

    domain, pipeline = "protein", "rectiflow_protein.pipeline:BackbonePipeline"


ROTATIONS = ("exponential", "clamped", "exact", "linear")
DEFAULT_RATE = 10.0


def add_solver(parser: Parser, *, steps: int) -> None:
    """Add the flags that say how the flow is solved."""
    add = parser.group("solver")
    add("--steps", type=positive, default=steps, help="Network calls per sample.")
    add_sampler(add, "euler")
    add(
        "--rotation",
        choices=ROTATIONS,
        help="Schedule of rotations; exponential, as published, if absent, and linear for solvers "
        "that turn rotations themselves, such as midpoint.",
    )
    add("--rate", type=float, help=f"Of the exponential schedules; {DEFAULT_RATE:g} if absent.")
    add(
        "--temperature",
        type=float,
        default=0.0,
        help="Share of the noise drawn afresh in each step, 0 (the flow itself) to 1.",
    )
    add(
        "--repulsion",
        action="store_true",
        help="Push apart predicted CA that come too close, as small networks let them.",
    )
    add(
        "--pairing",
        action="store_true",
        help="Draw predicted strands that nearly pair into the hydrogen bonds of a sheet.",
    )


def add_lengths(add: Callable[..., Any], what: str, **options: Any) -> None:
    """Add ``--lengths``."""
    add(
        "--lengths",
        type=lengths_of,
        metavar="A,B|A:B:STEP",
        help=f"Residues of {what}; ends are included.",
        **options,
    )


def add_length(parser: Parser, *, required: bool) -> None:
    """Add ``--length`` and ``--lengths``, of which one may be given."""
    group = parser.add_argument_group("chains").add_mutually_exclusive_group(required=required)
    group.add_argument(
        "--length",
        dest="lengths",
        type=lengths_of,
        metavar="N",
        help="Residues of every sample; of each copy with --symmetry.",
    )
    add_lengths(group.add_argument, "the samples")


def add_bound(add: Callable[..., Any]) -> None:
    """Add the flag that raises the bound of reading."""
    add(
        "--max-megabytes",
        type=positive,
        metavar="MB",
        help="The largest structure file to read, uncompressed; 128 if absent.",
    )


def max_bytes_of(args: argparse.Namespace) -> int:
    """Return the bound of reading, the library's where the flag was not given."""
    from rectiflow_protein.io import MAX_BYTES

    return MAX_BYTES if args.max_megabytes is None else args.max_megabytes * 2**20


def add_tools(parser: Parser) -> None:
    """Add the outside tools that judge designability."""
    add = parser.group("designability, by tools of your own")
    add("--proteinmpnn", metavar="CHECKOUT", help="The folder of a ProteinMPNN checkout.")
    add(
        "--designer-command",
        metavar="COMMAND",
        help="Any sequence designer: a command that reads {pdb} and writes {num} sequences as "
        "FASTA to {fasta}; {temperature} and {seed} are filled in too.",
    )
    add(
        "--predictor",
        metavar="esmfold|FOLDER",
        help="Folds the designed sequences: ESMFold from the local cache or from a folder.",
    )
    add("--num-sequences", type=positive, default=8, help="Sequences designed per backbone.")


def lengths_of(text: str) -> list[int]:
    """Parse lengths: numbers and ranges ``from:to[:step]``, ends included, separated by commas.

    Examples
    --------
    >>> lengths_of("60:68:4,100")
    [60, 64, 68, 100]
    """
    found: list[int] = []
    for part in text.split(","):
        numbers = part.split(":")
        if len(numbers) > 3 or not all(number.strip().isdecimal() for number in numbers):
            raise argparse.ArgumentTypeError(
                f"expected lengths such as 60,80,100 or 60:128:4, got {text!r}"
            )
        first, last, step = [int(n) for n in numbers] + [int(numbers[0]), 1][len(numbers) - 1 :]
        if step < 1 or last < first:
            raise argparse.ArgumentTypeError(
                f"expected a range from:to:step that goes up, got {part!r}"
            )
        found += range(first, last + 1, step)
    if min(found) < 2:
        raise argparse.ArgumentTypeError(f"expected at least 2 residues, got {min(found)}")
    return found


def make_solver(args: argparse.Namespace) -> Solver:
    """Return the integrator that the flags describe, on the grid that they name."""
    from rectiflow.spacing import OnGrid

    solver = _solver(args)
    return solver if getattr(args, "grid", None) is None else OnGrid(solver, args.grid)


def _solver(args: argparse.Namespace) -> Solver:
    solver, rotation, rate = args.solver, args.rotation, args.rate
    temperature = args.temperature
    from rectiflow.solvers import Euler
    from rectiflow_protein import flow

    if temperature and solver != Euler():
        raise UsageError(
            f"--temperature needs --solver euler, got {solver}; leave one of them out."
        )
    if solver != Euler() and not solver.flat_only:
        if rotation not in (None, "linear") or rate is not None:
            raise UsageError(
                f"{solver} turns rotations at the pace of translations, got "
                f"--rotation {rotation or 'exponential'}; expected linear. Use --solver euler for "
                "other schedules."
            )
        return solver
    if rotation == "linear":
        if rate is not None:
            raise UsageError(f"--rotation linear has no rate, got --rate {rate:g}; leave it out.")
        return _frame_solver(solver, flow.LinearSchedule(), temperature)
    schedules: dict[str, Callable[[float], RotationSchedule]] = {
        "exponential": flow.ExponentialSchedule,
        "clamped": flow.ClampedExponentialSchedule,
        "exact": flow.ExactExponentialSchedule,
    }
    rate = DEFAULT_RATE if rate is None else rate
    if not rate > 0:
        raise UsageError(f"--rate must be positive, got {rate:g}; 10 is published.")
    return _frame_solver(solver, schedules[rotation or "exponential"](rate), temperature)


def _frame_solver(solver: Solver, schedule: RotationSchedule, temperature: float) -> Solver:
    from rectiflow_protein.flow import FrameAncestral, FrameEuler

    if solver.flat_only:
        from rectiflow_protein.split import FrameSplit

        return FrameSplit(solver, schedule)
    return FrameAncestral(temperature, schedule) if temperature else FrameEuler(schedule)


def add_constraints(parser: Parser, *, whole_chains: bool) -> None:
    """Add the flags that say what samples have to be like; some only fit whole new chains."""
    add = parser.group("constraints")
    if whole_chains:
        add("--helix", type=float, metavar="SHARE", help="Share of helix, by DSSP, within 0.1.")
        add("--strand", type=float, metavar="SHARE", help="Share of strand, by DSSP, within 0.1.")
        add(
            "--symmetry",
            metavar="C3",
            help="Copies around an axis (C2, C3, ...), two rings of them (D2, ...), or T, O, I.",
        )
    add(
        "--contact",
        action="append",
        default=[],
        metavar="5-40:6",
        help="CA of two residues, counted from 1, at most so many Å apart; may be repeated.",
    )
    add(
        "--tries",
        type=positive,
        default=1,
        metavar="N",
        help="How often to make a sample that misses what is asked for, each time from other "
        "noise; the nearest is kept.",
    )


def make_constraints(args: argparse.Namespace, *own: Constraint) -> list[Constraint]:
    """Return what the flags that the command has ask for.

    The command's own come behind those that would move what they hold, and before copies are made.
    """
    from rectiflow_protein.composition import Composition
    from rectiflow_protein.contacts import read_contact
    from rectiflow_protein.pairing import Pairing
    from rectiflow_protein.repulsion import Repulsion
    from rectiflow_protein.symmetry import Symmetry

    given = vars(args)
    found: list[Constraint] = []
    if (shares := (given.get("helix"), given.get("strand"))) != (None, None):
        found.append(Composition(*shares))
    found += [read_contact(text) for text in given.get("contact", ())]
    if args.pairing:
        found.append(Pairing())
    if args.repulsion:
        found.append(Repulsion())
    found += own
    if given.get("symmetry") is not None:
        found.append(Symmetry(args.symmetry))
    return found


def make_tools(
    args: argparse.Namespace,
) -> tuple[SequenceDesigner | None, StructurePredictor | None]:
    """Return the designer and the predictor, both or neither."""
    if args.proteinmpnn and args.designer_command:
        raise UsageError("two designers, got --proteinmpnn and --designer-command; expected one.")
    wants_designer = bool(args.proteinmpnn or args.designer_command)
    if wants_designer != bool(args.predictor):
        absent = "--predictor" if wants_designer else "--proteinmpnn or --designer-command"
        raise UsageError(
            f"designability needs a designer and a predictor, got no {absent}; expected both. "
            f"Add {absent}, or leave the other out."
        )
    if not wants_designer:
        return None, None
    from pathlib import Path

    from rectiflow_protein.designability import ESMFold, ProteinMPNN

    from rectiflow_cli.protein.designer import CommandDesigner

    designer: SequenceDesigner = (
        ProteinMPNN(Path(args.proteinmpnn))
        if args.proteinmpnn
        else CommandDesigner(args.designer_command)
    )
    name = "facebook/esmfold_v1" if args.predictor == "esmfold" else args.predictor
    return designer, ESMFold.from_cache(name, device=pick_device(args.device))
