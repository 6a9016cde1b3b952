"""``rectiflow audio prepare``: sound files and captions to shards."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rectiflow_cli.audio.parts import wordings
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import (
    Parser,
    answer,
    claimed_preparation,
    fractions_of,
    pick_device,
    positive,
)
from rectiflow_cli.progress import counter
from rectiflow_cli.rejections import reasons

if TYPE_CHECKING:
    from pathlib import Path

    from rectiflow_audio.data import Report


def _parser() -> Parser:
    parser = Parser("audio", "prepare", main.__doc__)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="sound files: WAV, FLAC, Ogg, MP3, AIFF")
    add("-o", "--out", required=True, metavar="SHARDS", help="folder to write")
    add(
        "--captions",
        metavar="FILE",
        help="CSV or JSON lines with file and caption, and label and split where known; "
        "metadata.csv in FOLDER if absent",
    )
    add("--channel", choices=("mean", "first"), default="mean", help="how channels become one")
    add(
        "--text",
        default="minilm",
        metavar="ENCODER",
        help="embeds the captions: minilm, which is installed, or a folder or name such as "
        "google/flan-t5-large, which the released checkpoint needs",
    )
    add(
        "--wordings",
        metavar="FILE",
        help="CSV with label and caption: other wordings that training may draw; paraphrases is "
        "a list for the classes of the shipped checkpoint",
    )
    add(
        "--splits",
        type=fractions_of,
        default="0.9,0.05,0.05",
        metavar="A,B,C",
        help="shares of train, valid and test among rows that do not tell",
    )
    add("--seed", type=int, default=0, help="of the split")
    add("--workers", type=positive, default=1, help="processes")
    add("--device", default="auto", help="of the text encoder: auto, cpu, cuda or cuda:INDEX")
    parser.add_overwrite()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Turn a folder of sounds with captions into shards to train on.

    Raises
    ------
    UsageError
        When no clip is accepted.
    """
    args = _parser().parse_args(argv)
    further = wordings(args.wordings)
    device = pick_device(args.device)
    from rectiflow.conditioning import TextEncoder
    from rectiflow_audio.data import prepare
    from rectiflow_audio.data.shards import REJECTED

    # That no clip was accepted is said below, in one line.
    logging.getLogger("rectiflow_audio.data.prepare").setLevel(logging.ERROR)
    encoder = TextEncoder.load(args.text, device=device)
    with (
        claimed_preparation(args.out, overwrite=args.overwrite),
        counter("reading", unit="file", quiet=args.json) as progress,
    ):
        report = prepare(
            args.folder,
            args.out,
            captions=args.captions,
            channel=args.channel,
            fractions=args.splits,
            seed=args.seed,
            encode=encoder,
            wordings=further,
            workers=args.workers,
            progress=progress,
        )
    rejected = report.folder / REJECTED
    told = reasons(rejected)
    document: dict[str, Any] = {
        **asdict(report),
        "rejected_csv": rejected,
        "reasons": dict(told),
        "text_encoder": args.text,
    }
    answer(document, _text(report, rejected, told), as_json=args.json)
    if not report.clips:
        raise UsageError(
            f"no clip of {report.files} listed file(s) was accepted; {rejected} has the reason for "
            "each. Correct the list or the files, into a new folder."
        )
    return DONE


def _text(report: Report, rejected: Path, told: list[tuple[str, int]]) -> str:
    splits = ", ".join(f"{count} {name}" for name, count in report.splits.items())
    lines = [
        f"accepted {report.clips} clips ({report.seconds / 60:.1f} minutes, {report.labels} "
        f"classes; {splits}) of {report.files} listed file(s)",
        f"rejected {report.rejected}; each with its reason in {rejected}",
        *(f"  {count:>6}  {reason}" for reason, count in told),
    ]
    if report.unlisted:
        lines.append(f"{report.unlisted} sound files are not in the list and were not used")
    if report.clips:
        lines.append(f"next: rectiflow audio train data.dir={report.folder} experiment=small_vae")
    return "\n".join(lines)
