"""Commands of the audio domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "separate": Verb(f"{__name__}.separate", "Separate sounds by text queries."),
    "repair": Verb(f"{__name__}.repair", "Repair clipped, missing or cut-off sound."),
    "replace": Verb(f"{__name__}.replace", "Replace one sound of a recording by another."),
    "prepare": Verb(f"{__name__}.prepare", "Turn sounds with captions into shards."),
    "pairs": Verb(f"{__name__}.pairs", "Make pairs of noise and separated sound for reflow."),
    "eval": Verb(f"{__name__}.eval", "Measure sounds, or a model on mixtures."),
    "convert": Verb(f"{__name__}.convert", "Convert the authors' checkpoints to ours and back."),
    "listen": Verb(f"{__name__}.listen", "Separate a live sound by text queries."),
    "tune": Verb(f"{__name__}.tune", "Search the times of few steps for a checkpoint."),
}
