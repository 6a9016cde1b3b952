"""``rectiflow protein sample``: generate backbones, shard by shard, restartable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import DONE
from rectiflow_cli.options import answer, positive, table
from rectiflow_cli.progress import counter
from rectiflow_cli.protein.options import (
    Parser,
    lengths_of,
    make_corrections,
    make_pipeline,
    make_solver,
)
from rectiflow_cli.protein.sample_folder import SampleFolder

if TYPE_CHECKING:
    from rectiflow.solvers import Solver
    from rectiflow_protein.pipeline import BackbonePipeline

_BATCHES_PER_SAVE = 4  # what a killed run has to do again, in full batches

POLY_ALANINE = (
    "The structures are poly-alanine: backbones without a sequence. Next, design one with a "
    "sequence-design tool such as ProteinMPNN (rectiflow protein eval --help)."
)


@dataclass(frozen=True)
class Request:
    """One sample to make: its number, which fixes the noise, and its length."""

    index: int
    length: int


def _parser() -> Parser:
    parser = Parser("sample", main.__doc__)
    add = parser.add_argument
    lengths = parser.add_mutually_exclusive_group(required=True)
    lengths.add_argument(
        "--length", dest="lengths", type=lengths_of, metavar="N", help="residues of every sample"
    )
    lengths.add_argument(
        "--lengths", type=lengths_of, metavar="A,B|A:B:STEP", help="several lengths, ends included"
    )
    add("--num", type=positive, default=1, help="samples of each length")
    add("-o", "--out", required=True, metavar="DIR", help="folder to write")
    add(
        "--motif",
        metavar="FILE:A10-30,B5",
        help="residues of a structure that stand in every sample as they are, in this order; the "
        "rest is built around them",
    )
    add("--format", choices=("pdb", "cif"), default="pdb", help="of the structures")
    add("--trajectory", action="store_true", help="write every step as the models of a file")
    parser.add_shard()
    parser.add_sampling(steps=50)
    add("--last-time", type=float, help="of the last call; by default as the call before")
    add("--max-pairs", type=positive, help="largest batch times squared length")
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Generate backbones of given lengths.

    Samples that are there already, made with the same settings, are left as they are.
    """
    args = _parser().parse_args(argv)
    solver = make_solver(args.solver, args.rotation, args.rate, args.temperature)
    corrections = make_corrections(args)
    motif = None
    if args.motif is not None:
        from rectiflow_protein.motif import read_motif

        motif = read_motif(args.motif)
        motif.check(min(args.lengths))
    lengths = [n for n in args.lengths for _ in range(args.num)]
    part, parts = args.shard
    wanted = [Request(i, n) for i, n in enumerate(lengths) if i % parts == part]
    pipe = make_pipeline(args)
    folder = SampleFolder(
        Path(args.out), _settings(args, pipe, solver), args.shard, f".{args.format}"
    )
    missing = [r for r in wanted if not folder.holds(r.index, r.length, movies=args.trajectory)]
    with counter("sampling", unit="call", quiet=args.json) as show, folder.writing():
        done = 0
        for chunk in _chunks(missing, _budget(args.max_pairs, pipe)):

            def tick(calls: int, total: int, done: int = done, size: int = len(chunk)) -> None:
                show(round((done + size * calls / total) * args.steps), len(missing) * args.steps)

            result = pipe(
                [request.length for request in chunk],
                steps=args.steps,
                solver=solver,
                seed=args.seed,
                indices=[request.index for request in chunk],
                last_time=args.last_time,
                corrections=corrections,
                motif=motif,
                max_pairs=args.max_pairs,
                trajectory=args.trajectory,
                progress=tick,
            )
            folder.add(result)
            done += len(chunk)
    rows = folder.rows([(r.index, r.length) for r in wanted])
    summary = _by_length(rows)
    document = {
        **folder.document(rows),
        "summary": summary,
        "made": len(missing),
        "kept": len(wanted) - len(missing),
        "note": POLY_ALANINE,
    }
    answer(document, _text(args.out, document, summary), as_json=args.json)
    return DONE


def _settings(args: Any, pipe: BackbonePipeline, solver: Solver) -> dict[str, Any]:
    """Return what decides a sample, beside its number and length."""
    from rectiflow.storage.pretrained import weights_hash

    return {
        "weights": str(args.weights),
        "weights_hash": weights_hash(pipe.network),
        "seed": args.seed,
        "steps": args.steps,
        "nfe": (args.steps - 1) * solver.nfe + 1,
        "solver": repr(solver),
        "edge_dtype": args.dtype,
        "last_time": args.last_time,
        "corrections": [repr(change) for change in make_corrections(args)],
        "motif": args.motif,
    }


def _budget(max_pairs: int | None, pipe: BackbonePipeline) -> int:
    from rectiflow_protein.pipeline import PAIRS_PER_BATCH

    batch = max_pairs or PAIRS_PER_BATCH["cuda" if pipe.device.type == "cuda" else "cpu"]
    return _BATCHES_PER_SAVE * batch


def _chunks(missing: list[Request], budget: int) -> Iterator[list[Request]]:
    """Cut the requests, longest first, into calls of a few batches each."""
    chunk: list[Request] = []
    pairs = 0
    for request in sorted(missing, key=lambda r: (-r.length, r.index)):
        if chunk and pairs + request.length**2 > budget:
            yield chunk
            chunk, pairs = [], 0
        chunk.append(request)
        pairs += request.length**2
    if chunk:
        yield chunk


def _by_length(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean geometry of each length, and of all samples."""
    from rectiflow_protein.validation import LOGGED

    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["length"]):
        groups.setdefault(row["length"], []).append(row)
    if len(groups) > 1:
        groups["all"] = rows
    return [
        {"length": length, "samples": len(group), **{name: _mean(group, name) for name in LOGGED}}
        for length, group in groups.items()
    ]


def _mean(rows: list[dict[str, Any]], name: str) -> float:
    values = [row[name] for row in rows if row[name] is not None]
    return sum(values) / len(values) if values else float("nan")


def _text(out: str, document: dict[str, Any], summary: list[dict[str, Any]]) -> str:
    kept = f", {document['kept']} were there already" if document["kept"] else ""
    lines = [f"{document['made']} structures written to {out}{kept}"]
    if summary:
        lines.append(table(summary))
    return "\n".join([*lines, POLY_ALANINE])
