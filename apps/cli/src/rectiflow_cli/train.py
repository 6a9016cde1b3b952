"""Training as a command: a run from a composed config, in every domain."""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli import hydra_app
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer
from rectiflow_cli.targets import check_config

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from omegaconf import DictConfig
    from rectiflow.training import FlowData, FlowTraining, RunFolder
    from rectiflow.training.validation import Evaluate

log = logging.getLogger(__name__)

KEYS = (
    *("seed", "resume", "run_dir", "trainer", "optimizer", "network", "data", "training"),
    *("validation", "weights", "compile"),
)
"""What may stand at the top of a config in every domain."""


@dataclass(frozen=True)
class Recipe:
    """What a domain adds to the training that all domains share.

    Attributes
    ----------
    domain : str
        Name of the command and of the config folder.
    keys : tuple of str
        What may stand at the top of its configs besides :data:`KEYS`.
    shown : tuple of str
        Metrics that the last line tells.
    require : callable
        ``require(cfg)`` refuses what the domain cannot train, before anything is built.
    set_up : callable
        ``set_up(cfg, training, data)`` makes settings take effect before the run.
    evaluate : callable
        ``evaluate(cfg, training, data)`` is what looks at samples at each validation, or None.
    save : callable
        ``save(cfg, training, folder, card)`` writes what inference loads.
    told : callable
        ``told(cfg)`` is the domain's part of the card.
    next_step : callable
        ``next_step(cfg, training, folder)`` is the command to go on with what was exported.
    """

    domain: str
    keys: tuple[str, ...]
    shown: tuple[str, ...]
    require: Callable[[DictConfig], None]
    set_up: Callable[[DictConfig, FlowTraining, FlowData], None]
    evaluate: Callable[[DictConfig, FlowTraining, FlowData], Evaluate | None]
    save: Callable[[DictConfig, FlowTraining, Path, Mapping[str, Any]], None]
    told: Callable[[DictConfig], dict[str, Any]]
    next_step: Callable[[DictConfig, FlowTraining, str], str]


def run(recipe: Recipe, config: str, argv: Sequence[str]) -> int:
    """Run one job, or with ``-m`` one job per value, and print what came of it.

    Parameters
    ----------
    recipe : Recipe
        Of the domain.
    config : str
        Name of the primary config.
    argv : sequence of str
        Hydra overrides and flags, and ``--json``. With ``resume=DIR`` the overrides that the run
        was started with apply again; those given now win.
    """
    words = [word for word in argv if word != "--json"]
    results: list[dict[str, Any]] = []
    task: Callable[[DictConfig], None] = lambda cfg: results.append(train(recipe, cfg))  # noqa: E731
    hydra_app.run(recipe.domain, config, task, with_former_overrides(recipe.domain, words))
    if results and _is_first_process():
        document = results[0] if len(results) == 1 else {"runs": results}
        text = "\n".join(_text(recipe, result) for result in results)
        answer(document, text, as_json="--json" in argv)
    return DONE


def train(recipe: Recipe, cfg: DictConfig) -> dict[str, Any]:
    """Run one training to its end, or to its time limit, and export the network.

    Parameters
    ----------
    recipe : Recipe
        Of the domain.
    cfg : DictConfig
        Composed from the domain's configs.

    Returns
    -------
    dict
        ``run`` and ``export`` folders, ``step``, the last value of each metric, and ``next``.

    Raises
    ------
    UsageError
        When the config has unknown keys, or lacks data or weights.
    """
    _require_data(cfg)
    _require_weights(recipe, cfg)
    recipe.require(cfg)
    check_config(cfg, (*KEYS, *recipe.keys))
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from rectiflow.training import RunFolder

    folder, resume = hydra_app.run_folder(cfg)
    if not resume and RunFolder(folder).last.exists():
        raise UsageError(
            f"{folder} already holds a run; expected a new folder. Add resume={folder} to go on "
            "with it."
        )
    data = instantiate(cfg.data.module, folder=_data_folder(cfg, folder), _convert_="all")
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(cfg.seed)  # layers draw their first weights from the global generator
        training: FlowTraining = instantiate(cfg.training, _convert_="all")
    _try_optimizer(training)
    recipe.set_up(cfg, training, data)
    if cfg.compile:
        training.network.compile()
    fit = instantiate(cfg.trainer, _convert_="all")
    fit(
        training,
        data,
        folder,
        resume=resume,
        evaluate=recipe.evaluate(cfg, training, data),
        config=OmegaConf.to_yaml(cfg, resolve=True),
        progress=sys.stderr.isatty(),
    )
    return _export(recipe, cfg, training, RunFolder(folder)) if _is_first_process() else {}


