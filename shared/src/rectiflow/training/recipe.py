"""What a domain adds to the training that all domains share, and what a run leaves behind."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rectiflow.figures import save_figure
from rectiflow.storage.reading import read_json
from rectiflow.training.reading import network_weights, read_checkpoint

if TYPE_CHECKING:
    from rectiflow.pipeline import Pipeline
    from rectiflow.training.data import FlowData
    from rectiflow.training.flow_training import FlowTraining
    from rectiflow.training.run_folder import RunFolder
    from rectiflow.training.validation import Evaluate

log = logging.getLogger(__name__)

Config = Any
"""A composed config: a mapping whose entries are attributes too."""

Build = Callable[..., Any]
"""Makes the object that a config node names by ``_target_``."""

Save = Callable[..., None]
"""``save(what, below="")`` writes a network or a pipeline with its card, to a folder of the export.
"""


@dataclass(frozen=True)
class Built:
    """What a config came to: what is trained, what on, and what builds further parts of it."""

    cfg: Config
    training: FlowTraining
    data: FlowData
    build: Build


class Recipe:
    """How a domain's networks are trained, exported and gone on with.

    What is here serves a domain of one network; a domain overrides what differs.

    Attributes
    ----------
    domain : str
        Name of the command.
    keys : tuple of str
        What may stand at the top of its configs besides the keys of every domain.
    shown : tuple of str
        Metrics that the last line of a training tells.
    """

    keys: tuple[str, ...] = ()
    shown: tuple[str, ...] = ("train/loss", "val/loss")

    def __init__(self, domain: str, pipeline: type[Pipeline], then: str = "") -> None:
        """Describe a domain.

        Parameters
        ----------
        domain : str
            Name of the command.
        pipeline : type
            Its pipeline.
        then : str
            The words after ``rectiflow DOMAIN`` that use an export, with ``{folder}`` in them.
        """
        self.domain, self.pipeline, self.then = domain, pipeline, then

    def refuse(self, words: Iterable[str]) -> None:
        """Raise for overrides that users bring along from elsewhere, saying what to write."""

    def check(self, cfg: Config) -> None:
        """Raise for a config that cannot be trained, before anything is built."""

    def set_up(self, built: Built) -> None:
        """Make settings take effect before the run."""

    def evaluate(self, built: Built) -> Evaluate | None:
        """Return what looks at samples at each validation, if anything does."""
        wanted = built.cfg.validation
        return built.build(wanted) if "_target_" in wanted else None

    def export(self, built: Built, save: Save) -> None:
        """Save what inference loads."""
        pipeline: Any = self.pipeline
        save(pipeline(built.training.network))

    def told(self, cfg: Config) -> dict[str, Any]:
        """Return the domain's part of the card."""
        return {}

    def numbers(self, path: Path) -> np.ndarray:
        """Return the numbers in a file of results, to tell how far two runs are apart."""
        if path.suffix == ".npy":
            return np.load(path)
        raise ValueError(f"{path}: files of {self.domain} are compared byte by byte only.")

    def next_step(self, built: Built, folder: str) -> str:
        """Return the command to go on with what was exported."""
        return f"rectiflow {self.domain} {self.then.format(folder=folder)}"


def export_run(
    recipe: Recipe, built: Built, run: RunFolder, told: Mapping[str, Any]
) -> dict[str, Any]:
    """Save the averaged networks of the last and the best checkpoint, and the loss curves.

    Returns
    -------
    dict
        ``run``, ``export`` and ``export_best`` folders, ``step``, the last value of each metric,
        and ``next``.
    """
    from rectiflow.rectify.lora import ADAPTER, Adapter, merged

    cfg, training = built.cfg, built.training
    network = training.cpu().network
    metrics = last_metrics(run)
    result: dict[str, Any] = {"run": str(run.path)}
    average = f"moving average {cfg.training.ema[0]}" if cfg.training.ema else "raw weights"
    for name, checkpoint in {"export_best": run.best, "export": run.last}.items():
        if not checkpoint.exists():
            continue
        step = int(read_checkpoint(checkpoint)["global_step"])
        network.load_state_dict(network_weights(checkpoint, 0 if training.averages else None))
        card = {
            "trained_with": f"rectiflow {recipe.domain}",
            "step": step,
            "weights": average,
            **recipe.told(cfg),
            "started_from": str(cfg.weights) if {"weights", "start"} & set(cfg.network) else None,
            "data": told,
            "metrics": last_metrics(run, step),
            "version": read_json(run.version),
        }
        adapter = Adapter.of(network)
        with merged(network):
            recipe.export(built, partial(_save, run.path / name, card))
        if adapter is not None:
            adapter.save(run.path / name / ADAPTER)
        log.info("exported step %d to %s", step, run.path / name)
        result |= {name: str(run.path / name), "step": step}
    if any("loss" in name for name in metrics):
        from rectiflow.training.curve import training_curve

        save_figure(training_curve(run.metrics), run.path / "losses.png")
    return result | {"metrics": metrics, "next": recipe.next_step(built, result["export"])}


def _save(folder: Path, card: Mapping[str, Any], what: Any, below: str = "") -> None:
    what.save_pretrained(folder / below, **card)


def last_metrics(run: RunFolder, step: float = math.inf) -> dict[str, float]:
    """Return the last value of each metric of a run up to a step."""
    from rectiflow.training.metrics_csv import read_metrics

    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    return {
        name: float(value)
        for row in rows
        if int(row["step"]) <= step
        for name, value in row.items()
        if name != "step" and value
    }
