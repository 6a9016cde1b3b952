"""``rectiflow audio prepare``: sound files and captions to shards."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Parser, pick_device

from rectiflow_cli.audio.flags import Audio


class Prepare(Audio, commands.Prepare):
    """Turn a folder of sounds with captions into shards to train on."""

    examples = (
        "sounds -o shards --wordings paraphrases",
        "audiocaps -o shards --captions train.csv --channel first --text google/flan-t5-large",
    )
    takes = "Sound files: WAV, FLAC, Ogg, MP3, AIFF."
    then = "train data.dir={folder} experiment=small_vae"
    mend = "Correct the list or the files, into a new folder."

    def own_flags(self, parser: Parser) -> None:
        """Add captions and their encoder."""
        add = parser.group("sounds and captions")
        add(
            "--captions",
            metavar="FILE",
            help="CSV or JSON lines with file and caption, and label and split where known; "
            "metadata.csv in FOLDER if absent.",
        )
        add("--channel", choices=("mean", "first"), default="mean", help="How channels join.")
        add(
            "--text",
            default="minilm",
            metavar="ENCODER",
            help="Embeds the captions: minilm, which is installed, or a folder or name such as "
            "google/flan-t5-large, which the released checkpoint needs.",
        )
        add(
            "--wordings",
            metavar="FILE",
            help="CSV with label and caption: other wordings that training may draw; paraphrases "
            "is a list for the classes of the shipped checkpoint.",
        )
        parser.add_device(add)

    def prepare(self, args: Any, **how: Any) -> Any:
        """Prepare the clips and embed their captions."""
        from rectiflow.conditioning import TextEncoder
        from rectiflow_audio.data import Wordings, prepare

        wordings = None if args.wordings is None else Wordings.read(args.wordings)
        return prepare(
            args.folder,
            args.out,
            captions=args.captions,
            channel=args.channel,
            encode=TextEncoder.load(args.text, device=pick_device(args.device)),
            wordings=wordings,
            **how,
        )


main = Prepare()
