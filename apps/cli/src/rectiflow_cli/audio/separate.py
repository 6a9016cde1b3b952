"""``rectiflow audio separate``: sounds out of recordings, by words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Job, Made, Parser, Tick, table, words
from rectiflow.costs import Load

from rectiflow_cli.audio.flags import (
    NEGATIVE_GUIDANCE,
    Audio,
    add_queries,
    add_separation,
    seconds,
    separation,
)
from rectiflow_cli.audio.sounds import DEPTHS, add_output, is_sound, job_of, place, recordings
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline

FAINT = 1e-3
"""An estimate with less than this share of the mixture's energy found next to nothing."""


class Separate(Audio, commands.Make):
    """Separate sounds by text queries.

    Recordings may have any length, rate and number of channels. One that was separated already
    with the same settings is left as it is.
    """

    name, unit, shipped = "separate", "recording", "small_patches"
    examples = (
        'mixture.wav --query "a dog barks" -o dog.wav',
        'recordings --query "rain" --query "a clock" --residual -o separated',
    )

    def own_flags(self, parser: Parser) -> None:
        """Add recordings, queries and where sounds go."""
        add = parser.group("sounds")
        add("mixtures", metavar="MIX", nargs="+", help="Sound files, or folders of them.")
        add_queries(add)
        add(
            "--not",
            dest="negative",
            type=words,
            metavar="WORDS",
            help=f"What not to hear; acts through --guidance, {NEGATIVE_GUIDANCE:g} if absent.",
        )
        add(
            "--when",
            type=seconds,
            metavar="A-B",
            help="Seconds between which the sounds are; the rest stays as it is.",
        )
        add = add_output(parser, "A sound file for one recording and one query, else a folder.")
        add("--residual", action="store_true", help="Write everything else as well.")
        add("--consistent", action="store_true", help="Make the estimates sum to the mixture.")
        add(
            "--channels",
            choices=("image", "each", "mid"),
            default="image",
            help="Separate every channel and keep each sound in one place between them, or leave "
            "its level to each channel, or separate their mean, whose mask is applied to each.",
        )
        add_separation(parser)

    def jobs(self, args: Any) -> list[Job]:
        """Lay out where every sound goes: OUT.wav, OUT/QUERY.wav, or OUT/RECORDING/QUERY.wav."""
        from rectiflow_audio.result import file_names

        found = list(recordings(args.mixtures))
        out = Path(args.out)
        if is_sound(out):
            if len(found) > 1 or len(args.queries) > 1 or args.residual:
                raise UsageError(
                    f"one file cannot hold several sounds, got -o {out} for {len(found)} "
                    f"recording(s), {len(args.queries)} "
                    f"quer{'y' if len(args.queries) == 1 else 'ies'}"
                    f"{' and the residual' if args.residual else ''}; expected a folder."
                )
            [(mixture, is_named)] = found
            return [job_of(mixture, (out.name,), is_named, out.stem)]
        stems = [mixture.stem for mixture, _ in found]
        if len(set(stems)) < len(stems):
            twice = next(stem for stem in stems if stems.count(stem) > 1)
            raise UsageError(
                f"two recordings are called {twice!r}, got {len(found)} recordings; expected "
                "different names, which become folders. Separate them one by one."
            )
        names = file_names(args.queries, f".{args.format}", residual=args.residual)
        several = len(found) > 1
        return [
            job_of(mixture, tuple(f"{stem}/{n}" if several else n for n in names), is_named, stem)
            for (mixture, is_named), stem in zip(found, stems, strict=True)
        ]

    def place(self, args: Any) -> dict[str, Any]:
        """Keep the list of one sound file beside it, under its name."""
        return place(args.out)

    def _request(self, args: Any, pipe: SeparationPipeline) -> Any:
        if args.negative is not None and args.guidance is None:
            args.guidance = NEGATIVE_GUIDANCE
        return pipe.request(
            args.queries,
            negative=args.negative,
            residual=args.residual,
            consistent=args.consistent,
            channels=args.channels,
            when=args.when,
            **separation(args),
        )

    def settings(self, args: Any, pipe: SeparationPipeline) -> dict[str, Any]:
        """Return the request as it is resolved."""
        args.request = self._request(args, pipe)
        return args.request.describe() | {"depth": args.depth}

    def loads(self, args: Any, pipe: SeparationPipeline, jobs: list[Job]) -> list[Load]:
        """Return the latents of all windows, channels, queries and candidates."""
        from rectiflow_audio.io import sound_info
        from rectiflow_audio.separator import rows_of

        request = args.request
        usual = 2 if pipe.settings.guidance != 1 else 1  # rows that trials had for each latent
        calls = request.describe()["nfe"] // usual
        found = []
        for job in jobs:
            info = sound_info(job.asked)
            windows = len(pipe.windows(info.sample_rate).starts(info.samples))
            channels = info.channels if request.channels == "each" else 1
            latents = windows * channels * len(request.queries) * request.candidates
            rows = min(latents, rows_of(pipe.device))
            found.append(Load(rows, 1, calls, -(-latents // rows)))
        return found

    def lighter(self, rows: int, tokens: int) -> str:
        """Return what goes through the network together: sounds, candidates and channels."""
        if not rows:
            return "a device with more memory, such as --device cpu"
        return (
            f"at most {rows} sounds at once, --query times --candidates times channels; --channels "
            "mid counts one channel"
        )

    def make(
        self, args: Any, pipe: SeparationPipeline, jobs: list[Job], folder: Path, progress: Tick
    ) -> Made:
        """Separate one recording."""
        [job] = jobs
        targets = [folder / name for name in job.files]
        depth = DEPTHS.get(args.depth)
        told = pipe.separate_file(job.asked, args.request, targets, depth=depth, progress=progress)
        seconds = told.pop("seconds")
        return [{"name": job.name, "files": list(job.files), **told, **job.expected}], seconds

    def tell(self, args: Any, document: dict[str, Any]) -> str:
        """Return the energy of each sound."""
        kept = f", {document['kept']} were there already" if document["kept"] else ""
        lines = [f"{document['made']} recording(s) separated{kept}"]
        shown = [
            {"file": str(document["folder"] / file), "query": query, "energy": row["energy"][query]}
            for row in document["samples"]
            for query, file in zip(row["queries"], row["files"], strict=False)
        ]
        if shown:
            lines.append(table(shown))
        if any(row["energy"] < FAINT for row in shown):
            lines.append(
                "energy is the estimate's share of the mixture's: where it is near 0, nothing "
                "that fits the query was found"
            )
        return "\n".join(lines)


main = Separate()
