"""Where a training run keeps its files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path

import torch


class RunFolder:
    """The files of one run.

    ::

        config.yaml            the composed configuration
        version.json           versions and commit of the code
        metrics.csv            one row per logged step
        tensorboard/           the same for TensorBoard
        checkpoints/last.ckpt  to resume from
        checkpoints/best.ckpt  smallest monitored metric
        snapshots/             averages for post-hoc reconstruction
        samples/               what the evaluation writes
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.version = self.path / "version.json"
        self.metrics = self.path / "metrics.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.snapshots = self.path / "snapshots"
        self.samples = self.path / "samples"

    def create(self, config: str | None = None) -> RunFolder:
        """Make the folder and write the configuration and the code's version.

        Raises
        ------
        FileExistsError
            When a run is already there.
        """
        if self.last.exists():
            raise FileExistsError(
                f"{self.path} already holds a run; expected a new folder. Pass resume=True to "
                "continue it."
            )
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.samples.mkdir(exist_ok=True)
        self.metrics.unlink(missing_ok=True)
        if config is not None:
            write_text(self.config, config)
        write_text(self.version, json.dumps(code_version(), indent=2) + "\n")
        return self

    def require_checkpoint(self) -> Path:
        """Return the checkpoint to resume from.

        Raises
        ------
        FileNotFoundError
            When the run has written none.
        """
        if not self.last.exists():
            raise FileNotFoundError(
                f"{self.path} has no checkpoint to resume from; expected {self.last}. Start the "
                "run without resume."
            )
        return self.last


def write_text(path: Path, text: str) -> None:
    """Write a text file to a temporary name, then rename it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def code_version() -> dict[str, str | None]:
    """Return the versions that decide a run's numbers, and the commit if in a checkout."""
    return {
        "rectiflow": importlib.metadata.version("rectiflow"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the checkout this file lies in, ``+changes`` if it was edited."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        describe = [*git, "describe", "--always", "--abbrev=40", "--dirty=+changes"]
        found = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
