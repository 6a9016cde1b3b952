"""Commands of the protein domain. Each is imported when it runs."""

from __future__ import annotations

from rectiflow_cli.domains import Verb


def _prepare(argv: list[str]) -> int:
    """Turn a folder of structure files into shards of chains to train on."""
    from rectiflow_cli.protein.prepare import main

    return main(argv)


def _train(argv: list[str]) -> int:
    """Train a flow on prepared chains (Hydra overrides)."""
    from rectiflow_cli.protein.train import main

    return main(argv)


def _pairs(argv: list[str]) -> int:
    """Sample pairs of noise and backbone for reflow, and filter them."""
    from rectiflow_cli.protein.pairs import main

    return main(argv)


def _reflow(argv: list[str]) -> int:
    """Train a rectified flow on pairs (Hydra overrides)."""
    from rectiflow_cli.protein.reflow import main

    return main(argv)


def _sample(argv: list[str]) -> int:
    """Generate backbones."""
    from rectiflow_cli.protein.sample import main

    return main(argv)


def _evaluate(argv: list[str]) -> int:
    """Measure structures: geometry, diversity, and designability with outside tools."""
    from rectiflow_cli.protein.eval import main

    return main(argv)


def _convert(argv: list[str]) -> int:
    """Convert the authors' checkpoints to ours and back."""
    from rectiflow_cli.protein.convert import main

    return main(argv)


VERBS: dict[str, Verb] = {
    "prepare": _prepare,
    "train": _train,
    "pairs": _pairs,
    "reflow": _reflow,
    "sample": _sample,
    "eval": _evaluate,
    "convert": _convert,
}
