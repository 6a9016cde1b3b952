"""``rectiflow audio convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import Parser, answer

if TYPE_CHECKING:
    from collections.abc import Mapping

LICENCE = "licence: the released weights have terms of their own; see the page you had them from"


def _parser() -> Parser:
    parser = Parser("audio", "convert", main.__doc__)
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="the authors' checkpoint; with --to, ours")
    add("-o", "--out", required=True, metavar="DIR", help="folder to write")
    add("--to", choices=("official",), help="write a checkpoint for the authors' code instead")
    add("--part", choices=("vae", "vocoder"), help="convert one network alone")
    add("--config", metavar="YAML", help="the authors' config; sizes come from shapes if absent")
    add("--vocoder-config", metavar="JSON", help="the vocoder's config, likewise")
    add("--raw", action="store_true", help="take the UNet as trained, not its average")
    add(
        "--rest",
        metavar="CKPT",
        help="with --to: a checkpoint of the authors that fills in the text encoder and what only "
        "their training needs; their loader asks for it",
    )
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Convert the authors' checkpoints to ours and back; every tensor is accounted for."""
    args = _parser().parse_args(argv)
    out = Path(args.out)
    if args.to == "official":
        networks, written = _to_official(args.checkpoint, out, args.rest)
    else:
        networks, written = _from_official(args, out)
    from rectiflow.storage.pretrained import weights_hash

    document: dict[str, Any] = {
        "folder": out,
        "files": [path.relative_to(out).as_posix() for path in written],
        "networks": {
            name: {
                "parameters": sum(p.numel() for p in network.parameters()),
                "tensors": len(network.state_dict()),
                "sizes": asdict(network.sizes),
                "weights_hash": weights_hash(network),
            }
            for name, network in networks.items()
        },
        "licence": LICENCE,
    }
    lines = [f"wrote {', '.join(str(path) for path in written)}"]
    for name, told in document["networks"].items():
        lines.append(f"{name}: {told['tensors']} tensors, {told['parameters']:,} parameters")
    lines.append(LICENCE)
    if args.to is None and args.part is None:
        lines.append(
            f'next: rectiflow audio separate MIX.wav --query "a dog barks" --weights {out} '
            "-o dog.wav"
        )
    answer(document, "\n".join(lines), as_json=args.json)
    return DONE


def _from_official(args: Any, out: Path) -> tuple[dict[str, Any], list[Path]]:
    from rectiflow_audio.weights import (
        load_official_vae,
        load_official_vocoder,
        read_vocoder_config,
    )

    checkpoint = Path(args.checkpoint)
    if (checkpoint / "config.json").is_file():
        raise UsageError(
            f"{checkpoint} is in our form already; expected the authors' checkpoint. Add "
            "--to official to write one for their code."
        )
    card = {"converted_from": checkpoint.name, "licence": LICENCE}
    path = args.vocoder_config
    vocoder_config = None if path is None else read_vocoder_config(path)
    if args.part is None:
        return _whole(args, checkpoint, vocoder_config, out, card)
    network: Any = (
        load_official_vae(checkpoint, config=args.config)
        if args.part == "vae"
        else load_official_vocoder(checkpoint, config=vocoder_config)
    )
    network.save_pretrained(out, **card)
    return {args.part: network}, [out / "config.json", out / "model.safetensors"]


def _whole(
    args: Any,
    checkpoint: Path,
    vocoder_config: Mapping[str, Any] | None,
    out: Path,
    card: dict[str, Any],
) -> tuple[dict[str, Any], list[Path]]:
    """Convert flow, autoencoder and vocoder together."""
    from rectiflow_audio.pipeline import SeparationPipeline
    from rectiflow_audio.weights import load_official

    parts = load_official(
        checkpoint, config=args.config, vocoder_config=vocoder_config, ema=not args.raw
    )
    SeparationPipeline(parts.unet, parts.vae, parts.vocoder).save_pretrained(out, **card)
    networks = {"unet": parts.unet, "vae": parts.vae, "vocoder": parts.vocoder}
    files = [out / name / "model.safetensors" for name in networks]
    return networks, [out / "config.json", *files]


def _to_official(weights: str, out: Path, rest: str | None) -> tuple[dict[str, Any], list[Path]]:
    import torch
    from rectiflow.storage.pretrained import load_tensors
    from rectiflow_audio.pipeline import SeparationPipeline
    from rectiflow_audio.weights import OfficialFlowSep, to_official

    pipe = SeparationPipeline.from_pretrained(weights)
    if pipe.vocoder is None:
        raise UsageError(
            f"{weights} has no vocoder, which the authors' checkpoint holds; expected weights that "
            "have one. Train one with experiment=..._vocoder and give it as vocoder.weights."
        )
    model = OfficialFlowSep(pipe.unet, pipe.vae, pipe.vocoder, None, {})
    tensors = to_official(model, rest=None if rest is None else load_tensors(rest))
    out.mkdir(parents=True, exist_ok=True)
    target = out / "flowsep.ckpt"
    partial = target.with_name(f".{target.name}.partial")
    torch.save({"state_dict": tensors}, partial)
    os.replace(partial, target)
    return {"unet": pipe.unet, "vae": pipe.vae, "vocoder": pipe.vocoder}, [target]
