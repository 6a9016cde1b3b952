"""``rectiflow shape decode``: the mesh of latents or of a mosaic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.commands import Parser, Verb, answer, pick_device

from rectiflow_cli.errors import UsageError
from rectiflow_cli.shape.flags import Shape
from rectiflow_cli.shape.options import add_surface, certified, write_one


class Decode(Shape, Verb):
    """Extract the closed mesh of what `fit` or `encode` wrote."""

    name = "decode"
    examples = (
        "chair.safetensors -o chair.glb",
        "latents.safetensors --weights triposg --depth 8 -o chair.glb",
    )

    def flags(self, parser: Parser) -> None:
        """Add the numbers, the weights and the surface."""
        add = parser.group("input and output")
        add("numbers", metavar="FILE", help="A mosaic or latents, .safetensors.")
        add("-o", "--out", required=True, metavar="OUT", help="The mesh to write.")
        add("--weights", help="Weights with the autoencoder of latents; a mosaic needs none.")
        parser.add_device(add)
        add_surface(parser)
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Extract and write."""
        from rectiflow.storage.tensor_files import load_tensors
        from rectiflow_shape.geometry import Placement, extract
        from rectiflow_shape.mosaic import MosaicField, read_mosaic

        source, device = Path(args.numbers), pick_device(args.device)
        tensors = load_tensors(source)
        if "latents" not in tensors:
            field = MosaicField(read_mosaic(source).to(device))
            found = extract(field.inside_positive, depth=args.depth or 7, device=device)
            mesh = found.mesh
        else:
            mesh, found = self._latents(args, tensors, device)
            *centre, scale = tensors["placement"].tolist()
            mesh = Placement(tuple(centre), scale).restore(mesh)
        out, judged = write_one(args, mesh, source)
        document = {"file": out, "certificate": judged.document(), "queries": found.queries}
        answer(document, f"{certified(judged)}\nwrote {out}", as_json=args.json)
        return 0

    def _latents(self, args: Any, tensors: Any, device: Any) -> Any:
        import torch
        from rectiflow_shape.sampling import latent_surface

        from rectiflow_cli.shape.encode import autoencoder

        if args.weights is None:
            raise UsageError("latents need the weights that made them; expected --weights.")
        pipe, latents = autoencoder(args.weights, device), tensors["latents"].to(device)
        channels = pipe.vae.latent_channels
        if latents.ndim != 2 or latents.shape[1] != channels:
            raise UsageError(
                f"{args.numbers} has latents {tuple(latents.shape)}, expected (n, {channels}): "
                "they are of other weights."
            )
        with torch.no_grad():
            found = latent_surface(pipe.vae, latents, args.depth or pipe.settings.depth)
        return found.mesh, found


main = Decode()
