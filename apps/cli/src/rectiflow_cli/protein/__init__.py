"""Commands of the protein domain. Each is imported when it runs."""

from __future__ import annotations

from rectiflow_cli.domains import Verb, verb

VERBS: dict[str, Verb] = {
    "prepare": verb(
        "protein.prepare", "Turn a folder of structure files into shards of chains to train on."
    ),
    "train": verb("protein.train", "Train a flow on prepared chains (Hydra overrides)."),
    "pairs": verb(
        "protein.pairs", "Sample pairs of noise and backbone for reflow, and filter them."
    ),
    "reflow": verb("protein.reflow", "Train a rectified flow on pairs (Hydra overrides)."),
    "sample": verb("protein.sample", "Generate backbones."),
    "eval": verb(
        "protein.eval",
        "Measure structures: geometry, diversity, and designability with outside tools.",
    ),
    "convert": verb("protein.convert", "Convert the authors' checkpoints to ours and back."),
}