def with_former_overrides(domain: str, words: Sequence[str]) -> list[str]:
    """Put the overrides a run was started with before those given to go on with it.

    Raises
    ------
    UsageError
        When ``resume=DIR`` names no run.
    """
    resume = next((w.partition("=")[2] for w in words if w.startswith("resume=")), "")
    if not resume:
        return list(words)
    from omegaconf import OmegaConf

    saved = Path(resume) / ".hydra" / "overrides.yaml"
    if not saved.is_file():
        raise UsageError(
            f"resume={resume} is no run; expected a run folder such as runs/{domain}-train/DATE."
        )
    given = {_key(word) for word in words}
    former = [str(word) for word in OmegaConf.load(saved)]
    return [*(word for word in former if _key(word) not in given), *words]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _require_data(cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    hint = f"Make one with `{cfg.data.made_by}`, then add data.dir=FOLDER."
    if OmegaConf.is_missing(cfg.data, "dir"):
        raise UsageError(f"data.dir is not given; expected a folder of training data. {hint}")
    if cfg.data.dir is not None and not any(Path(cfg.data.dir).glob(cfg.data.manifest)):
        raise UsageError(
            f"data.dir={cfg.data.dir} holds no training data; expected {cfg.data.manifest} in it. "
            f"{hint}"
        )


def _data_folder(cfg: DictConfig, run_dir: Path) -> str:
    """Return the folder of training data; a debug experiment without one makes its own."""
    from hydra.utils import instantiate

    if cfg.data.dir is not None:
        return str(cfg.data.dir)
    return str(instantiate(cfg.data.stand_in, _convert_="all")(run_dir / "data"))


def _require_weights(recipe: Recipe, cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    if "weights" in cfg.network and OmegaConf.is_missing(cfg, "weights"):
        raise UsageError(
            "weights is not given; expected the checkpoint to start from, such as weights=small, "
            f"weights=runs/{recipe.domain}-train/DATE/export or the authors' file."
        )


def _try_optimizer(training: FlowTraining) -> None:
    """Make the optimiser once for nothing: what it refuses is the user's, and told early."""
    import torch

    try:
        optimizer = training.make_optimizer([torch.nn.Parameter(torch.zeros(1))])
        if training.make_scheduler is not None:
            training.make_scheduler(optimizer)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the optimiser cannot be made ({error}); check optimizer.* and training.scheduler.*"
        ) from error


def _is_first_process() -> bool:
    from lightning.pytorch.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", 0) == 0


def _export(
    recipe: Recipe, cfg: DictConfig, training: FlowTraining, run: RunFolder
) -> dict[str, Any]:
    """Save the averaged networks of the last and the best checkpoint, and the loss curves."""
    from rectiflow.training import network_weights, read_checkpoint
    from rectiflow.training.curve import training_curve

    network = training.cpu().network
    metrics = _last_metrics(run)
    result: dict[str, Any] = {"run": str(run.path)}
    for name, checkpoint in {"export_best": run.best, "export": run.last}.items():
        if not checkpoint.exists():
            continue
        step = int(read_checkpoint(checkpoint)["global_step"])
        network.load_state_dict(network_weights(checkpoint, 0 if training.averages else None))
        card = _card(recipe, cfg, run, step, _last_metrics(run, step))
        recipe.save(cfg, training, run.path / name, card)
        log.info("exported step %d to %s", step, run.path / name)
        result |= {name: str(run.path / name), "step": step}
    if any("loss" in name for name in metrics):
        save_figure(training_curve(run.metrics), run.path / "losses.png")
    return result | {"metrics": metrics, "next": recipe.next_step(cfg, training, result["export"])}


def _card(
    recipe: Recipe, cfg: DictConfig, run: RunFolder, step: int, metrics: dict[str, float]
) -> dict[str, Any]:
    """Return what a user of the weights should know."""
    from omegaconf import OmegaConf

    average = f"moving average {cfg.training.ema[0]}" if cfg.training.ema else "raw weights"
    return {
        "trained_with": f"rectiflow {recipe.domain}",
        "step": step,
        "weights": average,
        **recipe.told(cfg),
        "started_from": str(cfg.weights) if {"weights", "start"} & set(cfg.network) else None,
        "data": OmegaConf.to_container(cfg.data, resolve=True),
        "metrics": metrics,
        "version": json.loads(run.version.read_text(encoding="utf-8")),
    }


def _last_metrics(run: RunFolder, step: float = math.inf) -> dict[str, float]:
    """Return the last value of each metric up to a step."""
    from rectiflow.training import read_metrics

    rows = read_metrics(run.metrics) if run.metrics.exists() else []
    return {
        name: float(value)
        for row in rows
        if int(row["step"]) <= step
        for name, value in row.items()
        if name != "step" and value
    }


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all."""
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    figure.savefig(partial)
    os.replace(partial, path)


def _text(recipe: Recipe, result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    found = ", ".join(f"{name} {metrics[name]:.4g}" for name in recipe.shown if name in metrics)
    return (
        f"trained to step {result['step']} in {result['run']} ({found or 'nothing logged yet'})\n"
        f"next: {result['next']}"
    )
