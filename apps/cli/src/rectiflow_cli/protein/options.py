"""Flags that several protein commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rectiflow_cli import options
from rectiflow_cli.errors import UsageError
from rectiflow_cli.options import pick_device, positive

if TYPE_CHECKING:
    import torch
    from rectiflow.solvers import Solver
    from rectiflow_protein.designability import SequenceDesigner, StructurePredictor
    from rectiflow_protein.flow import RotationSchedule
    from rectiflow_protein.pipeline import BackbonePipeline

ROTATIONS = ("exponential", "clamped", "exact", "linear")
DEFAULT_RATE = 10.0


class Parser(options.Parser):
    """The parser of a protein command."""

    def __init__(self, verb: str, description: str | None, **settings: Any) -> None:
        super().__init__("protein", verb, description, **settings)

    def add_sampling(self, *, steps: int) -> None:
        """Add the flags that say which network samples, and how."""
        self.add_model()
        add = self.add_argument
        add("--steps", type=positive, default=steps, help="network calls per sample")
        add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the edges")
        add("--solver", choices=("euler", "midpoint"), default="euler", help="integrator")
        add(
            "--rotation",
            choices=ROTATIONS,
            help="schedule of rotations; by default exponential, as published, and linear for "
            "other solvers than euler",
        )
        add("--rate", type=float, help=f"of the exponential schedules; {DEFAULT_RATE:g} if absent")
        add("--compile", action="store_true", help="compile the network first")

    def add_bound(self) -> None:
        """Add the flag that raises the bound of reading."""
        self.add_argument(
            "--max-megabytes",
            type=positive,
            metavar="MB",
            help="largest structure file to read, uncompressed; 128 if absent",
        )

    def add_tools(self) -> None:
        """Add the outside tools that judge designability."""
        add = self.add_argument
        add("--proteinmpnn", metavar="CHECKOUT", help="folder of a ProteinMPNN checkout")
        add(
            "--designer-command",
            metavar="COMMAND",
            help="any sequence designer: a command that reads {pdb} and writes {num} sequences as "
            "FASTA to {fasta}; {temperature} and {seed} are filled in too",
        )
        add(
            "--predictor",
            metavar="esmfold|FOLDER",
            help="folds the designed sequences: ESMFold from the local cache or from a folder",
        )
        add("--num-sequences", type=positive, default=8, help="designed per backbone")


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


def max_bytes_of(megabytes: int | None) -> int:
    """Return the bound of reading, the library's where the flag was not given."""
    from rectiflow_protein.io import MAX_BYTES

    return MAX_BYTES if megabytes is None else megabytes * 2**20


def make_solver(solver: str, rotation: str | None, rate: float | None) -> Solver:
    """Return the integrator that the flags describe."""
    from rectiflow.solvers import Midpoint
    from rectiflow_protein import flow

    if solver != "euler":
        if rotation not in (None, "linear") or rate is not None:
            raise UsageError(
                f"--solver {solver} turns rotations at the pace of translations, got "
                f"--rotation {rotation or 'exponential'}; expected linear. Use --solver euler for "
                "other schedules."
            )
        return Midpoint()
    if rotation == "linear":
        if rate is not None:
            raise UsageError(f"--rotation linear has no rate, got --rate {rate:g}; leave it out.")
        return flow.FrameEuler(flow.LinearSchedule())
    schedules: dict[str, Callable[[float], RotationSchedule]] = {
        "exponential": flow.ExponentialSchedule,
        "clamped": flow.ClampedExponentialSchedule,
        "exact": flow.ExactExponentialSchedule,
    }
    rate = DEFAULT_RATE if rate is None else rate
    if not rate > 0:
        raise UsageError(f"--rate must be positive, got {rate:g}; 10 is published.")
    return flow.FrameEuler(schedules[rotation or "exponential"](rate))


def make_pipeline(args: argparse.Namespace) -> BackbonePipeline:
    """Load the network that the flags name, where and as they say."""
    import torch
    from rectiflow_protein.pipeline import BackbonePipeline

    pipe = BackbonePipeline.from_pretrained(
        args.weights, device=pick_device(args.device), edge_dtype=getattr(torch, args.dtype)
    )
    return pipe.compile() if args.compile else pipe


def make_tools(
    args: argparse.Namespace, device: torch.device
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
    return designer, ESMFold.from_cache(name, device=device)
