"""Commands of the shape domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "sample": Verb(f"{__name__}.sample", "Generate closed meshes."),
    "from-image": Verb(f"{__name__}.from_image", "Make a closed mesh of what a picture shows."),
    "fuse": Verb(f"{__name__}.fuse", "Make a closed mesh of normal maps from several sides."),
    "complete": Verb(f"{__name__}.complete", "Complete a half-scanned object."),
    "edit": Verb(f"{__name__}.edit", "Draw a part of a mesh anew."),
    "fit": Verb(f"{__name__}.fit", "Turn a mesh, or a folder of them, into Mosaic-SDFs."),
    "reconstruct": Verb(f"{__name__}.reconstruct", "Rebuild any mesh as a closed one."),
    "encode": Verb(f"{__name__}.encode", "Encode a mesh into latents."),
    "decode": Verb(f"{__name__}.decode", "Extract the mesh of latents or of a mosaic."),
    "eval": Verb(f"{__name__}.eval", "Measure reconstructions, or what a flow makes."),
    "pairs": Verb(f"{__name__}.pairs", "Sample pairs of noise and shape for reflow."),
    "convert": Verb(f"{__name__}.convert", "Convert TripoSG's checkpoints to ours and back."),
    "prepare": Verb(f"{__name__}.prepare", "Turn meshes into shards of samples."),
    "repair": Verb(f"{__name__}.repair", "Write a watertight copy of a mesh."),
    "check": Verb(f"{__name__}.check", "Say what is wrong with meshes, and certify them."),
    "tune": Verb(f"{__name__}.tune", "Search the times of few steps for a checkpoint."),
}
