"""``rectiflow audio separate``: sounds out of recordings, by words."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.audio.options import NEGATIVE_GUIDANCE, Parser, make_pipeline, separation
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, plain, table
from rectiflow_cli.progress import counter

if TYPE_CHECKING:
    import argparse

    from rectiflow_audio.pipeline import SeparationPipeline

FAINT = 1e-3
"""An estimate with less than this share of the mixture's energy found next to nothing."""

_FREE = ("seconds", "files", "energy", "input", "device")
"""What may differ between two runs of the same separation."""


@dataclass(frozen=True)
class Job:
    """One recording, where its sounds go, and whether a bad file stops everything."""

    mixture: Path
    sounds: list[Path]
    residual: Path | None
    summary: Path
    is_named: bool


def _parser() -> Parser:
    parser = Parser("separate", main.__doc__)
    add = parser.add_argument
    add("mixtures", metavar="MIX", nargs="+", help="sound files, or folders of them")
    add(
        "--query",
        action="append",
        required=True,
        dest="queries",
        metavar="WORDS",
        help='what to separate, such as "a dog barks"; may be repeated',
    )
    add(
        "--not",
        dest="negative",
        metavar="WORDS",
        help=f"what not to hear; acts through --guidance, {NEGATIVE_GUIDANCE:g} if absent",
    )
    add(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help="a sound file for one recording and one query, else a folder",
    )
    add("--residual", action="store_true", help="write everything else as well")
    add("--consistent", action="store_true", help="make the estimates sum to the mixture")
    add(
        "--channels",
        choices=("image", "each", "mid"),
        default="image",
        help="separate every channel and keep each sound in one place between them, or leave its "
        "level to each channel, or separate their mean, whose mask is applied to each",
    )
    add("--format", choices=("wav", "flac", "ogg"), default="wav", help="of files in a folder")
    parser.add_shard()
    parser.add_separation()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Separate sounds by text queries.

    Recordings may have any length, rate and number of channels. One that was separated already
    with the same settings is left as it is.
    """
    args = _parser().parse_args(argv)
    if args.negative is not None and args.guidance is None:
        args.guidance = NEGATIVE_GUIDANCE
    options = separation(args) | {
        "negative": args.negative,
        "consistent": args.consistent,
        "channels": args.channels,
    }
    part, parts = args.shard
    from rectiflow_audio.io import AudioFileError

    jobs = [job for i, job in enumerate(_jobs(args)) if i % parts == part]
    pipe = make_pipeline(args)
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    made = 0
    for job in jobs:
        told = _done(pipe, job, args, options)
        if told is None:
            try:
                told = _separate(pipe, job, args, options)
            except AudioFileError as error:
                if job.is_named:
                    raise
                refused[str(job.mixture)] = str(error)
                sys.stderr.write(f"passed over: {error}\n")
                continue
            made += 1
        rows.append({**told, "folder": str(job.sounds[0].parent)})
    document = {"separated": made, "kept": len(rows) - made, "results": rows, "refused": refused}
    answer(document, _text(rows, made), as_json=args.json)
    return DONE


def _separate(
    pipe: SeparationPipeline, job: Job, args: argparse.Namespace, options: dict[str, Any]
) -> dict[str, Any]:
    """Separate one recording and write the summary last."""
    import torch
    from rectiflow_audio.pipeline import write_summary

    with counter(job.mixture.name, unit="window", quiet=args.json) as show:
        told = pipe.separate_file(
            job.mixture,
            args.queries,
            job.sounds,
            residual_out=job.residual,
            dtype=getattr(torch, args.dtype),
            progress=show,
            **options,
        )
    told = plain(told | {"weights": args.weights, **_asked(args)})
    write_summary(job.summary, told)
    return told


def _done(
    pipe: SeparationPipeline, job: Job, args: argparse.Namespace, options: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the summary of an earlier run with the same settings, if its files are there."""
    files = [*job.sounds, *([job.residual] if job.residual else [])]
    if not job.summary.is_file() or not all(path.is_file() for path in files):
        return None
    import torch

    told: dict[str, Any] = json.loads(job.summary.read_text(encoding="utf-8"))
    request = pipe.request(args.queries, residual=args.residual, **options)
    now = plain(pipe.describe(request, getattr(torch, args.dtype)) | _asked(args))
    same = all(told.get(key) == value for key, value in now.items() if key not in _FREE)
    is_newer = job.summary.stat().st_mtime >= job.mixture.stat().st_mtime
    return told if same and is_newer and told.get("input") == str(job.mixture) else None


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """Return settings that the pipeline's own description leaves out."""
    return {
        "negative": args.negative,
        "residual": args.residual,
        "consistent": args.consistent,
        "channels": args.channels,
        "posterior": args.posterior,
        "pick": args.pick,
    }


