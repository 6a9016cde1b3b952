"""``rectiflow shape check``: what meshes are like, and their certificates."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, Verb, answer
from rectiflow.quiet import quiet

from rectiflow_cli.shape import flags


class Check(flags.Shape, Verb):
    """Say what is wrong with mesh files, and whether each is watertight, manifold and outward."""

    name = "check"
    examples = ("scan.stl --up z", "out/*.glb --faces 50000 --json")

    def flags(self, parser: Parser) -> None:
        """Add the files and what is asked of them."""
        add = parser.group("input")
        add("paths", metavar="FILE", nargs="+", help="GLB, glTF, OBJ, PLY, STL or OFF.")
        flags.add_up(add)
        flags.add_budget(add)
        parser.add_json()

    def run(self, args: Namespace) -> int:
        """Check all files and tell what was found; files that cannot be read are told too.

        Raises
        ------
        ValueError
            When no file could be read.
        """
        rows: list[dict[str, Any]] = []
        failures: dict[str, str] = {}
        for path in map(Path, args.paths):
            try:
                rows.append(self._checked(path, args))
            except (ValueError, OSError) as error:
                failures[str(path)] = str(error)
        if not rows:
            raise ValueError("\n".join(failures.values()))
        for error in failures.values():
            sys.stderr.write(f"{error}\n")
        text = "\n".join(map(_told, rows))
        answer({"meshes": rows, "failures": failures}, text, as_json=args.json)
        return 2 if failures else 0

    def _checked(self, path: Path, args: Namespace) -> dict[str, Any]:
        from rectiflow_shape.geometry import SURE, SignedDistance, certificate
        from rectiflow_shape.io import read_mesh

        with quiet("rectiflow_shape"):  # the report has all that is warned of
            mesh, report = read_mesh(path, up=args.up)
            confidence = SignedDistance(mesh).confidence()
        return {
            "file": str(path),
            **certificate(mesh, args.faces).document(),
            "low": mesh.bounds[0].tolist(),
            "high": mesh.bounds[1].tolist(),
            "sign": "sure" if confidence > SURE else "unsure",
            "confidence": confidence,
            "report": report.sentences(),
        }


def _told(row: dict[str, Any]) -> str:
    verdicts = [name for name in ("watertight", "manifold", "outward") if row[name]]
    lacks = [f"not {name}" for name in ("watertight", "manifold", "outward") if not row[name]]
    if row["budget"] is not None:
        lacks += [] if row["within_budget"] else [f"more than {row['budget']} faces"]
    sides = " x ".join(
        f"{high - low:.6g}" for low, high in zip(row["low"], row["high"], strict=True)
    )
    lines = [
        f"{row['file']}: {'passed' if row['passed'] else 'not passed'}: "
        f"{', '.join(verdicts + lacks)}",
        f"  {row['faces']} faces, {row['components']} parts, {sides}, volume {row['volume']:.6g}, "
        f"area {row['area']:.6g}",
        f"  inside and outside are {row['sign']} ({row['confidence']:.0%} of the outer area)",
    ]
    return "\n".join([*lines, *(f"  {sentence}" for sentence in row["report"])])


main = Check()
