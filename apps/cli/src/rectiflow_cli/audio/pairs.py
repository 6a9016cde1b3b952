"""``rectiflow audio pairs``: what reflow trains on."""

from __future__ import annotations

import sys
from typing import Any

from rectiflow_cli.audio.options import SOLVERS, Parser, make_solver
from rectiflow_cli.audio.parts import wordings
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, pick_device, positive


def _parser() -> Parser:
    parser = Parser("pairs", main.__doc__)
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="prepared sounds, of whose train split mixtures are made")
    add("-o", "--out", required=True, metavar="PAIRS", help="folder to write")
    add("--num", type=positive, default=1000, help="pairs")
    add("--batch", type=positive, default=16, help="pairs per call")
    add("--seconds", type=float, help="length of a mixture; the checkpoint's window if absent")
    add("--snr", type=float, nargs=2, default=(-10.0, 10.0), metavar=("LOW", "HIGH"), help="dB")
    add("--wordings", metavar="FILE", help="other captions to draw, as for prepare")
    parser.add_shard()
    parser.add_model()
    add("--steps", type=positive, default=20, help="of the solver")
    add("--solver", choices=SOLVERS, default="euler", help="integrator")
    add("--real", action="store_true", help="invert the true targets to noise instead")
    parser.add_overwrite()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Make pairs of noise and separated sound with a trained network.

    Started again with the same flags, it goes on where it was stopped.
    """
    args = _parser().parse_args(argv)
    from rectiflow.rectify import PairStore, generate_pairs
    from rectiflow.storage.pretrained import weights_hash
    from rectiflow_audio.data import MixtureDataset, MixtureRules, PreparedSounds
    from rectiflow_audio.flow import latent_flow
    from rectiflow_audio.objective import SeparationObjective
    from rectiflow_audio.pipeline import SeparationPipeline
    from rectiflow_audio.reflow import inverted_pair_sampler, pair_sampler

    if args.real and args.solver != "euler":
        raise UsageError(f"--real inverts by Euler's method, got --solver {args.solver}.")
    prepared = PreparedSounds(args.shards)
    pipe = SeparationPipeline.from_pretrained(args.weights, device=pick_device(args.device))
    seconds = pipe.settings.window_seconds if args.seconds is None else args.seconds
    mixtures = MixtureDataset(
        prepared.clips("train"),
        prepared.texts,
        seconds,
        rules=MixtureRules(tuple(args.snr)),
        wordings=wordings(args.wordings),
        balanced=True,
        seed=args.seed,
    )
    objective = SeparationObjective(
        pipe.unet,
        pipe.vae,
        latent_flow(sigma_min=pipe.settings.sigma_min),
        text_dropout=0.0,
        posterior_sample=pipe.settings.posterior_sample,
    )
    solver = make_solver(args.solver)
    common = {"steps": args.steps, "seed": args.seed}
    sample = (
        inverted_pair_sampler(objective, mixtures, **common)
        if args.real
        else pair_sampler(objective, mixtures, solver=solver, **common)
    )
    told: dict[str, Any] = {
        "weights_hash": weights_hash(pipe.unet),
        "steps": args.steps,
        "solver": repr(solver),
        "real": args.real,
        "seconds": seconds,
        "snr_db": list(args.snr),
        "wordings": args.wordings,
    }
    counts = generate_pairs(
        sample,
        args.out,
        num=args.num,
        batch=args.batch,
        seed=args.seed,
        shard=args.shard,
        metadata=told,
        shard_size=max(args.batch, 64),
        progress=sys.stderr.isatty() and not args.json,
        overwrite=args.overwrite,
    )
    store = PairStore(args.out)
    document = {
        "folder": args.out,
        "counts": counts,
        "pairs": len(store),
        "complete": store.is_complete,
    }
    answer(document, _text(args, document), as_json=args.json)
    return DONE


def _text(args: Any, document: dict[str, Any]) -> str:
    lines = [f"{document['counts']['kept']} pairs made; {document['pairs']} in {args.out}"]
    if document["complete"]:
        lines.append(
            f"next: rectiflow audio reflow data.dir={args.out} weights={args.weights} "
            "experiment=small_rectify"
        )
    else:
        lines.append("other shards are still to be done")
    return "\n".join(lines)
