"""Where a training run keeps its files."""

from __future__ import annotations

from pathlib import Path

from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json, write_text


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
        write_json(self.version, describe_machine())
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
