"""Flags that several protein commands share, and how commands answer."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    import torch
    from rectiflow.solvers import Solver
    from rectiflow_protein.designability import SequenceDesigner, StructurePredictor
    from rectiflow_protein.flow import RotationSchedule
    from rectiflow_protein.pipeline import BackbonePipeline

ROTATIONS = ("exponential", "clamped", "exact", "linear")
DEFAULT_RATE = 10.0


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def __init__(self, verb: str, description: str | None, **options: Any) -> None:
        super().__init__(
            prog=f"rectiflow protein {verb}",
            description=(description or "").strip().partition("\n\n")[0],
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the message instead of printing the usage."""
        raise UsageError(f"{message}. See: {self.prog} --help")

    def add_json(self) -> None:
        """Add ``--json``."""
        self.add_argument("--json", action="store_true", help="print one JSON document")

    def add_sampling(self, *, steps: int) -> None:
        """Add the flags that say which network samples, and how."""
        add = self.add_argument
        add("--weights", default="small", help="a shipped name, a folder, a file, or owner/name")
        add("--steps", type=positive, default=steps, help="network calls per sample")
        add("--seed", type=int, default=0, help="with a sample's number, fixes its noise")
        add("--device", default="auto", help="auto, cpu, cuda or cuda:INDEX")
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


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


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


def shard_of(text: str) -> tuple[int, int]:
    """Parse ``i/n`` with ``0 <= i < n``.

    Examples
    --------
    >>> shard_of("1/4")
    (1, 4)
    """
    part, slash, parts = text.partition("/")
    if not slash or not part.isdecimal() or not parts.isdecimal() or int(part) >= int(parts):
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, got {text!r}")
    return int(part), int(parts)


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU if there is one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not index.isdecimal()):
        raise UsageError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:0.")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= count:
        raise UsageError(
            f"device {name!r} is not there, got {count} CUDA device(s) on this machine; expected "
            "one of them. Leave --device out to take what there is."
        )
    return torch.device(name)


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


def answer(document: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result: for machines one JSON document, for people a text."""
    sys.stdout.write((json.dumps(plain(document), indent=2) if as_json else text) + "\n")


def plain(value: Any) -> Any:
    """Turn a result into JSON values; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Lay out rows under the names of their columns, numbers to the right."""
    columns = list(rows[0])
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
