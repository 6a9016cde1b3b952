"""Training as a command: a run from a composed config, in every domain."""

from __future__ import annotations

import json
import logging
import math
import re
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
        Hydra overrides and flags, ``--json`` and ``--overwrite``. With ``resume=DIR`` the
        overrides that the run was started with apply again; those given now win.
    """
    overwrite = "--overwrite" in argv
    words = [word for word in argv if word not in ("--json", "--overwrite")]
    results: list[dict[str, Any]] = []

    def task(cfg: DictConfig) -> None:
        results.append(train(recipe, cfg, overwrite=overwrite))

    hydra_app.run(recipe.domain, config, task, with_former_overrides(recipe.domain, words))
    if results and _is_first_process():
        document = results[0] if len(results) == 1 else {"runs": results}
        text = "\n".join(_text(recipe, result) for result in results)
        answer(document, text, as_json="--json" in argv)
    return DONE


def train(recipe: Recipe, cfg: DictConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Run one training to its end, or to its time limit, and export the network.

    Parameters
    ----------
    recipe : Recipe
        Of the domain.
    cfg : DictConfig
        Composed from the domain's configs.
    overwrite : bool, default False
        Remove what is in the run's folder first.

    Returns
    -------
    dict
        ``run`` and ``export`` folders, ``step``, the last value of each metric, and ``next``.

    Raises
    ------
    UsageError
        When the config has unknown keys, or lacks data or weights, or a resumed run was trained
        on other data.
    """
    _require_data(cfg)
    _require_weights(recipe, cfg)
    recipe.require(cfg)
    check_config(cfg, (*KEYS, *recipe.keys))
    from rectiflow.training import RunFolder

    folder, resume = hydra_app.run_folder(cfg)
    if not _is_first_process():
        return _fit(recipe, cfg, folder, resume)
    with RunFolder(folder).claimed(resume=resume, overwrite=overwrite):
        record_start(cfg, folder, resume)
        return _fit(recipe, cfg, folder, resume)


def _fit(recipe: Recipe, cfg: DictConfig, folder: Path, resume: bool) -> dict[str, Any]:
    """Build everything, train and export."""
    import torch
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from rectiflow.training import RunFolder

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

    Only settings of the run itself are taken from a folder, which may be of somebody else: no
    flag, and nothing that Hydra would act on.

    Raises
    ------
    UsageError
        When ``resume=DIR`` names no run, or one that wants other things than to train.
    """
    resume = next((w.partition("=")[2] for w in words if w.startswith("resume=")), "")
    if not resume:
        return list(words)
    from rectiflow.training import RunFolder

    record = RunFolder(resume).record
    if not record.is_file():
        raise UsageError(
            f"resume={resume} is no run; expected a run folder such as runs/{domain}-train/DATE, "
            f"with {record.name} in it."
        )
    former = _read_record(record)["starts"][0]["overrides"]
    for word in former:
        if not _SETTING.match(word) or _key(word).startswith("hydra"):
            raise UsageError(
                f"{record} asks for {word!r}, which is no setting of a training; expected "
                "key=value. Do not resume a run that you do not trust."
            )
    given = {"run_dir", "resume", *map(_key, words)}
    return [*(word for word in former if _key(word) not in given), *words]


def record_start(cfg: DictConfig, folder: Path, resume: bool) -> None:
    """Write how a run is started into its folder, before anything else is there.

    Parameters
    ----------
    cfg : DictConfig
        Composed config.
    folder : Path
        The run's.
    resume : bool
        Whether this goes on with the run in it: the data must be the same then, though it may
        have been moved.

    Raises
    ------
    UsageError
        When the run was trained on other data.
    """
    from datetime import UTC, datetime

    from hydra.core.hydra_config import HydraConfig
    from rectiflow.storage.files import write_json
    from rectiflow.training import RunFolder

    record = RunFolder(folder).record
    overrides = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    start = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "overrides": overrides,
        "data": None if cfg.data.dir is None else str(cfg.data.dir),
    }
    digest = _data_digest(cfg)
    told: dict[str, Any] = {"data_sha256": digest, "starts": []}
    if resume and record.is_file():
        told = _read_record(record)
        if told["data_sha256"] != digest:
            raise UsageError(
                f"{folder} was trained on {told['starts'][-1]['data']}, got {cfg.data.dir}, whose "
                "content is another; expected the same. Train on other data in a run of its own, "
                f"from weights={folder}/export."
            )
    write_json(record, {**told, "starts": [*told["starts"], start]})


def _data_digest(cfg: DictConfig) -> str | None:
    """Return what tells training data apart: the hash of its manifests, which hold all others."""
    from hashlib import sha256

    from rectiflow.storage.reading import digest_of_file

    if cfg.data.dir is None:
        return None
    manifests = sorted(Path(cfg.data.dir).glob(cfg.data.manifest))
    return sha256("".join(map(digest_of_file, manifests)).encode()).hexdigest()


def _read_record(record: Path) -> dict[str, Any]:
    from rectiflow.storage.reading import read_json

    told = read_json(record, hint="Start the run anew, from its weights.")
    try:
        for start in told["starts"]:
            start["data"], map(str, start["overrides"])
        words = told["starts"][0]["overrides"]
        if not all(isinstance(word, str) for word in words) or "data_sha256" not in told:
            raise ValueError("its overrides are no words")
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise UsageError(
            f"{record} is damaged ({error!r}); expected the record of a run. Start the run anew, "
            "from its weights."
        ) from error
    return told


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


_SETTING = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*(=|$)")


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
        "started_from": str(cfg.weights) if "weights" in cfg.network else None,
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
    from rectiflow.storage.files import whole_file

    with whole_file(path) as part:
        figure.savefig(part)


def _text(recipe: Recipe, result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    found = ", ".join(f"{name} {metrics[name]:.4g}" for name in recipe.shown if name in metrics)
    return (
        f"trained to step {result['step']} in {result['run']} ({found or 'nothing logged yet'})\n"
        f"next: {result['next']}"
    )
