"""``rectiflow shape encode``: a mesh to the latents of an autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.commands import Parser, Verb, answer, pick_device, positive
from rectiflow.storage.files import write_tensors
from rectiflow.storage.folders import claim_file

from rectiflow_cli.errors import UsageError
from rectiflow_cli.shape.flags import Shape

if TYPE_CHECKING:
    from rectiflow_shape.pipeline import ShapeAutoencoder, ShapePipeline


class Encode(Shape, Verb):
    """Encode a mesh into the latents of a TripoSG autoencoder, to decode or to edit."""

    name = "encode"
    examples = (
        "chair.glb --weights triposg -o chair.safetensors",
        "chair.glb --weights triposg --tokens 512 -o chair.safetensors",
    )

    def flags(self, parser: Parser) -> None:
        """Add the mesh, the weights and where latents go."""
        add = parser.group("input and output")
        add("mesh", metavar="MESH", help="Any mesh; it is normalised first.")
        add("-o", "--out", required=True, metavar="OUT", help="A .safetensors file.")
        add("--weights", required=True, help="Weights with an autoencoder.")
        add("--tokens", type=positive, help="How many latents; as trained if absent.")
        add("--sample", action="store_true", help="Take a sample of the posterior, not its mean.")
        add("--seed", type=int, default=0, help="Of what is drawn.")
        parser.add_device(add)
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Encode and write."""
        from rectiflow_shape.geometry import normalise
        from rectiflow_shape.io import read_mesh
        from rectiflow_shape.reconstruction import encode

        source, out = Path(args.mesh), Path(args.out)
        if out.suffix != ".safetensors":
            raise UsageError(f"latents are a .safetensors file, got -o {out}; expected one.")
        pipe = autoencoder(args.weights, pick_device(args.device))
        mesh, report = read_mesh(source)
        normal, placement = normalise(mesh)
        tokens = args.tokens or pipe.settings.tokens
        generator = torch.Generator().manual_seed(args.seed)
        found = encode(pipe.vae, normal, tokens, generator, sample=args.sample)
        place = torch.tensor([*placement.centre, placement.scale], dtype=torch.float64)
        tensors = {"latents": found.latents.float().cpu().contiguous(), "placement": place}
        with claim_file(out, inputs=[source], overwrite=args.overwrite):
            write_tensors(out, tensors, {"format": "pt", "weights_hash": pipe.weights_hash})
        shape = tuple(found.latents.shape)
        document = {"file": out, "tokens": shape[0], "channels": shape[1]}
        lines = [*report.sentences(), f"wrote {shape[0]} latents of {shape[1]} channels to {out}"]
        answer(document | {"repaired": report.sentences()}, "\n".join(lines), as_json=args.json)
        return 0


def autoencoder(weights: str, device: Any) -> ShapePipeline | ShapeAutoencoder:
    """Load weights that have an autoencoder, or are one."""
    from rectiflow_shape.pipeline import ShapeAutoencoder, ShapePipeline

    if ShapeAutoencoder.is_at(weights):
        return ShapeAutoencoder.from_pretrained(weights, device=device)
    pipe = ShapePipeline.from_pretrained(weights, device=device)
    if pipe.vae is None:
        raise UsageError(
            f"{weights} has no autoencoder, got a {type(pipe.network).__name__} alone; expected "
            "weights of TripoSG. For a mosaic use fit and decode."
        )
    return pipe


main = Encode()
