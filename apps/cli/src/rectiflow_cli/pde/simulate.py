"""``rectiflow pde simulate``: flows from words, or from a first frame on a mesh."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rectiflow import commands
from rectiflow.commands import (
    Job,
    Made,
    Parser,
    Tick,
    add_rule,
    add_sampler,
    positive,
    sampling_of,
    table,
    words,
)
from rectiflow.costs import Load

from rectiflow_cli.errors import UsageError
from rectiflow_cli.pde.flags import Pde, add_boundaries, boundaries, number

SUFFIXES = {"npz": ".npz", "vtu": ".pvd", "xdmf": ".xdmf"}
STRETCH = 4
"""Frames that ``--verify`` solves again."""


class Simulate(Pde, commands.Make):
    """Simulate flows past a cylinder from words, from a first frame on a mesh, or both.

    The mesh is made from the prompt where none is given. Samples that are there already are kept.
    """

    name, unit, shipped = "simulate", "flow", "small_march"
    examples = (
        '--prompt "flow past a cylinder of radius 0.05 at Re 120" --num 8 --verify -o flows',
        "--first-frame frame.npz --mesh channel.msh --format vtu --gif -o flow",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add what is asked for, how it is sampled, and what is written."""
        add = parser.group("flow")
        add("--prompt", type=words, metavar="WORDS", help="The flow in words, lengths in metres.")
        add("--first-frame", metavar="NPZ", help="Fields u, v, p at the nodes of --mesh.")
        add("--mesh", metavar="FILE", help="Gmsh, VTU, XDMF; made from the prompt if absent.")
        add("--onto", metavar="FILE", help="The mesh of the result, if it is another.")
        add_boundaries(add)
        add("--viscosity", type=number, metavar="NU", help="In m²/s; 1e-3 unless the prompt tells.")
        add = parser.group("sampling")
        add("--num", type=positive, default=1, help="Samples, which differ by their noise.")
        add("--frames", type=positive, help="Of each sample; the checkpoint's own if absent.")
        add(
            "--restart",
            type=positive,
            metavar="N",
            help="Frame of a stretch that the next goes on from; the checkpoint's own if absent.",
        )
        add("--steps", type=positive, help="Of the solver; the checkpoint's own if absent.")
        add_sampler(add, "euler")
        add("--guidance", type=float, help="By the prompt, 1 is none; the checkpoint's if absent.")
        add_rule(add)
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=SUFFIXES, default="npz", help="For ParaView: vtu and xdmf.")
        add("--gif", action="store_true", help="Draw an animation of each flow as well.")
        add(
            "--verify",
            action="store_true",
            help="Solve the first frames again with the reference solver and tell the true error.",
        )

    def jobs(self, args: Any) -> list[Job]:
        """Lay out the samples by number."""
        if args.prompt is None and args.first_frame is None:
            raise UsageError(
                "nothing says which flow is wanted; expected --prompt WORDS, or --first-frame NPZ "
                "with --mesh FILE."
            )
        if args.first_frame is not None and args.mesh is None:
            raise UsageError("--first-frame needs --mesh: whose nodes do its values belong to?")
        if args.verify and args.frames == 1:
            raise UsageError(
                "--verify solves from one frame to the next, got --frames 1; expected 2."
            )
        return [Job(f"flow_{i:04d}", i, expected={"asked": self._asked(args)})
                for i in range(args.num)]  # fmt: skip

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the flows."""
        own = pipe.settings
        return {
            "frames": args.frames or pipe.length,
            "restart": args.restart or pipe.hop,
            "steps": own.steps if args.steps is None else args.steps,
            "solver": repr(args.solver),
            "grid": args.grid and repr(args.grid),
            "rule": args.guidance_rule and repr(args.guidance_rule),
            "guidance": own.guidance if args.guidance is None else args.guidance,
            "seed": args.seed,
        }

    def loads(self, args: Any, pipe: Any, jobs: list[Job]) -> list[Load]:
        """Return the batches that the samples come to."""
        calls = args.solver.nfe * (args.steps or pipe.settings.steps)
        calls *= pipe.stretches(args.frames, args.restart)
        part = "words" if args.first_frame is None else "frame"
        chunks = self.chunks(args, pipe, jobs)
        return [Load(len(chunk), 1, calls, part=part) for chunk in chunks]

    def lighter(self, rows: int, tokens: int) -> str:
        """Return a bound of the samples."""
        return f"--num {rows}" if rows else "a device with more memory, such as --device cpu"

    def chunks(self, args: Any, pipe: Any, jobs: list[Job]) -> Iterator[list[Job]]:
        """Take four samples at a time."""
        return (jobs[i : i + 4] for i in range(0, len(jobs), 4))

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Simulate, tell what was odd, and write."""
        from rectiflow_pde.io.first_frame import read_first_frame
        from rectiflow_pde.verify import verify

        found, notes = inputs(args, "mesh", "onto")
        if args.first_frame is not None:
            found["first_frame"], said = read_first_frame(args.first_frame, found["mesh"])
            notes += said
        found |= {"viscosity": args.viscosity, **sampling_of(args)}
        found |= {"frames": args.frames, "restart": args.restart}
        made = pipe(args.prompt, indices=[job.asked for job in jobs], **found)
        for line in (*notes, *made.warnings):
            sys.stderr.write(f"note: {line}\n")
        rows = made.write(folder, SUFFIXES[args.format], animate=args.gif)
        for row, flow in zip(rows, made.flows, strict=True):
            row["asked"] = self._asked(args)
            row["warnings"] = [*notes, *made.warnings]
            if args.verify:
                error = verify(flow, frames=STRETCH).error
                row["verified_error"] = [round(float(value), 4) for value in error]
        return rows, made.seconds

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return the samples as a table, with the true error where it was asked for."""
        rows = [
            {
                "flow": row["name"],
                "Re": row["parameters"].get("reynolds"),
                "files": ", ".join(row["files"][-1:]),
                **({"true error": max(row["verified_error"])} if "verified_error" in row else {}),
            }
            for row in document["samples"]
        ]
        return f"{table(rows)}\n{document['made']} flows written to {args.out}"

    def _asked(self, args: Any) -> dict[str, Any]:
        names = ("prompt", "first_frame", "mesh", "onto", "viscosity", "format", "gif", "verify")
        return {name: getattr(args, name) for name in names}


def inputs(args: Any, *names: str) -> tuple[dict[str, Any], list[str]]:
    """Read the meshes of some flags, and tell what was done to them."""
    from rectiflow_pde.io.meshes import read_mesh

    found: dict[str, Any] = {}
    notes: list[str] = []
    for name in names:
        path = getattr(args, name)
        if path is not None:
            read = read_mesh(path, boundaries=boundaries(args))
            found[name] = read.mesh
            notes += [f"{path}: {note}" for note in read.notes]
    return found, notes


main = Simulate()