def _jobs(args: argparse.Namespace) -> list[Job]:
    """Lay out where every sound goes: OUT.wav, OUT/QUERY.wav, or OUT/RECORDING/QUERY.wav."""
    from rectiflow_audio.io import FORMATS

    found = list(_recordings(args.mixtures))
    out = Path(args.out)
    if out.suffix.lower() in FORMATS and not out.is_dir():
        if len(found) > 1 or len(args.queries) > 1 or args.residual:
            raise UsageError(
                f"one file cannot hold several sounds, got -o {out} for {len(found)} recording(s), "
                f"{len(args.queries)} quer{'y' if len(args.queries) == 1 else 'ies'}"
                f"{' and the residual' if args.residual else ''}; expected a folder."
            )
        [(mixture, is_named)] = found
        if out.resolve() == mixture.resolve():
            raise UsageError(f"-o {out} is the recording itself; expected another file.")
        return [Job(mixture, [out], None, out.with_suffix(".json"), is_named)]
    several = len(found) > 1
    folders = [out / mixture.stem if several else out for mixture, _ in found]
    if len(set(folders)) < len(folders):
        twice = next(f.name for f in folders if folders.count(f) > 1)
        raise UsageError(
            f"two recordings are called {twice!r}, got {len(found)} recordings; expected different "
            "names, which become folders. Separate them one by one."
        )
    names = [f"{name}.{args.format}" for name in _names(args.queries)]
    return [
        Job(
            mixture,
            [folder / name for name in names],
            folder / f"residual.{args.format}" if args.residual else None,
            folder / "result.json",
            is_named,
        )
        for (mixture, is_named), folder in zip(found, folders, strict=True)
    ]


def _names(queries: list[str]) -> list[str]:
    """Return the queries as file names, numbered where they are the same."""
    import numpy as np
    from rectiflow_audio.pipeline import Estimate

    names = [Estimate(query, np.empty((0, 0), np.float32), 0.0).name for query in queries]
    return [n if names.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(names)]


def _recordings(paths: list[str]) -> Iterator[tuple[Path, bool]]:
    """Yield files, and whether each was named itself or lies in a folder that was."""
    from rectiflow_audio.io import FORMATS

    for path in map(Path, paths):
        if not path.is_dir():
            yield path, True
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in FORMATS and p.is_file())
        if not inside:
            raise UsageError(f"{path} holds no sound file; expected some of {', '.join(FORMATS)}.")
        yield from ((p, False) for p in inside)


def _text(rows: list[dict[str, Any]], made: int) -> str:
    kept = f", {len(rows) - made} were there already" if len(rows) > made else ""
    lines = [f"{made} recording(s) separated{kept}"]
    shown = [
        {"file": str(Path(row["folder"]) / file), "query": query, "energy": row["energy"][query]}
        for row in rows
        for query, file in zip(row["queries"], row["files"], strict=False)
    ]
    if shown:
        lines.append(table(shown))
    if any(row["energy"] < FAINT for row in shown):
        lines.append(
            "energy is the estimate's share of the mixture's: where it is near 0, nothing that "
            "fits the query was found"
        )
    return "\n".join(lines)
