"""What a few evaluations of the network give: every sampler and every shipped checkpoint.

    python benchmarks/few_steps.py --audio SHARDS --pde SHARDS --shape SHARDS
    python benchmarks/few_steps.py --only audio --audio SHARDS     # the others stay as they were
    python benchmarks/few_steps.py --only pde --pde SHARDS --rows map --weights pde=RUN:12
    python benchmarks/few_steps.py --page                          # text and pictures alone

The folders are what ``rectiflow DOMAIN prepare`` makes; their test splits are measured on. Proteins
need none. Results go to ``benchmarks/results/few_steps.json``, and from there to
``docs/fewer-steps.md`` with a picture for each domain. A domain whose folder is not given, and a
row that is not asked for by ``--rows``, is kept as it was measured last.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from environment import environment
from rectiflow.commands.methods import Stored, grid_of, solver_of
from rectiflow.figures import labelled, save_figure
from rectiflow.integrate import plan
from rectiflow.rectify import Jump, solver_for
from rectiflow.storage.files import write_json, write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/few_steps.json"
PAGE = ROOT / "docs/fewer-steps.md"
BUDGETS = (1, 2, 4, 8, 16)
BASE_STEPS = 32

SAMPLERS: tuple[tuple[str, str, str | None], ...] = (
    ("Euler", "euler", None),
    ("Euler, shifted by 3", "euler", "shifted:3"),
    ("Euler, searched times", "euler", "searched"),
    ("midpoint (RF-Solver)", "midpoint", None),
    ("FireFlow", "fireflow", None),
    ("Adams 2", "adams:2", None),
    ("GHVB 1.8", "ghvb:2:0.8", None),
    ("BDIA", "bdia", None),
    ("DPM-Solver-2", "dpm-2", "log-snr"),
    ("DPM-Solver++ 2M", "dpmpp-2m", None),
    ("DPM-Solver-v3", "dpm-v3:2", None),
    ("FlowTurbo", "flowturbo:1:2", None),
)
"""Name, ``--solver`` and ``--grid``, on the base checkpoint."""

Numbers = dict[str, float]


@dataclass(frozen=True)
class Row:
    """A method: a checkpoint, how it is sampled, and what its training took."""

    name: str
    weights: str
    solver: str = "euler"
    grid: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    minutes: float | None = 0.0
    """Core-minutes of training beyond the base, pairs included."""


@dataclass(frozen=True)
class Measure:
    """A number of the table."""

    name: str
    unit: str
    larger: bool
    digits: int = 3

    def better(self, a: float, b: float) -> bool:
        return a > b if self.larger else a < b


class Domain(ABC):
    """A domain: its checkpoints, what is sampled, and what is measured."""

    name: str
    pipeline: str
    base: str
    measures: tuple[Measure, ...]
    what: str
    further: tuple[Row, ...] = ()
    """Ways to sample that only this domain has."""
    notes = ""
    """What the page says besides, with the command that shows it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.count = args, getattr(args, f"num_{self.name}")
        module, _, name = self.pipeline.partition(":")
        self.kind: Any = getattr(importlib.import_module(module), name)
        self.pipes: dict[str, Any] = {}

    def pipe(self, weights: str) -> Any:
        if weights not in self.pipes:
            self.pipes[weights] = self.kind.from_pretrained(weights)
        return self.pipes[weights]

    def rows(self) -> list[Row]:
        """Samplers of the base, its own ways, the shipped flows beside it, and those given."""
        rows = [Row(name, self.base, solver, grid) for name, solver, grid in SAMPLERS]
        for name in sorted(path.parent.name for path in self.kind.shipped.glob("*/config.json")):
            if name != self.base:
                rows.append(Row(f"`{name}`", name, minutes=self.minutes(name)))
        for word in self.args.weights:
            domain, _, told = word.partition("=")
            weights, _, minutes = told.rpartition(":")
            if domain == self.name:
                name = Path(weights).name
                rows.append(Row(f"`{name}`", weights, minutes=float(minutes)))
        for word in self.args.ways:
            domain, _, way = word.partition("=")
            if domain == self.name:
                solver, _, grid = way.partition("@")
                rows.append(Row(way, self.base, solver, grid or None))
        return [*rows, *self.further]

    def minutes(self, name: str) -> float | None:
        """Core-minutes of training on the card of a shipped checkpoint."""
        config = self.kind.shipped / name / "config.json"
        found: float | None = json.loads(config.read_text("utf-8"))["card"].get("core_minutes")
        return found

    def solver(self, pipe: Any, text: str) -> Any:
        return _read(solver_of(text), pipe)

    def evaluations(self, solver: Any, grid: Any, steps: int) -> int:
        return plan(grid(steps), solver).nfe

    @abstractmethod
    def sample(
        self, pipe: Any, steps: int, solver: Any, grid: Any, **options: Any
    ) -> Iterator[Numbers]:
        """Yield the numbers of each sample, made by a checkpoint."""

    def measured(self, row: Row, budget: int) -> Any:
        """Return the numbers at a budget of evaluations, or None where the method has none."""
        pipe = self.pipe(row.weights)
        try:
            solver = self.solver(pipe, row.solver)
            grid = _read(grid_of(row.grid or "uniform"), pipe)
            steps = next(
                (n for n in range(budget, 0, -1) if self.fits(solver, grid, n, budget)), None
            )
        except (FileNotFoundError, ValueError):
            return None  # nothing searched or measured lies beside these weights
        if steps is None:
            return None
        began = time.process_time()
        spacing = None if row.grid is None else grid
        rows = list(self.sample(pipe, steps, solver, spacing, **row.options))
        if not rows:
            return None
        seconds = (time.process_time() - began) / len(rows)
        found = {name: fmean(row[name] for row in rows if name in row) for name in rows[0]}
        seconds = found.pop("seconds", seconds)
        return {"steps": steps, "seconds": round(seconds, 4)} | {
            name: round(value, 5) for name, value in found.items()
        }

    def fits(self, solver: Any, grid: Any, steps: int, budget: int) -> bool:
        try:
            return self.evaluations(solver, grid, steps) <= budget
        except ValueError:  # no times were searched for so many steps
            return False


