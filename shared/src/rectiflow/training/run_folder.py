"""Where a training run keeps its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rectiflow.machine import describe_machine
from rectiflow.storage.files import write_json, write_text
from rectiflow.storage.folders import TakenError, claim


class RunFolder:
    """The files of one run, all that resuming it needs among them.

    ::

        run.json               how it was started, each time, and on which data
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
        self.record = self.path / "run.json"
        self.config = self.path / "config.yaml"
        self.version = self.path / "version.json"
        self.metrics = self.path / "metrics.csv"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.snapshots = self.path / "snapshots"
        self.samples = self.path / "samples"

    @contextmanager
    def claimed(self, *, resume: bool, overwrite: bool = False) -> Iterator[None]:
        """Have the folder alone, and write nothing over what is not this run's.

        Parameters
        ----------
        resume : bool
            Continue the run in it.
        overwrite : bool, default False
            Remove the run in it, or files of these names, first.

        Raises
        ------
        FileExistsError
            When a run, or a file of another origin, is there and is not to be continued; or when
            another process trains there.
        """
        names = () if resume else _NAMES
        with claim(self.path, "training run", names, overwrite=overwrite and not resume):
            if self.last.exists() and not resume:
                raise TakenError(
                    f"{self.path} already holds a run; expected a new folder. Go on with it by "
                    f"resume={self.path} (in Python resume=True)."
                )
            yield

    def create(self, config: str | None = None) -> RunFolder:
        """Write the configuration and the code's version.

        To be called while the folder is claimed. Metrics of a start that left no checkpoint go.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        self.samples.mkdir(exist_ok=True)
        if not self.last.exists():
            self.metrics.unlink(missing_ok=True)
        if config is not None:
            write_text(self.config, config)
        write_json(self.version, describe_machine())
        return self

    def checkpoint(self) -> Path | None:
        """Return the checkpoint to resume from; None where the run was stopped before its first.

        Raises
        ------
        FileNotFoundError
            When there is no run.
        """
        if self.last.exists():
            return self.last
        if not self.version.exists() and not self.record.exists():
            raise FileNotFoundError(
                f"{self.path} has no checkpoint to resume from; expected {self.last}. Start the "
                "run without resume."
            )
        return None


_NAMES = (
    *("run.json", "config.yaml", "version.json", "metrics.csv", "losses.png", "tensorboard"),
    *("checkpoints", "snapshots", "samples", "data", "export", "export_best"),
)
