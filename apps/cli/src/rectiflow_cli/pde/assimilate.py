"""``rectiflow pde assimilate``: flows that sensors have read."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, answer, positive, table, words
from rectiflow.costs import Load
from rectiflow.results import plain
from rectiflow.storage.files import write_json
from rectiflow.storage.folders import claim
from rectiflow.storage.reading import digest_of_file

from rectiflow_cli.errors import UsageError
from rectiflow_cli.methods import add_method, make_method
from rectiflow_cli.pde.flags import Pde, add_boundaries, number
from rectiflow_cli.pde.simulate import SUFFIXES, inputs

if TYPE_CHECKING:
    from rectiflow.inverse import Method

METHODS = ("expected", "posterior", "projected", "flowchef", "red-diff")
COMPARISON = "methods.json"


def method_of(name: str) -> Method:
    """Return the method of that name, which may be this domain's own."""
    from rectiflow_pde.assimilation import Expected

    return Expected() if name == "expected" else make_method(name)


class Assimilate(Pde, commands.Make):
    """Estimate flows from sparse, noisy, moving sensors.

    The table of readings has columns x, y (m), t (s after the first frame) and any of u, v (m/s), p
    (over density, m²/s²); a sensor that moves has another place in each row, and an empty cell was
    not measured. What the checkpoint's flow leaves over of the readings is kriged with a kernel
    that travels with the vortices. Flows have no weak divergence, the parabola at the inflow, and
    rest at walls.
    """

    name, unit = "assimilate", "flow"
    examples = (
        '--sensors readings.csv --prompt "radius 0.05, Re 120" -o flow',
        '--sensors buoys.csv --mesh channel.msh --prompt "Re 80" --compare -o methods',
    )

    def own_flags(self, parser: Parser) -> None:
        """Add readings, what else is known, and how samples are led."""
        add = parser.group("flow")
        add("--sensors", required=True, metavar="CSV", help="The readings.")
        add("--prompt", type=words, required=True, metavar="WORDS", help="The flow in words.")
        add("--mesh", metavar="FILE", help="Gmsh, VTU, XDMF; made from the prompt if absent.")
        add_boundaries(add)
        add("--viscosity", type=number, metavar="NU", help="In m²/s; 1e-3 unless the prompt tells.")
        add = parser.group("assimilation")
        add("--noise", type=number, default=0.02, help="Of readings, as a share of the inflow.")
        add_method(add, METHODS)
        add("--evaluations", type=positive, default=12, help="Of the network for each sample.")
        add("--compare", action="store_true", help="Tell every method by sensors held back.")
        add("--free", action="store_true", help="Hold neither divergence nor boundary values.")
        add("--num", type=positive, default=1, help="Samples, which differ by their noise.")
        add = parser.group("output")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--format", choices=SUFFIXES, default="npz", help="For ParaView: vtu and xdmf.")
        add("--gif", action="store_true", help="Draw an animation of each flow as well.")

    def run(self, args: Any) -> int:
        """Assimilate, or compare the ways to do it."""
        if args.compare and args.plan:
            raise UsageError("--plan is of the samples of one method; leave --compare out.")
        return self._compare(args) if args.compare else super().run(args)

    def _compare(self, args: Any) -> int:
        from rectiflow_pde.comparison import compare_assimilations
        from rectiflow_pde.readings import read_readings

        readings, out = read_readings(args.sensors), Path(args.out)
        found, notes = inputs(args, "mesh")
        with claim(out, "comparison", [COMPARISON], overwrite=args.overwrite):
            rows = compare_assimilations(
                self.load(args),
                readings,
                args.prompt,
                methods={name: method_of(name) for name in METHODS},
                **found,
                viscosity=args.viscosity,
                noise=args.noise,
                evaluations=args.evaluations,
                hold=not args.free,
                seed=args.seed,
            )
            told = [asdict(row) for row in rows]
            document = plain({"methods": told, "evaluations": args.evaluations, "notes": notes})
            write_json(out / COMPARISON, document)
        text = (
            f"{table(told)}\nerror is the root mean square over the sensors held back, in units of "
            f"the inflow; wrote {out / COMPARISON}"
        )
        answer(document, text, as_json=args.json)
        return 0

    def jobs(self, args: Any) -> list[Job]:
        """Lay out the samples by number."""
        sensors = Path(args.sensors)
        digest = digest_of_file(sensors) if sensors.is_file() else ""
        names = ("prompt", "mesh", "viscosity", "format", "gif")
        asked = {name: getattr(args, name) for name in names} | {"readings_sha256": digest}
        return [Job(f"flow_{i:04d}", i, expected={"asked": asked}) for i in range(args.num)]

    def settings(self, args: Any, pipe: Any) -> dict[str, Any]:
        """Return what shapes the flows."""
        names = ("noise", "method", "evaluations", "free", "seed")
        return {name: getattr(args, name) for name in names}

    def loads(self, args: Any, pipe: Any, jobs: list[Job]) -> list[Load]:
        """Return the batches that the samples come to."""
        from rectiflow_pde.readings import read_readings

        count, kind = len(read_readings(args.sensors).values), type(method_of(args.method)).__name__
        chunks = self.chunks(args, pipe, jobs)
        return [Load(len(chunk), count, args.evaluations, part=kind) for chunk in chunks]

    def lighter(self, rows: int, tokens: int) -> str:
        """Return a bound of the samples, or of the readings."""
        return f"--num {rows}" if rows else f"at most {tokens} readings"

    def chunks(self, args: Any, pipe: Any, jobs: list[Job]) -> Any:
        """Take four samples at a time."""
        return (jobs[i : i + 4] for i in range(0, len(jobs), 4))

    def make(self, args: Any, pipe: Any, jobs: list[Job], folder: Path, progress: Tick) -> Made:
        """Assimilate, tell what was odd, and write."""
        from rectiflow_pde.assimilation import assimilate
        from rectiflow_pde.readings import read_readings

        found, notes = inputs(args, "mesh")
        made = assimilate(
            pipe,
            read_readings(args.sensors),
            args.prompt,
            **found,
            viscosity=args.viscosity,
            noise=args.noise,
            evaluations=args.evaluations,
            method=method_of(args.method),
            hold=not args.free,
            indices=[job.asked for job in jobs],
            seed=args.seed,
        )
        for line in (*notes, *made.warnings):
            sys.stderr.write(f"note: {line}\n")
        rows = made.write(folder, SUFFIXES[args.format], animate=args.gif)
        for row, misfit in zip(rows, made.settings["misfit"], strict=True):
            row |= {"misfit": misfit, "warnings": [*notes, *made.warnings]}
            row |= jobs[0].expected
        return rows, made.seconds

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return how far each sample is from the readings."""
        rows = [
            {"flow": row["name"], "misfit": row["misfit"], "files": ", ".join(row["files"][-1:])}
            for row in document["samples"]
        ]
        return (
            f"{table(rows)}\n{document['made']} flows written to {args.out}; misfit is the root "
            "mean square over the readings in units of the inflow"
        )


main = Assimilate()
