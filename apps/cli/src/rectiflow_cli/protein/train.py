"""``rectiflow protein train``: a run from a composed config."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli import hydra_app
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.protein.official_keys import reject_official_keys
from rectiflow_cli.protein.options import answer
from rectiflow_cli.targets import check_config

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rectiflow.training import FlowTraining, RunFolder
    from rectiflow_protein.networks import ReQFlowNetwork

log = logging.getLogger(__name__)

KEYS = (
    *("seed", "resume", "run_dir", "trainer", "optimizer", "network", "data", "training"),
    *("validation", "weights", "edge_dtype", "compile"),
)
"""What may stand at the top of a config."""

EDGE_DTYPES = ("float32", "bfloat16")


def main(argv: list[str]) -> int:
    """Train by ``configs/protein/train.yaml`` with the overrides."""
    return run("train", argv)


def run(config: str, argv: Sequence[str]) -> int:
    """Run one job, or with ``-m`` one job per value, and print what came of it.

    Parameters
    ----------
    config : str
        Name of the primary config.
    argv : sequence of str
        Hydra overrides and flags, and ``--json``. With ``resume=DIR`` the overrides that the run
        was started with apply again; those given now win.
    """
    words = [word for word in argv if word != "--json"]
    reject_official_keys(words)
    results: list[dict[str, Any]] = []
    task: Callable[[DictConfig], None] = lambda cfg: results.append(train(cfg))  # noqa: E731
    hydra_app.run("protein", config, task, with_former_overrides(words))
    if results and _is_first_process():
        document = results[0] if len(results) == 1 else {"runs": results}
        answer(document, "\n".join(map(_text, results)), as_json="--json" in argv)
    return DONE


def train(cfg: DictConfig) -> dict[str, Any]:
    """Run one training to its end, or to its time limit, and export the network.

    Parameters
    ----------
    cfg : DictConfig
        Composed from ``configs/protein``.

    Returns
    -------
    dict
        ``run`` and ``export`` folders, ``step`` and the last value of each metric.

    Raises
    ------
    UsageError
        When the config has unknown keys, or lacks data or weights.
    """
    _require_data(cfg)
    _require_weights(cfg)
    check_config(cfg, KEYS)
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
    network: Any = training.network
    network.edge_dtype = _edge_dtype(cfg)
    if cfg.compile:
        network.compile()
    fit = instantiate(cfg.trainer, _convert_="all")
    fit(
        training,
        data,
        folder,
        resume=resume,
        evaluate=instantiate(cfg.validation, _convert_="all"),
        config=OmegaConf.to_yaml(cfg, resolve=True),
        progress=sys.stderr.isatty(),
    )
    run_folder = RunFolder(folder)
    return _export(cfg, training, run_folder) if _is_first_process() else {}


def pretrained_network(weights: str) -> ReQFlowNetwork:
    """Load a network to train further.

    Parameters
    ----------
    weights : str
        A shipped name, a folder, the authors' checkpoint, or ``owner/name``.
    """
    from rectiflow_protein.pipeline import BackbonePipeline

    return BackbonePipeline.from_pretrained(weights).network.train()


def with_former_overrides(words: Sequence[str]) -> list[str]:
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
            f"resume={resume} is no run; expected a run folder such as runs/protein-train/DATE."
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


def _require_weights(cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    if "weights" in cfg.network and OmegaConf.is_missing(cfg, "weights"):
        raise UsageError(
            "weights is not given; expected the checkpoint to start from, such as weights=small, "
            "weights=runs/protein-train/DATE/export or the authors' file."
        )


def _edge_dtype(cfg: DictConfig) -> Any:
    import torch

    if cfg.edge_dtype not in EDGE_DTYPES:
        raise UsageError(f"unknown edge_dtype {cfg.edge_dtype!r}; known: {', '.join(EDGE_DTYPES)}.")
    return getattr(torch, cfg.edge_dtype)


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


def _export(cfg: DictConfig, training: FlowTraining, run: RunFolder) -> dict[str, Any]:
    """Save the averaged networks of the last and the best checkpoint, and the loss curves."""
    from rectiflow.training import network_weights, read_checkpoint

    network: Any = training.network.cpu()
    metrics = _last_metrics(run)
    result: dict[str, Any] = {"run": str(run.path)}
    for name, checkpoint in {"export_best": run.best, "export": run.last}.items():
        if not checkpoint.exists():
            continue
        step = int(read_checkpoint(checkpoint)["global_step"])
        network.load_state_dict(network_weights(checkpoint, 0 if training.averages else None))
        network.save_pretrained(run.path / name, **_card(cfg, run, step, _last_metrics(run, step)))
        log.info("exported step %d to %s", step, run.path / name)
        result |= {name: str(run.path / name), "step": step}
    _draw_losses(run, metrics)
    return result | {"metrics": metrics}


def _card(cfg: DictConfig, run: RunFolder, step: int, metrics: dict[str, float]) -> dict[str, Any]:
    """Return what a user of the weights should know."""
    from omegaconf import OmegaConf

    average = f"moving average {cfg.training.ema[0]}" if cfg.training.ema else "raw weights"
    starts = "weights" in cfg.network
    data = OmegaConf.to_container(cfg.data, resolve=True)
    return {
        "trained_with": "rectiflow protein",
        "step": step,
        "weights": average,
        "edge_dtype": cfg.edge_dtype,
        "started_from": str(cfg.weights) if starts else None,
        "data": data,
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


def _draw_losses(run: RunFolder, metrics: dict[str, float]) -> None:
    if not any("loss" in name for name in metrics):
        return
    from rectiflow_protein.plots import training_curve
    from rectiflow_protein.validation import save_figure

    save_figure(training_curve(run.metrics), run.path / "losses.png")


def _text(result: dict[str, Any]) -> str:
    shown = ("train/loss", "val/loss", "val/ca_ca_valid", "val/helix", "val/strand")
    metrics = result["metrics"]
    found = ", ".join(f"{name} {metrics[name]:.4g}" for name in shown if name in metrics)
    return (
        f"trained to step {result['step']} in {result['run']} ({found or 'nothing logged yet'})\n"
        f"next: rectiflow protein sample --weights {result['export']} --length 80 -o samples"
    )
