"""Commands of the audio domain. Each is imported when it runs."""

from __future__ import annotations

from rectiflow_cli.domains import Verb, verb

VERBS: dict[str, Verb] = {
    "separate": verb("audio.separate", "Separate sounds by text queries."),
    "prepare": verb(
        "audio.prepare", "Turn a folder of sounds with captions into shards to train on."
    ),
    "train": verb(
        "audio.train", "Train autoencoder, vocoder or flow on prepared sounds (Hydra overrides)."
    ),
    "pairs": verb("audio.pairs", "Make pairs of noise and separated sound for reflow."),
    "reflow": verb(
        "audio.reflow", "Train a rectified flow, or a one-step student, on pairs (Hydra overrides)."
    ),
    "eval": verb("audio.eval", "Separate mixtures with known sources and measure the estimates."),
    "convert": verb("audio.convert", "Convert the authors' checkpoints to ours and back."),
}
