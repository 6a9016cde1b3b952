"""Commands of the imaging domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "phantoms": Verb(f"{__name__}.phantoms", "Make bodies up, with their labels."),
    "prepare": Verb(f"{__name__}.prepare", "Turn images and volumes into shards."),
    "sample": Verb(f"{__name__}.sample", "Draw slices."),
    "reconstruct": Verb(f"{__name__}.reconstruct", "Reconstruct volumes from few views."),
    "restore": Verb(f"{__name__}.restore", "Restore noisy and blurred images (PMRF, RDDM)."),
    "deform": Verb(f"{__name__}.deform", "Deform images and labels plausibly (DRDM)."),
    "register": Verb(f"{__name__}.register", "Bring an image onto another, without folds."),
    "eval": Verb(f"{__name__}.eval", "Measure images against others."),
    "pairs": Verb(f"{__name__}.pairs", "Sample pairs of noise and slice, for reflow."),
    "tune": Verb(f"{__name__}.tune", "Search the times of few steps for a checkpoint."),
    "convert": Verb(f"{__name__}.convert", "Convert DRDM's checkpoints."),
}
