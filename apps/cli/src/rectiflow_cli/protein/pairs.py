"""``rectiflow protein pairs``: what reflow trains on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, positive
from rectiflow_cli.protein.options import (
    Parser,
    lengths_of,
    make_corrections,
    make_pipeline,
    make_solver,
    make_tools,
)

if TYPE_CHECKING:
    from rectiflow.rectify import Pair, Verdict
    from rectiflow_protein.pipeline import BackbonePipeline

    Sample = Callable[[list[int]], Sequence[Pair]]
    Keep = Callable[[Pair], Verdict]


def _parser() -> Parser:
    parser = Parser("pairs", main.__doc__)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--lengths", type=lengths_of, metavar="A,B|A:B:STEP", help="lengths to sample"
    )
    source.add_argument(
        "--real", metavar="SHARDS", help="invert the prepared training chains to noise instead"
    )
    add("--num", type=positive, default=100, help="candidates of each length")
    add("-o", "--out", required=True, metavar="PAIRS", help="folder to write")
    add("--batch", type=positive, default=16, help="candidates per call")
    parser.add_shard()
    add("--keep-all", action="store_true", help="no filter; the published ablation advises against")
    add("--max-coil", type=float, default=0.5, help="geometric filter: largest share of coil")
    add("--min-valid", type=float, default=0.97, help="geometric filter: valid CA-CA distances")
    add(
        "--max-contacts",
        type=float,
        default=1.0,
        help="geometric filter: CA pairs below 3 Å per 100 residues",
    )
    parser.add_sampling(steps=100)
    parser.add_tools()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Sample pairs of noise and backbone with a trained network, and keep the good ones.

    Good means by geometry, or designable where a designer and a predictor are given. Started again
    with the same flags, it goes on where it was stopped.
    """
    args = _parser().parse_args(argv)
    solver = make_solver(args.solver, args.rotation, args.rate, args.temperature)
    pipe = make_pipeline(args)
    from rectiflow.rectify import PairStore, generate_pairs
    from rectiflow.storage.pretrained import weights_hash
    from rectiflow_protein.reflow import pair_sampler

    told: dict[str, Any] = {
        "weights_hash": weights_hash(pipe.network),
        "steps": args.steps,
        "edge_dtype": args.dtype,
    }
    keep: Keep | None = None
    if args.real:
        sample, num, source = _inverted(args, pipe)
    else:
        corrections = make_corrections(args)
        sample = pair_sampler(
            pipe,
            args.lengths,
            steps=args.steps,
            seed=args.seed,
            solver=solver,
            corrections=corrections,
        )
        num = args.num * len(args.lengths)
        keep, condition = _filter(args, pipe)
        source = {
            "lengths": args.lengths,
            "solver": repr(solver),
            "corrections": [repr(change) for change in corrections],
            "filter": condition,
        }
    counts = generate_pairs(
        sample,
        args.out,
        num=num,
        batch=args.batch,
        seed=args.seed,
        shard=args.shard,
        keep=keep,
        metadata=told | source,
        shard_size=max(args.batch, 64),
        progress=sys.stderr.isatty() and not args.json,
    )
    store = PairStore(args.out)
    document = {
        "folder": args.out,
        "counts": counts,
        "pairs": len(store),
        "complete": store.is_complete,
    }
    answer(document, _text(args.out, document), as_json=args.json)
    if store.is_complete and not len(store):
        raise UsageError(
            f"no pair was kept, got {store.rejected}; expected some. Loosen --max-coil or "
            "--min-valid, or sample with a better network or more steps."
        )
    return DONE


def _inverted(args: Any, pipe: BackbonePipeline) -> tuple[Sample, int, dict[str, Any]]:
    """Real chains and the noise that the network maps to them."""
    if args.solver != "euler" or args.rotation not in (None, "linear") or args.rate is not None:
        raise UsageError(
            "--real inverts by Euler's method with the linear schedule, got another --solver, "
            "--rotation or --rate; leave them out."
        )
    from rectiflow_protein.data import PreparedBackbones
    from rectiflow_protein.reflow import inverted_pair_sampler

    chains = PreparedBackbones(args.real).dataset("train")
    sample = inverted_pair_sampler(pipe, chains, steps=args.steps)
    return sample, len(chains), {"real": str(args.real), "chains": len(chains)}


def _filter(args: Any, pipe: BackbonePipeline) -> tuple[Keep | None, dict[str, Any]]:
    """Return the condition on pairs, and how the manifest tells it."""
    from rectiflow_protein.reflow import DesignabilityFilter, GeometricFilter

    designer, predictor = make_tools(args, pipe.device)
    if args.keep_all:
        if designer is not None:
            raise UsageError(
                "--keep-all and designability tools contradict each other; expected one of them."
            )
        return None, {"name": "none"}
    if designer is not None and predictor is not None:
        return DesignabilityFilter(designer, predictor, args.num_sequences), {
            "name": "designability",
            "designer": args.proteinmpnn or args.designer_command,
            "predictor": args.predictor,
            "num_sequences": args.num_sequences,
        }
    geometric = GeometricFilter(
        min_valid=args.min_valid,
        max_close_contacts=args.max_contacts,
        max_coil=args.max_coil,
    )
    return geometric, {"name": "geometric", **asdict(geometric)}


def _text(out: str, document: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in document["counts"].items())
    lines = [f"{counts}; {document['pairs']} pairs in {out}"]
    if not document["complete"]:
        lines.append("other shards are still to be done")
    elif document["pairs"]:
        lines.append(
            f"next: rectiflow protein reflow data.dir={out} weights=TEACHER "
            "experiment=small_rectify"
        )
    return "\n".join(lines)