def _read(found: Any, pipe: Any) -> Any:
    return found.kind.load(pipe.folder, **found.given) if isinstance(found, Stored) else found


class Proteins(Domain):
    """Backbones of 60 to 100 residues."""

    name, base = "protein", "small_base"
    pipeline = "rectiflow_protein.pipeline:BackbonePipeline"
    measures = (
        Measure("bonded", "share of CA-CA distances of 3.65-3.95 or 2.8-3.1 Å", True),
        Measure("contacts", "CA pairs below 3.5 Å per 100 residues", False, 1),
        Measure("diversity", "mean TM-score of pairs, lower is more diverse", False, 2),
    )
    what = "backbones of 60 to 100 residues, rotations by the clamped exponential schedule"
    further = (
        Row("Euler, last call at 0.9", "small_base", options={"last_time": 0.9}),
        Row("`small`, last call at 0.9", "small", options={"last_time": 0.9}, minutes=25),
        Row("`small`, searched times", "small", grid="searched", minutes=25),
        Row(
            "`small_sheets`, last call at 0.98",
            "small_sheets",
            options={"last_time": 0.98},
            minutes=247,
        ),
    )
    notes = (
        "As published, the last call repeats the time of the call before: of four calls it says "
        "0.67 of a chain that is made. A later time puts bonds right with few calls, and makes "
        "chains more compact, with more contacts: `rectiflow protein sample --length 80 --steps 4 "
        "--rotation clamped --last-time 0.9`, or with the searched times that ship with `small`, "
        "of which the last is 0.9, `--grid searched` in its place. `small_map` learnt for 200 "
        "steps on 150 pairs of `small` (run g of its card; `rectiflow protein reflow "
        "data.dir=PAIRS weights=small experiment=small_map trainer.max_steps=200`, its rate "
        "falling from step 100 on): too little to make right bonds in two jumps, and it does not "
        "ship. `small_sheets` was trained from random weights; its minutes are all of its own."
    )

    def solver(self, pipe: Any, text: str) -> Any:
        from rectiflow.solvers import Euler
        from rectiflow_protein.flow import ClampedExponentialSchedule, FrameEuler
        from rectiflow_protein.split import FrameSplit

        solver, schedule = super().solver(pipe, text), ClampedExponentialSchedule(10.0)
        if pipe.network.is_map:
            return solver_for(pipe.network, solver)
        if solver == Euler():
            return FrameEuler(schedule)
        return FrameSplit(solver, schedule) if solver.flat_only else solver

    def evaluations(self, solver: Any, grid: Any, steps: int) -> int:
        from rectiflow.spacing import stretched

        if isinstance(solver, Jump):  # of a network of maps: no last call
            return steps
        if steps == 1:  # the last call alone
            return 1
        return 1 + plan(stretched(grid(steps - 1), 0.01, 1.0), solver).nfe

    def sample(
        self, pipe: Any, steps: int, solver: Any, grid: Any, **options: Any
    ) -> Iterator[Numbers]:
        from rectiflow.spacing import OnGrid
        from rectiflow_protein.evaluation import evaluate

        lengths = [60 + 40 * i // max(self.count - 1, 1) for i in range(self.count)]
        began = time.process_time()
        on_grid = solver if grid is None else OnGrid(solver, grid)
        made = pipe(lengths, steps=steps, solver=on_grid, **options)
        seconds = (time.process_time() - began) / self.count
        found = evaluate([sample.backbone() for sample in made.samples])
        for row in found.rows:
            told = {"bonded": row["ca_ca_bonded"], "contacts": row["contacts"]}
            yield told | {"diversity": found.summary["diversity_tm"], "seconds": seconds}


class Sounds(Domain):
    """Sounds of the test split out of mixtures of two at 0 dB."""

    name, base = "audio", "small"
    pipeline = "rectiflow_audio.pipeline:SeparationPipeline"
    measures = (
        Measure("si_sdri", "SI-SDR improvement in dB", True, 2),
        Measure("mel_lsd", "mel log-spectral distance", False, 2),
    )
    what = "sounds of the test split, each mixed with one of another class at 0 dB"
    notes = (
        "`small_patches` starts at the mixture instead of at noise, so that its first step is the "
        "mean of what is possible; its minutes are beyond the base, from which it started. It is "
        "used with guidance 1.25 and masks to the power 0.85. "
        "`small_rectified` is `small` rectified on 640 of its own pairs (`rectiflow audio reflow "
        "data.dir=PAIRS weights=small experiment=small_rectify`); it does not ship."
    )

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        from audio_quality import AMBIGUOUS, NoTexts
        from rectiflow_audio.data import MixtureDataset, MixtureRules, PreparedSounds

        clips = PreparedSounds(args.audio).clips("test")
        rules = MixtureRules((0.0, 0.0), AMBIGUOUS)
        mixed = MixtureDataset(clips, NoTexts(), 2.56, rules=rules, loop=0.0, seed=0)
        rows = [i * len(mixed) // self.count for i in range(min(self.count, len(mixed)))]
        self.items = [mixed[row] for row in rows]

    def sample(
        self, pipe: Any, steps: int, solver: Any, grid: Any, **options: Any
    ) -> Iterator[Numbers]:
        from rectiflow_audio import LogMel
        from rectiflow_audio.frontend import SAMPLE_RATE
        from rectiflow_audio.metrics import si_sdr
        from rectiflow_audio.metrics.distances import mel_log_spectral_distance

        log_mel = LogMel()
        for item in self.items:
            mixture, target = item["mixture"], item["target"]
            how = {"steps": steps, "solver": solver, "grid": grid, **options}
            began = time.process_time()
            made = pipe(mixture, SAMPLE_RATE, item["caption"], **how)
            seconds = time.process_time() - began
            wave = torch.from_numpy(made.estimates[0].samples[0])
            gain = float(si_sdr(wave, target)) - float(si_sdr(mixture, target))
            distance = mel_log_spectral_distance(log_mel(wave), log_mel(target))
            yield {"si_sdri": gain, "mel_lsd": float(distance), "seconds": seconds}


class Shapes(Domain):
    """Shapes of the classes that the checkpoint knows."""

    name, base = "shape", "small"
    pipeline = "rectiflow_shape.pipeline:ShapePipeline"
    measures = (
        Measure("chamfer", "Chamfer distance (squared) to the nearest held-out shape", False, 4),
        Measure("valid", "share of watertight manifold meshes of one part", True, 2),
    )
    what = "shapes of the classes in turn, extracted on a lattice of 32 cells a side"
    further = (
        Row("Adams 2, shifted by 3", "small", "adams:2", "shifted:3"),
        Row("Adams 2, searched times", "small", "adams:2", "searched"),
    )
    notes = (
        "The searched times ship with `small`, and fit Adams 2 alone: `rectiflow shape sample "
        "--steps 4 --solver adams:2 --grid searched`. `small_map` and `small_rectified` learnt "
        "from 448 guided pairs of 24 evaluations each (`rectiflow shape pairs --weights small "
        "--num 448 --solver midpoint --steps 12`), by `rectiflow shape reflow data.dir=PAIRS "
        "weights=small experiment=small_map trainer.max_steps=500` and `experiment=small_rectify "
        "trainer.max_steps=600`: the best with one and two evaluations, where the base has no "
        "surface, and not better with more. They do not ship."
    )

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        from rectiflow_shape.data import PreparedShapes
        from rectiflow_shape.evaluation import POINTS, meshes_by_class
        from rectiflow_shape.geometry.sampling import surface_points

        held = meshes_by_class(PreparedShapes(args.shape), ("test", "valid"), 8)
        generator = torch.Generator().manual_seed(0)
        self.held = {
            name: [surface_points(mesh, POINTS, generator)[0] for mesh in meshes]
            for name, meshes in held.items()
        }

    def sample(
        self, pipe: Any, steps: int, solver: Any, grid: Any, **options: Any
    ) -> Iterator[Numbers]:
        from rectiflow_shape.evaluation import POINTS
        from rectiflow_shape.geometry.sampling import surface_points
        from rectiflow_shape.metrics.distances import chamfer
        from rectiflow_shape.request import Asked

        classes = [name for name in pipe.settings.classes if name in self.held]
        asked = [Asked(i, classes[i % len(classes)]) for i in range(self.count)]
        began = time.process_time()
        try:
            made = pipe(asked, steps=steps, solver=solver, grid=grid, depth=5, **options)
        except ValueError as error:
            if "no surface" not in str(error):
                raise
            return  # such as the mean of all shapes, which one step makes
        seconds = (time.process_time() - began) / self.count
        generator = torch.Generator().manual_seed(1)
        for one, sample in zip(asked, made.samples, strict=True):
            judged = sample.told["certificate"]
            points = surface_points(sample.mesh, POINTS, generator)[0]
            near = min(float(chamfer(points, known)) for known in self.held[str(one.category)])
            valid = float(judged["watertight"] and judged["components"] == 1)
            yield {"chamfer": near, "valid": valid, "seconds": seconds}


class Flows(Domain):
    """Flows past a cylinder from their true first frames."""

    name, base = "pde", "small"
    pipeline = "rectiflow_pde.pipeline:SimulationPipeline"
    measures = (Measure("relative_l2", "relative L2 error without the given frame", False),)
    what = "flows past a cylinder from their true first frames, 24 frames each"
    notes = (
        "`small_slim` and `reflow_of_quarter` have a quarter of the parameters and learnt from "
        "scratch on the 320 pairs of `small_map`, 900 steps each, with SlimFlow's annealing and "
        "without it (`rectiflow pde reflow data.dir=PAIRS weights=small experiment=small_slim "
        "trainer.max_steps=900 training.objective.flow.coupling.beta.warmup=300`, and 1): at this "
        "budget annealing brings nothing. They do not ship. Searched times (`rectiflow pde tune "
        "SHARDS --num 4 --steps 4 --pool 16 --epochs 3 --population 14 --seed 11`) come nearer to "
        "the fine solution, 0.21 against 0.32 of equal steps, and so further from the flows, 0.177 "
        "against 0.167: they do not ship either."
    )

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        from rectiflow_pde.data.datamodule import flows_of

        flows = flows_of(args.pde, "test")
        self.flows = [flows[i * len(flows) // self.count] for i in range(self.count)]

    def sample(
        self, pipe: Any, steps: int, solver: Any, grid: Any, **options: Any
    ) -> Iterator[Numbers]:
        from rectiflow_pde.evaluation import by_pipeline, cut
        from rectiflow_pde.metrics.errors import relative_l2

        guess = by_pipeline(pipe, steps=steps, solver=solver, grid=grid, **options)
        for whole in self.flows:
            flow = cut(whole, pipe.settings.frames, pipe.settings.frame_step)
            found = guess.simulate(flow)[: len(flow.times)]
            error = relative_l2(found, flow.stacked, given_frames=1)
            yield {"relative_l2": float(error.without_given)}


DOMAINS: dict[str, type[Domain]] = {kind.name: kind for kind in (Proteins, Sounds, Shapes, Flows)}


def measure(domain: Domain, before: Mapping[str, Any], words: list[str]) -> Iterator[Any]:
    """Measure the rows of a domain, one by one: what is known after each.

    Parameters
    ----------
    domain : Domain
    before : mapping
        What was measured of the domain; its rows are kept where ``words`` are given.
    words : list of str
        Rows whose names have one of them are measured; all if there are none.
    """
    if words and before and before["samples"] != domain.count:
        raise SystemExit(
            f"the other rows of {domain.name} are of {before['samples']} samples, got "
            f"{domain.count}; expected --num-{domain.name} {before['samples']}."
        )
    began = time.process_time()
    table: dict[str, Any] = dict(before["table"]) if words and before else {}
    base = before.get("base") if words else None
    base = base or {
        "weights": domain.base,
        "steps": BASE_STEPS,
        "minutes": domain.minutes(domain.base),
        **domain.measured(Row("base", domain.base), BASE_STEPS),
    }
    for row in domain.rows():
        if words and not any(word in row.name for word in words):
            continue
        cells = {str(n): domain.measured(row, n) for n in BUDGETS}
        if not any(cells.values()):
            continue
        told = {"weights": Path(row.weights).name, "solver": row.solver, "grid": row.grid}
        table[row.name] = told | {"minutes": row.minutes, "cells": cells}
        best = {n: cell and cell[domain.measures[0].name] for n, cell in cells.items()}
        print(f"{domain.name}: {row.name}: {best}", flush=True)
        spent = before.get("core_minutes", 0.0) if words else 0.0
        yield {
            "base": base,
            "table": table,
            "samples": domain.count,
            "what": domain.what,
            "core_minutes": round(spent + (time.process_time() - began) / 60, 2),
            **environment(),
        }


def best_at(domain: type[Domain], found: dict[str, Any], budget: int) -> tuple[str, float]:
    """Return the best row of a column and its number."""
    first = domain.measures[0]
    cells = {
        name: row["cells"][str(budget)][first.name]
        for name, row in found["table"].items()
        if row["cells"].get(str(budget))
    }
    name = (max if first.larger else min)(cells, key=lambda each: cells[each])
    return name, cells[name]


def table_of(domain: type[Domain], found: dict[str, Any]) -> str:
    """Return the table of a domain, the best of each column bold."""
    first = domain.measures[0]
    base_steps = f"base, {found['base']['steps']}"
    head = ["method", *map(str, BUDGETS), base_steps, "seconds at 4", "training, core-minutes"]
    lines = [head, ["---"] * len(head)]
    base = _cell(found["base"], domain.measures)
    best = {n: best_at(domain, found, n)[1] for n in BUDGETS}
    for name, row in found["table"].items():
        shown = []
        for n in BUDGETS:
            cell = row["cells"].get(str(n))
            text = "–" if not cell else _cell(cell, domain.measures)
            shown.append(f"**{text}**" if cell and cell[first.name] == best[n] else text)
        at_four = row["cells"].get("4")
        seconds = f"{at_four['seconds']:.2f}" if at_four else "–"
        minutes = row.get("minutes", 0)
        cost = "–" if minutes is None else f"{minutes:g}"
        lines.append([name, *shown, base if name == "Euler" else "", seconds, cost])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: dict[str, Any], measures: tuple[Measure, ...]) -> str:
    return " / ".join(f"{cell[m.name]:.{m.digits}f}" for m in measures)


def advice(domain: type[Domain], found: dict[str, Any]) -> str:
    """Return a paragraph on what to use, of the numbers alone."""
    first, base = domain.measures[0], found["base"]
    value = base[first.name]
    told = []
    for n in BUDGETS:
        name, got = best_at(domain, found, n)
        reached = got == value or first.better(got, value)
        told.append((n, name, got, reached))
    shown = "; ".join(f"{n}: {name} ({got:.{first.digits}f})" for n, name, got, _ in told)
    enough = next((each for each in told if each[3]), None)
    lead = (
        f"The best row reaches the base of {base['steps']} evaluations "
        f"({value:.{first.digits}f}) with {enough[0]}: use {enough[1]}."
        if enough
        else f"No row of at most {BUDGETS[-1]} evaluations reaches the base of {base['steps']} "
        f"({value:.{first.digits}f})."
    )
    four = dict((n, reached) for n, _, _, reached in told)[4]
    aim = f"The aim, the base's quality at 4 evaluations, is {'met' if four else 'missed'}."
    return f"{lead} {aim} Best by evaluations: {shown}."


def picture(domain: type[Domain], found: dict[str, Any], path: Path) -> None:
    """Draw quality against evaluations."""
    first = domain.measures[0]
    figure, axes = labelled(domain.name, "evaluations of the network", first.unit)
    figure.set_size_inches(7.2, 4.2)
    for name, row in found["table"].items():
        points = [(n, row["cells"][str(n)][first.name]) for n in BUDGETS if row["cells"][str(n)]]
        style = "-o" if row["weights"] == found["base"]["weights"] else "--s"
        axes.plot(*zip(*points, strict=True), style, label=name.replace("`", ""), markersize=3)
    axes.axhline(found["base"][first.name], color="black", linewidth=0.8, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
    axes.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save_figure(figure, path)


def page(found: dict[str, Any]) -> str:
    """Return the page."""
    parts = [
        "# Fewer steps",
        "",
        "What each sampler, and each shipped checkpoint, makes of 1 to 16 evaluations of the "
        "network, with the base at 32 as the last column. `benchmarks/few_steps.py` makes this "
        "page, its numbers and its pictures; how the methods work is told in "
        "[fast sampling](fast-sampling.md). Few samples are measured, so differences in the last "
        "digits mean nothing. The best of each column is bold; a dash means that the method does "
        "not fit the budget, or that not all shapes have a surface. "
        "Guidance calls the network on two rows at once, which counts as one "
        "evaluation here. Seconds are of one sample, on the machine that `few_steps.json` names; "
        "training is what a row's checkpoint took beyond the base, pairs included. Checkpoints are "
        "sampled by Euler's method where nothing else is said, maps by their jumps.",
    ]
    for name, kind in DOMAINS.items():
        if name not in found:
            continue
        mine = found[name]
        units = "; ".join(f"{m.unit}" for m in kind.measures)
        asset = PAGE.parent / f"assets/fewer-steps-{name}.png"
        picture(kind, mine, asset)
        parts += [
            *("", f"## {kind.__name__}", ""),
            f"{mine['samples']} {mine['what']}; base: `{mine['base']['weights']}`, trained for "
            f"{mine['base']['minutes']} core-minutes. Numbers: {units}.",
            *("", table_of(kind, mine), ""),
            f"![quality against evaluations](assets/{asset.name})",
            *("", advice(kind, mine), *(("", kind.notes) if kind.notes else ())),
        ]
    return "\n".join(parts) + "\n"


def known(path: Path) -> dict[str, Any]:
    """Return what was measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=DOMAINS, default=list(DOMAINS))
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results, as JSON")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    for name, number in (("protein", 12), ("audio", 12), ("shape", 7), ("pde", 8)):
        parser.add_argument(f"--num-{name}", type=int, default=number, help="samples")
        if name != "protein":
            parser.add_argument(f"--{name}", type=Path, help="prepared data")
    parser.add_argument("--rows", nargs="+", default=[], help="words of the rows to measure")
    parser.add_argument("--ways", nargs="+", default=[], help="more rows: DOMAIN=SOLVER@GRID")
    parser.add_argument(
        "--weights", nargs="+", default=[], help="more rows: DOMAIN=WEIGHTS:CORE_MINUTES"
    )
    args = parser.parse_args()
    for name in () if args.page else args.only:
        if name != "protein" and getattr(args, name) is None:
            continue
        before = known(args.out).get(name, {})
        for found in measure(DOMAINS[name](args), before, args.rows):  # others may run besides
            write_json(args.out, known(args.out) | {name: found})
    write_text(PAGE, page(known(args.out)))


if __name__ == "__main__":
    main()
