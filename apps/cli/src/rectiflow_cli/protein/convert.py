"""``rectiflow protein convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer
from rectiflow_cli.protein.options import Parser

if TYPE_CHECKING:
    from rectiflow_protein.networks import ReQFlowNetwork

LICENCE = (
    "licence: the model card of the released weights says apache-2.0; the authors' repository "
    "has no licence file"
)


def _parser() -> Parser:
    parser = Parser("convert", main.__doc__)
    parser.add_argument(
        "checkpoint", metavar="CKPT", help="the authors' .ckpt or its folder; with --to, ours"
    )
    parser.add_argument("-o", "--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--to", choices=("official",), help="write a checkpoint for the authors' code instead"
    )
    parser.add_overwrite()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Convert the authors' checkpoints to ours and back; every tensor is accounted for."""
    args = _parser().parse_args(argv)
    out = Path(args.out)
    if args.to == "official":
        network, written = _to_official(args.checkpoint, out, args.overwrite)
    else:
        network, written = _from_official(Path(args.checkpoint), out, args.overwrite)
    from rectiflow.storage.pretrained import weights_hash

    sizes = asdict(network.sizes)
    document: dict[str, Any] = {
        "folder": out,
        "files": [path.name for path in written],
        "parameters": sum(p.numel() for p in network.parameters()),
        "tensors": len(network.state_dict()),
        "sizes": sizes,
        "weights_hash": weights_hash(network),
        "licence": LICENCE,
    }
    lines = [
        f"wrote {', '.join(str(path) for path in written)}",
        f"{document['tensors']} tensors, {document['parameters']:,} parameters: "
        + ", ".join(f"{name} {size}" for name, size in sizes.items()),
        f"hash: {document['weights_hash']}",
        LICENCE,
    ]
    if args.to is None:
        lines.append(f"next: rectiflow protein sample --weights {out} --length 100 -o samples")
    answer(document, "\n".join(lines), as_json=args.json)
    return DONE


def _from_official(
    checkpoint: Path, out: Path, overwrite: bool
) -> tuple[ReQFlowNetwork, list[Path]]:
    from rectiflow_protein.weights import load_official

    if (checkpoint / "config.json").is_file():
        raise UsageError(
            f"{checkpoint} is in our form already; expected the authors' checkpoint. Add "
            "--to official to write one for their code."
        )
    network = load_official(checkpoint)
    network.save_pretrained(
        out, overwrite=overwrite, converted_from=checkpoint.name, licence=LICENCE
    )
    return network, [out / "config.json", out / "model.safetensors"]


def _to_official(weights: str, out: Path, overwrite: bool) -> tuple[ReQFlowNetwork, list[Path]]:
    import torch
    import yaml
    from rectiflow.storage.files import whole_file, write_text
    from rectiflow.storage.folders import claim
    from rectiflow_protein.pipeline import BackbonePipeline
    from rectiflow_protein.weights import CONFIG, official_config, to_official

    network = BackbonePipeline.from_pretrained(weights).network
    checkpoint, config = out / "reqflow.ckpt", out / CONFIG
    names = [checkpoint.name, config.name]
    with claim(out, "official checkpoint", names, inputs=[weights], overwrite=overwrite):
        with whole_file(checkpoint) as part:
            torch.save({"state_dict": to_official(network)}, part)
        write_text(config, yaml.safe_dump({"model": official_config(network.sizes)}))
    return network, [checkpoint, config]
