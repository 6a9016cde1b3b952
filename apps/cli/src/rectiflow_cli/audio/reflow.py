"""``rectiflow audio reflow``: train a rectified flow on pairs, or a one-step student."""

from __future__ import annotations

from rectiflow_cli.audio.train import run


def main(argv: list[str]) -> int:
    """Train as ``train`` does, by ``configs/audio/reflow.yaml``: on pairs, from the teacher."""
    return run("reflow", argv)
