"""Solvers and grids by name: what ``--solver`` and ``--grid`` of every domain take."""

from __future__ import annotations

import argparse
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rectiflow import solvers
from rectiflow.guidance import RectifiedCFG
from rectiflow.refiner import FlowTurbo
from rectiflow.search import SearchedGrids
from rectiflow.spacing import GRIDS, Spaced


class Method(NamedTuple):
    """What a name stands for.

    Attributes
    ----------
    make : callable
        The class of a solver, or a function that makes a grid.
    given : mapping of str to number
        The parameters that may follow the name, and their values where they do not.
    """

    make: Any
    given: Mapping[str, float] = {}


SOLVERS = {
    "euler": Method(solvers.Euler),
    "midpoint": Method(solvers.Midpoint),
    "heun": Method(solvers.Heun),
    "rk4": Method(solvers.RK4),
    "dopri5": Method(solvers.Dopri5, {"rtol": 1e-5, "atol": 1e-5}),
    "fireflow": Method(solvers.FireFlow),
    "pseudo-corrector": Method(solvers.PseudoCorrector),
    "adams": Method(solvers.Adams, {"order": 2}),
    "hb": Method(solvers.HB, {"terms": 2, "beta": 0.8}),
    "ghvb": Method(solvers.GHVB, {"order": 2, "beta": 0.8}),
    "ddim": Method(solvers.DDIM),
    "dpm-2": Method(solvers.DPMSolver2),
    "dpm-3": Method(solvers.DPMSolver3),
    "dpmpp-2s": Method(solvers.DPMSolverPP2S),
    "dpmpp-2m": Method(solvers.DPMSolverPP2M),
    "dpmpp-3m": Method(solvers.DPMSolverPP3M),
    "bdia": Method(solvers.BDIA, {"gamma": 1.0}),
    "ancestral": Method(solvers.Ancestral, {"eta": 1.0}),
    "sde": Method(solvers.InterpolantSDE, {"epsilon": 1.0}),
}


class Stored(NamedTuple):
    """A solver or a grid that lies beside the weights, to be read when they are known."""

    kind: Any
    given: dict[str, float]


STORED_SOLVERS = {
    "dpm-v3": Method(solvers.DPMSolverV3, {"terms": 3}),
    "flowturbo": Method(FlowTurbo, {"heun": 1, "refined": 3}),
}
"""Solvers that need something beside the weights, which ``load(folder, **given)`` reads."""

STORED_GRIDS = {"searched": Method(SearchedGrids)}


def solver_of(text: str) -> Any:
    """Parse a solver: its name, and its parameters after colons.

    Examples
    --------
    >>> solver_of("adams:3"), solver_of("ghvb:2:0.7").beta
    (Adams(order=3, start=RK4(), fewest=8), 0.7)
    """
    if text.partition(":")[0] in STORED_SOLVERS:
        return Stored(*_parsed("solver", text, STORED_SOLVERS))
    make, given = _parsed("solver", text, {**SOLVERS, **STORED_SOLVERS})
    return _made(make, given)


def grid_of(text: str) -> Any:
    """Parse a grid likewise.

    Examples
    --------
    >>> grid_of("shifted:2")
    shifted(2)
    """
    if text in STORED_GRIDS:
        return Stored(*_parsed("grid", text, STORED_GRIDS))
    known = {name: Method(make, given) for name, (make, given) in GRIDS.items()}
    make, given = _parsed("grid", text, {**known, **STORED_GRIDS})
    grid = Spaced(make, tuple(given.values()))
    _made(lambda: grid(2), {})
    return grid


def add_sampler(add: Callable[..., Any], solver: str | None, absent: str = "") -> None:
    """Add ``--solver`` and ``--grid``.

    Parameters
    ----------
    add : callable
        Of the group of flags.
    solver : str, optional
        The default.
    absent : str
        What is taken without the flag, where that depends.
    """
    add(
        "--solver",
        type=solver_of,
        default=solver,
        metavar="NAME[:X]",
        help=f"The integrator, as `rectiflow info --solvers` lists them{absent}.",
    )
    add(
        "--grid",
        type=grid_of,
        metavar="NAME[:X]",
        help="Where its steps lie, as listed there; the checkpoint's own spacing if absent.",
    )


def add_rule(add: Callable[..., Any]) -> None:
    """Add ``--guidance-rule``."""
    add(
        "--guidance-rule",
        type=rule_of,
        metavar="RULE",
        help="How guidance acts: cfg, or rectified-cfg++[:GAMMA] by a look half a step ahead; cfg "
        "if absent.",
    )


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags of :func:`add_sampler` and :func:`add_rule`, and those beside, say."""
    told = {name: getattr(args, name) for name in ("steps", "solver", "grid", "seed")}
    if hasattr(args, "guidance_rule"):
        told |= {"guidance": args.guidance, "rule": args.guidance_rule}
    return told


def rule_of(text: str) -> RectifiedCFG | None:
    """Parse how guidance acts; None is plain classifier-free guidance."""
    known = {
        "cfg": Method(lambda: None),
        "rectified-cfg++": Method(RectifiedCFG, {"gamma": 0.0}),
    }
    return _made(*_parsed("rule", text, known))


def of_checkpoint(args: argparse.Namespace, folder: Path | None) -> None:
    """Read what lies beside the weights, where the flags name it."""
    for flag in ("solver", "grid"):
        stored = getattr(args, flag, None)
        if isinstance(stored, Stored):
            setattr(args, flag, stored.kind.load(folder, **stored.given))


def listing() -> dict[str, list[dict[str, Any]]]:
    """Return all names with what they stand for, as plain data."""
    rows = []
    for name, method in {**SOLVERS, **STORED_SOLVERS}.items():
        # Of what lies beside weights only the class is known here.
        made = method.make(**method.given) if name in SOLVERS else method.make
        order = made.order if name != "dpm-v3" else method.given["terms"]
        rows.append(
            {
                "solver": _usage(name, method.given),
                "order": order,
                "evaluations": made.nfe,
                "rotations": "no" if made.flat_only else "yes",
                "what": _line(method.make),
            }
        )
    spaced = [
        {"grid": _usage(name, given), "what": _line(make)}
        for name, (make, given) in {**GRIDS, **STORED_GRIDS}.items()
    ]
    return {"solvers": rows, "grids": spaced}


def _usage(name: str, given: Mapping[str, float]) -> str:
    return ":".join([name, *(f"{value:g}" for value in given.values())])


def _line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0].rstrip(".").replace(":math:", "")


def _parsed(kind: str, text: str, known: Mapping[str, Method]) -> tuple[Any, dict[str, float]]:
    name, *values = text.split(":")
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise argparse.ArgumentTypeError(
            f"expected a {kind} of {', '.join(known)}, got {name!r}"
            f"{f'; did you mean {near[0]}?' if near else ''}"
        )
    make, given = known[name]
    if len(values) > len(given):
        raise argparse.ArgumentTypeError(
            f"expected {_form(name, given)}, got {text!r} with {len(values)} parameter(s)"
        )
    found = dict(given)
    for (parameter, usual), value in zip(given.items(), values, strict=False):
        try:
            found[parameter] = type(usual)(value)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"expected {parameter} of {_form(name, given)} as a number such as {usual:g}, "
                f"got {value!r}"
            ) from None
    return make, found


def _form(name: str, given: Iterable[str]) -> str:
    return ":".join([name, *map(str.upper, given)])


def _made(make: Callable[..., Any], given: Mapping[str, float]) -> Any:
    try:
        return make(**given)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
