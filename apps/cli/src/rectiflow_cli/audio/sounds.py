"""Sound files in and out, as the verbs of recordings share them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Parser
from rectiflow.storage.reading import digest_of_file

from rectiflow_cli.audio.flags import Audio
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

DEPTHS = {"16": "PCM_16", "24": "PCM_24", "32": "PCM_32", "float": "FLOAT"}
"""Of ``--depth``, as libsndfile names them."""


class Change(Audio, commands.Make):
    """A verb that makes one recording of each."""

    unit = "recording"

    def add_sounds(self, parser: Parser) -> None:
        """Add recordings and where they go."""
        add = parser.group("sounds")
        add("recordings", metavar="FILE", nargs="+", help="Sound files, or folders of them.")
        add_output(parser, "A sound file for one recording, else a folder.")

    def jobs(self, args: Any) -> list[Job]:
        """Lay out where each recording goes: OUT.wav, or OUT/NAME.wav."""
        found, out = list(recordings(args.recordings)), Path(args.out)
        if is_sound(out):
            if len(found) > 1:
                raise UsageError(
                    f"one file cannot hold several sounds, got -o {out} for {len(found)} "
                    "recordings; expected a folder."
                )
            [(path, is_named)] = found
            return [job_of(path, (out.name,), is_named, out.stem)]
        return [
            job_of(path, (f"{path.stem}.{args.format}",), is_named, path.stem)
            for path, is_named in found
        ]

    def place(self, args: Any) -> dict[str, Any]:
        """Keep the list of one sound file beside it, under its name."""
        return place(args.out)

    def write(
        self,
        args: Any,
        job: Job,
        folder: Path,
        change: Callable[[np.ndarray, int], np.ndarray],
    ) -> list[dict[str, Any]]:
        """Read a recording, change it, and write it in its own depth."""
        from rectiflow_audio.io import depth_like, read_audio, sound_info, write_audio

        target = folder / job.files[0]
        depth = DEPTHS.get(args.depth) or depth_like(sound_info(job.asked).subtype, target)
        audio = read_audio(job.asked)
        made = change(audio.samples, audio.sample_rate)
        write_audio(target, made, audio.sample_rate, subtype=depth)
        told = {"seconds": round(made.shape[-1] / audio.sample_rate, 6)}
        return [{"name": job.name, "files": list(job.files), **told, **job.expected}]


def add_output(parser: Parser, where: str) -> Callable[..., Any]:
    """Add where sounds go and how they are written; return what adds to the same group."""
    add = parser.group("output")
    add("-o", "--out", required=True, metavar="OUT", help=where)
    add("--format", choices=("wav", "flac", "ogg"), default="wav", help="In a folder.")
    add("--depth", choices=DEPTHS, help="Bits of a sample; the recording's if absent.")
    return add


def place(out: str) -> dict[str, Any]:
    """Return where the list of results is kept: beside one sound file under its name."""
    path = Path(out)
    if is_sound(path):
        return {"folder": path.parent, "stem": path.stem, "replace": True}
    return {"folder": path}


def job_of(mixture: Path, files: tuple[str, ...], is_named: bool, stem: str) -> Job:
    """Return the job of one recording, done when it was made of the file as it is now."""
    # By content: a copied recording may be older than the result of the one it replaces.
    digest = digest_of_file(mixture) if mixture.is_file() else ""
    told = {"input": str(mixture), "input_sha256": digest}
    return Job(stem, mixture, files, told, is_named, mixture)


def is_sound(out: Path) -> bool:
    """Tell a sound file from a folder; refuse names of formats that are not written."""
    from rectiflow_audio.io import FORMATS, SUFFIXES

    is_folder = os.path.isdir(out)  # False also for a name that is too long
    if out.suffix.lower() in SUFFIXES - FORMATS.keys() and not is_folder:
        raise UsageError(
            f"{out.suffix} cannot be written, got -o {out}; expected a folder, or a file that ends "
            f"in {', '.join(FORMATS)}."
        )
    return out.suffix.lower() in FORMATS and not is_folder


def recordings(paths: list[str]) -> Iterator[tuple[Path, bool]]:
    """Yield files, and whether each was named itself or lies in a folder that was."""
    from rectiflow_audio.io import SUFFIXES

    for path in map(Path, paths):
        if not os.path.isdir(path):
            if not os.path.lexists(path):  # told at once, not after all the others
                raise UsageError(
                    f"{path}: there is no such file; expected a sound file. Check the path."
                )
            yield path, True
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not inside:
            raise UsageError(
                f"{path} holds no sound file; expected some such as .wav, .flac, .ogg or .mp3."
            )
        yield from ((p, False) for p in inside)
