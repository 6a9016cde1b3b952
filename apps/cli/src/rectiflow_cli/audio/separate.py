"""``rectiflow audio separate``: sounds out of recordings, by words."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.audio.options import (
    NEGATIVE_GUIDANCE,
    Parser,
    make_pipeline,
    separation,
    words,
)
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, plain, table
from rectiflow_cli.progress import counter

if TYPE_CHECKING:
    import argparse

    from rectiflow_audio.pipeline import SeparationPipeline

FAINT = 1e-3
"""An estimate with less than this share of the mixture's energy found next to nothing."""

DEPTHS = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}
"""Of ``--depth``, as libsndfile names them."""

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
        type=words,
        metavar="WORDS",
        help='what to separate, such as "a dog barks"; may be repeated',
    )
    add(
        "--not",
        dest="negative",
        type=words,
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
        choices=("each", "mid"),
        default="each",
        help="separate every channel, or their mean, whose mask is applied to each",
    )
    add("--format", choices=("wav", "flac", "ogg"), default="wav", help="of files in a folder")
    add("--depth", choices=DEPTHS, help="bits of the files' samples; the recording's if absent")
    add("--overwrite", action="store_true", help="replace files that this command did not make")
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
                if not args.overwrite:
                    _refuse_foreign(job)
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
    if refused and not rows:
        raise UsageError(
            f"none of {len(jobs)} recording(s) could be separated, each for the reason above; "
            "expected at least one that can be read."
        )
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
            depth=DEPTHS.get(args.depth),
            dtype=getattr(torch, args.dtype),
            progress=show,
            **options,
        )
    told = plain(told | {"weights": args.weights, **_asked(args, job)})
    write_summary(job.summary, told)
    return told


def _done(
    pipe: SeparationPipeline, job: Job, args: argparse.Namespace, options: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the summary of an earlier run with the same settings, if its files are there."""
    files = [*job.sounds, *([job.residual] if job.residual else [])]
    told = _summary(job.summary)
    if told is None or not all(path.is_file() for path in (job.mixture, *files)):
        return None
    import torch

    request = pipe.request(args.queries, residual=args.residual, **options)
    now = plain(pipe.describe(request, getattr(torch, args.dtype)) | _asked(args, job))
    same = all(told.get(key) == value for key, value in now.items() if key not in _FREE)
    return told if same and told.get("input") == str(job.mixture) else None


def _summary(path: Path) -> dict[str, Any] | None:
    """Read the summary of an earlier run; None if it is not one of this command."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and {"queries", "files", "input"} <= told.keys() else None


def _refuse_foreign(job: Job) -> None:
    """Refuse to write over files that no earlier run of this command made."""
    told = _summary(job.summary)
    mine = set() if told is None else {job.summary.name, *told["files"]}
    for path in (*job.sounds, *([job.residual] if job.residual else []), job.summary):
        if os.path.exists(path) and path.name not in mine:
            raise UsageError(
                f"{path} is there already and was not made by this command; expected another "
                "place. Choose another -o, or replace it with --overwrite."
            )


def _asked(args: argparse.Namespace, job: Job) -> dict[str, Any]:
    """Return settings that the pipeline's own description leaves out, and what was separated."""
    with job.mixture.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "input_sha256": digest,
        "depth": args.depth,
        "negative": args.negative,
        "residual": args.residual,
        "consistent": args.consistent,
        "channels": args.channels,
        "posterior": args.posterior,
        "pick": args.pick,
    }


def _jobs(args: argparse.Namespace) -> list[Job]:
    """Lay out where every sound goes: OUT.wav, OUT/QUERY.wav, or OUT/RECORDING/QUERY.wav."""
    from rectiflow_audio.io import FORMATS, SUFFIXES
    from rectiflow_audio.result import RESIDUAL, file_names

    found = list(_recordings(args.mixtures))
    out = Path(args.out)
    is_folder = os.path.isdir(out)  # False also for a name that is too long
    if out.suffix.lower() in SUFFIXES - FORMATS.keys() and not is_folder:
        raise UsageError(
            f"{out.suffix} cannot be written, got -o {out}; expected a folder, or a file that ends "
            f"in {', '.join(FORMATS)}."
        )
    if out.suffix.lower() in FORMATS and not is_folder:
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
    names = [f"{name}.{args.format}" for name in file_names(args.queries)]
    jobs = [
        Job(
            mixture,
            [folder / name for name in names],
            folder / f"{RESIDUAL}.{args.format}" if args.residual else None,
            folder / "result.json",
            is_named,
        )
        for (mixture, is_named), folder in zip(found, folders, strict=True)
    ]
    inputs = {mixture.resolve() for mixture, _ in found}
    for path in (p for job in jobs for p in (*job.sounds, job.residual) if p is not None):
        if path.resolve() in inputs:
            raise UsageError(
                f"{path} is a recording that is to be separated; expected -o to name another "
                "folder, since inputs are never written over."
            )
    return jobs


def _recordings(paths: list[str]) -> Iterator[tuple[Path, bool]]:
    """Yield files, and whether each was named itself or lies in a folder that was."""
    from rectiflow_audio.io import SUFFIXES

    for path in map(Path, paths):
        if not os.path.isdir(path):
            yield path, True
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise UsageError(
                f"{path} holds no sound file; expected some such as .wav, .flac, .ogg or .mp3."
            )
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
