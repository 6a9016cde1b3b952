"""Run a training verb as a Hydra application, or only compose its config."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow_cli.config_root import config_root

if TYPE_CHECKING:
    from omegaconf import DictConfig


@contextmanager
def _process(argv: list[str], **environment: str) -> Iterator[None]:
    """Give Hydra what it reads off the process, and put the process back afterwards."""
    words, before = sys.argv, {name: os.environ.get(name) for name in environment}
    sys.argv = argv
    os.environ.update(environment)
    try:
        yield
    finally:
        sys.argv = words
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run(domain: str, config: str, task: Callable[[DictConfig], object], argv: Sequence[str]) -> int:
    """Compose ``configs/<domain>/<config>.yaml`` with the overrides and run the task on it.

    Sweeps (``-m``), ``--help``, ``--cfg job`` and ``--info`` are Hydra's.

    Parameters
    ----------
    domain, config : str
        The domain's config folder and the name of a primary config in it.
    task : callable
        Takes the composed config; called once per job.
    argv : sequence of str
        Overrides and Hydra's own flags.

    Returns
    -------
    int
        0 when every job is done; errors propagate.
    """
    import hydra

    # Hydra's parser takes the flag before or after the overrides, not among them.
    words = sorted(argv, key=lambda word: word not in ("-m", "--multirun"))
    failures: list[Exception] = []
    # Data-parallel training starts its other processes by the words of this one.
    again = [str(Path(__file__).with_name("__main__.py")), domain, config, *words]

    def job(cfg: DictConfig) -> None:
        """Keep the error for us: Hydra would print a line of its own about it."""
        if failures:
            return
        try:
            with _process(again):
                task(cfg)
        except Exception as error:
            failures.append(error)

    root = str(config_root() / domain)
    application = hydra.main(version_base="1.3", config_path=root, config_name=config)(job)
    with _process(
        [f"rectiflow {domain} {config}", *words],
        HYDRA_MAIN_MODULE=f"{domain}-{config}",  # becomes hydra.job.name
        HYDRA_FULL_ERROR="1",  # errors arrive here as they are, not printed and swallowed
    ):
        application()
    if failures:
        raise failures[0]
    return 0


def compose(domain: str, config: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Return the composed config without running anything.

    Parameters
    ----------
    domain, config : str
        The domain's config folder and the name of a primary config in it.
    overrides : sequence of str
        As on the command line.
    """
    import hydra

    with hydra.initialize_config_dir(str(config_root() / domain), version_base="1.3"):
        return hydra.compose(config, list(overrides))


def run_folder(cfg: DictConfig) -> tuple[Path, bool]:
    """Return the folder of a run, and whether the run in it is to be continued (``resume=DIR``)."""
    resume = cfg.get("resume")  # None where it is left out
    return (Path(resume), True) if resume else (Path(cfg.run_dir), False)
