"""``convert``: the authors' checkpoints to ours and back."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser
from rectiflow.commands.verb import PipelineVerb
from rectiflow.storage.folders import claim
from rectiflow.storage.pretrained import CONFIG, WEIGHTS, weights_hash


class Convert(PipelineVerb):
    """Convert the authors' checkpoints to ours and back; every tensor is accounted for."""

    name = "convert"
    licence: ClassVar[str]
    then: ClassVar[str]
    """Words after ``rectiflow DOMAIN`` that use ``{folder}``."""
    official_files: ClassVar[tuple[str, ...]] = ()
    """What :meth:`write_official` writes."""

    def flags(self, parser: Parser) -> None:
        """Add the flags of every domain before the domain's own."""
        add = parser.group("input and output")
        add("checkpoint", metavar="CKPT", help="The authors' checkpoint; with --to, one of ours.")
        add("-o", "--out", required=True, metavar="DIR", help="The folder to write.")
        add("--to", choices=("official",), help="Write a checkpoint for the authors' code instead.")
        self.own_flags(parser)
        parser.add_overwrite()
        parser.add_json()

    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags."""

    def official(self, path: Path, args: Namespace) -> Any:
        """Load the authors' checkpoint: a pipeline, or one network of it."""
        return self.kind().load_official(path)

    def write_official(self, pipe: Any, out: Path, args: Namespace) -> list[Path]:
        """Write a checkpoint for the authors' code and return its files."""
        raise ValueError(f"{self.domain} writes no checkpoints of other code; leave --to out.")

    def run(self, args: Namespace) -> int:
        """Convert, and tell what was converted.

        Raises
        ------
        ValueError
            When the checkpoint is in our form already.
        """
        out, path = Path(args.out), Path(args.checkpoint)
        if args.to == "official":
            made = self.kind().from_pretrained(args.checkpoint)
            inputs = [each for each in (args.checkpoint, getattr(args, "rest", None)) if each]
            with claim(
                out,
                "official checkpoint",
                self.official_files,
                inputs=inputs,
                overwrite=args.overwrite,
            ):
                written = self.write_official(made, out, args)
        elif (path / CONFIG).is_file():
            raise ValueError(
                f"{path} is in our form already; expected the authors' checkpoint. Add "
                "--to official to write one for their code."
            )
        else:
            made = self.official(path, args)
            made.save_pretrained(
                out, overwrite=args.overwrite, converted_from=path.name, licence=self.licence
            )
            written = [p for name in (CONFIG, WEIGHTS) for p in sorted(out.rglob(name))]
        parts: Mapping[str, nn.Module] = getattr(made, "parts", {}) or {"network": made}
        networks = {name: _described(part) for name, part in parts.items()}
        document = {
            "folder": out,
            "files": [file.relative_to(out).as_posix() for file in written],
            "networks": networks,
            "licence": self.licence,
        }
        lines = [f"wrote {', '.join(map(str, written))}"]
        for name, told in networks.items():
            sizes = ", ".join(f"{key} {value}" for key, value in told["sizes"].items())
            lines.append(
                f"{name}: {told['tensors']} tensors, {told['parameters']:,} parameters ({sizes}), "
                f"hash {told['weights_hash']}"
            )
        lines.append(self.licence)
        if args.to is None and hasattr(made, "parts"):
            lines.append(f"next: rectiflow {self.domain} {self.then.format(folder=out)}")
        answer(document, "\n".join(lines), as_json=args.json)
        return 0


def _described(network: Any) -> dict[str, Any]:
    return {
        "parameters": sum(p.numel() for p in network.parameters()),
        "tensors": len(network.state_dict()),
        "sizes": asdict(network.sizes) if hasattr(network, "sizes") else network.config,
        "weights_hash": weights_hash(network),
    }
