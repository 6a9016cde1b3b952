"""``rectiflow protein reflow``: train a rectified flow on pairs."""

from __future__ import annotations

from rectiflow_cli.protein.train import run


def main(argv: list[str]) -> int:
    """Train as ``train`` does, by ``configs/protein/reflow.yaml``: on pairs, from the teacher."""
    return run("reflow", argv)
