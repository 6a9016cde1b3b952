"""``rectiflow audio convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Parser

from rectiflow_cli.audio.flags import Audio
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_audio.pipeline import SeparationPipeline


class Convert(Audio, commands.Convert):
    """Convert the authors' checkpoints to ours and back; every tensor is accounted for."""

    examples = ("v2_100k.ckpt -o ours", "ours --to official --rest v2_100k.ckpt -o theirs")
    licence = (
        "licence: the released weights have terms of their own; see the page you had them from"
    )
    official_files = ("flowsep.ckpt",)
    then = 'separate MIX.wav --query "a dog barks" --weights {folder} -o dog.wav'

    def own_flags(self, parser: Parser) -> None:
        """Add parts and configs."""
        add = parser.group("the authors' files")
        add("--part", choices=("vae", "vocoder"), help="Convert one network alone.")
        add("--config", metavar="YAML", help="The authors' config; by shapes if absent.")
        add("--vocoder-config", metavar="JSON", help="The vocoder's config, likewise.")
        add("--raw", action="store_true", help="Take the UNet as trained, not its average.")
        add(
            "--rest",
            metavar="CKPT",
            help="With --to: a checkpoint of the authors that fills in the text encoder and what "
            "only their training needs; their loader asks for it.",
        )

    def official(self, path: Path, args: Any) -> Any:
        """Load flow, autoencoder and vocoder together, or one network."""
        from rectiflow_audio import SeparationPipeline
        from rectiflow_audio.weights import read_vocoder_config

        told = args.vocoder_config
        vocoder = None if told is None else read_vocoder_config(told)
        if args.part is not None:
            config = vocoder if args.part == "vocoder" else args.config
            return SeparationPipeline.load_official_part(path, args.part, config=config)
        return SeparationPipeline.load_official(
            path, config=args.config, vocoder_config=vocoder, ema=not args.raw
        )

    def write_official(self, pipe: SeparationPipeline, out: Path, args: Any) -> list[Path]:
        """Write ``flowsep.ckpt``."""
        from rectiflow.storage.pretrained import load_tensors
        from rectiflow_audio.weights import save_official

        if pipe.vocoder is None:
            raise UsageError(
                f"{args.checkpoint} has no vocoder, which the authors' checkpoint holds; expected "
                "weights that have one. Train one with experiment=..._vocoder and give it as "
                "vocoder.weights."
            )
        rest = None if args.rest is None else load_tensors(args.rest)
        return [save_official(pipe, out / "flowsep.ckpt", rest=rest)]


main = Convert()
