"""Commands of the protein domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "prepare": Verb(f"{__name__}.prepare", "Turn structure files into shards of chains."),
    "pairs": Verb(f"{__name__}.pairs", "Sample pairs of noise and backbone, and filter them."),
    "sample": Verb(f"{__name__}.sample", "Generate backbones."),
    "scaffold": Verb(f"{__name__}.scaffold", "Generate backbones around a motif."),
    "resample": Verb(f"{__name__}.resample", "Make a stretch of a structure anew."),
    "eval": Verb(f"{__name__}.eval", "Measure structures, or what a model makes."),
    "convert": Verb(f"{__name__}.convert", "Convert the authors' checkpoints to ours and back."),
    "tune": Verb(f"{__name__}.tune", "Search the times of few steps for a checkpoint."),
}
