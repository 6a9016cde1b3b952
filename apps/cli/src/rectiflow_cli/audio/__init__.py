"""Commands of the audio domain. Each is imported when it runs."""

from __future__ import annotations

from rectiflow_cli.domains import Verb


def _separate(argv: list[str]) -> int:
    """Separate sounds by text queries."""
    from rectiflow_cli.audio.separate import main

    return main(argv)


def _prepare(argv: list[str]) -> int:
    """Turn a folder of sounds with captions into shards to train on."""
    from rectiflow_cli.audio.prepare import main

    return main(argv)


def _train(argv: list[str]) -> int:
    """Train autoencoder, vocoder or flow on prepared sounds (Hydra overrides)."""
    from rectiflow_cli.audio.train import main

    return main(argv)


def _pairs(argv: list[str]) -> int:
    """Make pairs of noise and separated sound for reflow."""
    from rectiflow_cli.audio.pairs import main

    return main(argv)


def _reflow(argv: list[str]) -> int:
    """Train a rectified flow, or a one-step student, on pairs (Hydra overrides)."""
    from rectiflow_cli.audio.reflow import main

    return main(argv)


def _evaluate(argv: list[str]) -> int:
    """Separate mixtures with known sources and measure the estimates."""
    from rectiflow_cli.audio.eval import main

    return main(argv)


def _convert(argv: list[str]) -> int:
    """Convert the authors' checkpoints to ours and back."""
    from rectiflow_cli.audio.convert import main

    return main(argv)


VERBS: dict[str, Verb] = {
    "separate": _separate,
    "prepare": _prepare,
    "train": _train,
    "pairs": _pairs,
    "reflow": _reflow,
    "eval": _evaluate,
    "convert": _convert,
}
