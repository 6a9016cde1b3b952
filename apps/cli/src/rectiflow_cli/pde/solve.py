"""``rectiflow pde solve``: flows by a reference solver, into shards."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, positive
from rectiflow.commands.answers import answer
from rectiflow.commands.prepare import add_split, reasons, running
from rectiflow.commands.progress import counter
from rectiflow.storage.preparation import REJECTED, Report

from rectiflow_cli.errors import UsageError
from rectiflow_cli.pde import flags

# Which system takes which flags; a flag of another system is refused, not passed over.
_OWN = {
    "cylinder": (
        *("prompt", "reynolds", "radius", "centre_x", "centre_y", "inflow", "viscosity"),
        *("edge", "time_step", "paraview"),
    ),
    "smoke": ("buoyancy", "cells"),
    "ks": ("length", "points", "viscosity", "time_step", "spread"),
}
_FRAMES = {"cylinder": (31, 0.05, 1.5), "smoke": (48, 1.5, 12.0), "ks": (140, 0.2, 20.0)}


class Solve(flags.Pde, commands.Verb):
    """Solve flows with a reference solver, into shards to train on and to check against."""

    name = "solve"
    examples = (
        "cylinder --num 100 --workers 8 -o shards",
        'cylinder --prompt "cylinder of radius 0.05 m, Re = 100" --paraview pvd -o flow',
    )

    def flags(self, parser: Parser) -> None:
        """Add the flags of all systems."""
        add = parser.group("input and output")
        add("system", choices=tuple(_OWN), help="What is solved.")
        add("-o", "--out", required=True, metavar="SHARDS", help="The folder to write.")
        add("--num", type=positive, default=1, help="How many flows.")
        add("--paraview", choices=("pvd", "xdmf"), help="Write the flows for ParaView as well.")
        add = parser.group("physics")
        drawn = "A number, or A,B to draw from."
        add("--prompt", metavar="TEXT", help="Parameters of a cylinder flow in words.")
        add("--reynolds", type=flags.span, metavar="RE", help=drawn)
        add("--radius", type=flags.span, metavar="M", help=drawn)
        add("--centre-x", type=flags.span, metavar="M", help=drawn)
        add("--centre-y", type=flags.span, metavar="M", help=drawn)
        add("--inflow", type=flags.span, metavar="M/S", help="Its mean: a number, or A,B.")
        add("--viscosity", type=flags.number, metavar="NU", help="Kinematic.")
        add("--buoyancy", type=flags.span, metavar="B", help=drawn)
        add("--length", type=flags.number, help="Of the circle of ks.")
        add("--spread", type=flags.number, help="Share by which ks' length and times are drawn.")
        add = parser.group("discretisation")
        add("--edge", type=flags.number, metavar="M", help="Edges on the cylinder.")
        add("--time-step", type=flags.number, metavar="DT", help="A stable one if absent.")
        add("--cells", type=positive, metavar="N", help="Of smoke, along each side.")
        add("--points", type=positive, metavar="N", help="Of ks, along the circle.")
        flags.add_frames(parser)
        add_split(parser, "Shares of train, valid and test.", "Of the draws and of the split.")
        parser.add_executor()
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Namespace) -> int:
        """Solve, and tell what was."""
        for system, own in _OWN.items():
            for name in own:
                if name not in _OWN[args.system] and getattr(args, name) is not None:
                    raise UsageError(
                        f"--{name.replace('_', '-')} is for {system}, got it with {args.system}; "
                        "leave it out."
                    )
        with counter("solving", unit="flow", quiet=args.json) as show:
            report: Report = getattr(self, f"_{args.system}")(args, show)
        told = reasons(report.folder / REJECTED)
        if args.paraview:
            _write(report.folder, args.paraview)
        document: dict[str, Any] = {**vars(report), "reasons": dict(told)}
        lines = [str(report), *(f"  {count:>6}  {reason}" for reason, count in told)]
        answer(document, "\n".join(lines), as_json=args.json)
        if not report.accepted:
            raise ValueError(
                f"none of {report.inputs} flows could be solved; {report.folder / REJECTED} has "
                "the reason for each. Take a shorter --time-step."
            )
        return 0

    def _cylinder(self, args: Namespace, show: Any) -> Report:
        from rectiflow_pde.data.solve import solve_flows

        told = args.out, _ranges(args), _times(args), args.num
        return solve_flows(*told, edge=args.edge, step=args.time_step, **running(args, show))

    def _smoke(self, args: Namespace, show: Any) -> Report:
        from rectiflow_pde.data.grids import SmokeDraws, solve_grids

        steps = [round(time / 1.5, 9) for time in _times(args)]
        if any(step != int(step) for step in steps):
            raise ValueError("frames of smoke are whole steps of 1.5 apart; mend --frame-step.")
        draws = SmokeDraws(args.buoyancy or (0.2, 0.5), args.cells or 64, tuple(map(int, steps)))
        return solve_grids(args.out, draws, args.num, **running(args, show))

    def _ks(self, args: Namespace, show: Any) -> Report:
        from rectiflow_pde.data.grids import KsDraws, solve_grids
        from rectiflow_pde.solvers.kuramoto_sivashinsky import KuramotoSivashinsky

        told = {"length": args.length, "points": args.points, "step": args.time_step}
        told["viscosity"] = args.viscosity
        equation = KuramotoSivashinsky(**{k: v for k, v in told.items() if v is not None})
        draws = KsDraws(equation, _times(args), args.spread or 0.0)
        return solve_grids(args.out, draws, args.num, **running(args, show))


def _times(args: Namespace) -> tuple[float, ...]:
    frames, step, start = _FRAMES[args.system]
    frames = frames if args.frames is None else args.frames
    step = step if args.frame_step is None else args.frame_step
    start = start if args.start is None else args.start
    if frames < 1 or step <= 0 or start < 0:
        raise UsageError(
            f"frames must be at least 1, their step positive and the start not negative, got "
            f"{frames}, {step:g} and {start:g}."
        )
    return tuple(round(start + step * i, 9) for i in range(frames))


def _ranges(args: Namespace) -> Any:
    """Return what flows are drawn from: the flags, the prompt, else the usual."""
    from rectiflow_pde.prompts import parse_prompt
    from rectiflow_pde.solvers.draws import CylinderRanges
    from rectiflow_pde.units import require_viscosity

    names = {"u_mean": "inflow"}
    given = {
        name: getattr(args, names.get(name, name))
        for name in ("reynolds", "radius", "centre_x", "centre_y", "u_mean", "viscosity")
    }
    given = {name: value for name, value in given.items() if value is not None}
    if args.prompt is not None:
        if given:
            raise UsageError("--prompt tells the parameters, got flags for them as well.")
        prompt = parse_prompt(args.prompt)
        for note in prompt.notes:
            sys.stderr.write(f"{note}\n")
        told = prompt.completed()
        viscosity = told.pop("viscosity")
        spans = {name: (value, value) for name, value in told.items()}
        return CylinderRanges(**spans, viscosity=viscosity)
    if "viscosity" in given:
        require_viscosity(given["viscosity"])
    return CylinderRanges.of(**given)


def _write(folder: Path, suffix: str) -> None:
    """Write every flow beside the shards."""
    from rectiflow_pde.data import PreparedFlows
    from rectiflow_pde.io import write_trajectory

    flows = PreparedFlows(folder)
    for name, flow in zip(flows.table["name"].tolist(), flows, strict=True):
        write_trajectory(flow, folder / "paraview" / f"{name}.{suffix}")


main = Solve()
