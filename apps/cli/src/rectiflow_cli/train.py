"""Training as a command: a run from a composed config, in every domain."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli import hydra_app
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.targets import check_config

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rectiflow.training import FlowTraining, Recipe

    from rectiflow_cli.domains import Domain

KEYS = (
    *("seed", "resume", "run_dir", "trainer", "optimizer", "network", "data", "training"),
    *("validation", "weights", "compile"),
)
"""What may stand at the top of a config in every domain."""


def run(domain: Domain, config: str, argv: Sequence[str]) -> int:
    """Run one job, or with ``-m`` one job per value, and print what came of it.

    Parameters
    ----------
    domain : Domain
        Whose recipe and configs are used.
    config : str
        Name of the primary config.
    argv : sequence of str
        Hydra overrides and flags, ``--json`` and ``--overwrite``. With ``resume=DIR`` the
        overrides that the run was started with apply again; those given now win.
    """
    if {"-h", "--help"} & set(argv):
        from rectiflow_cli.train_help import train_help

        sys.stdout.write(train_help(domain, config))
        return DONE
    words = [word for word in argv if word not in ("--json", "--overwrite")]
    hydra_app.refuse_flags(domain, config, words)
    recipe = domain.recipe()
    recipe.refuse(words)

    def task(cfg: DictConfig) -> dict[str, Any]:
        return train(recipe, cfg, overwrite="--overwrite" in argv)

    given = with_former_overrides(domain.name, words)
    results = hydra_app.run(domain.name, config, task, given)
    if results and _is_first_process():
        from rectiflow.commands import answer

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
        As of :func:`rectiflow.training.recipe.export_run`.

    Raises
    ------
    UsageError
        When the config has unknown keys, or lacks data or weights, or a resumed run was trained
        on other data.
    """
    _require_data(cfg)
    _require_weights(recipe, cfg)
    recipe.check(cfg)
    check_config(cfg, (*KEYS, *recipe.keys))
    from rectiflow.training import RunFolder

    folder, resume = hydra_app.run_folder(cfg)
    folder = Path(of_first("folder", str(folder)))
    if not _is_first_process():
        return _fit(recipe, cfg, folder, resume, of_first("data"))
    with RunFolder(folder).claimed(resume=resume, overwrite=overwrite):
        record_start(cfg, folder, resume)
        return _fit(recipe, cfg, folder, resume, of_first("data", _data_folder(cfg, folder)))


def of_first(name: str, value: str = "") -> str:
    """Return what the first process of a training chose, in each of its processes.

    Those that torchrun started are told over the network, those that the first one starts later
    by their environment.

    Parameters
    ----------
    name : str
        Of what is chosen.
    value : str
        The first process' choice; that of others does not matter.

    Raises
    ------
    UsageError
        When something else started several processes.
    """
    import torch

    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        key = f"RECTIFLOW_{name.upper()}_OF_FIRST"
        if not hydra_app.rank():
            os.environ[key] = value
        if key not in os.environ:
            raise UsageError(
                f"this is process {hydra_app.rank()} of several, got no word of the first; "
                "expected to be started by it, by trainer.devices, or all of them by torchrun."
            )
        return os.environ[key]
    if not torch.distributed.is_initialized():
        if int(os.environ["LOCAL_RANK"]) < torch.cuda.device_count():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        torch.distributed.init_process_group()
    values = [value]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def _fit(
    recipe: Recipe, cfg: DictConfig, folder: Path, resume: bool, data_folder: str
) -> dict[str, Any]:
    """Build everything, train and export."""
    import torch
    from omegaconf import OmegaConf
    from rectiflow.training import RunFolder
    from rectiflow.training.recipe import Built, export_run

    data = build(cfg.data.module, folder=data_folder)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(cfg.seed)  # layers draw their first weights from the global generator
        training: FlowTraining = build(cfg.training)
    _try_optimizer(training)
    built = Built(cfg, training, data, build)
    recipe.set_up(built)
    if cfg.compile:
        training.network.compile()
    fit = build(cfg.trainer)
    fit(
        training,
        data,
        folder,
        resume=resume,
        evaluate=recipe.evaluate(built),
        config=OmegaConf.to_yaml(cfg, resolve=True),
        progress=sys.stderr.isatty(),
    )
    if not _is_first_process():
        return {}
    told: Mapping[str, Any] = OmegaConf.to_container(cfg.data, resolve=True)  # type: ignore[assignment]
    return export_run(recipe, built, RunFolder(folder), told)


def build(node: Any, **more: Any) -> Any:
    """Make what a config node names by ``_target_``, with plain lists and dicts."""
    from hydra.utils import instantiate

    return instantiate(node, **more, _convert_="all")


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
        if not _SETTING.match(word) or hydra_app.key_of(word).startswith("hydra"):
            raise UsageError(
                f"{record} asks for {word!r}, which is no setting of a training; expected "
                "key=value. Do not resume a run that you do not trust."
            )
    given = {"run_dir", "resume", *map(hydra_app.key_of, words)}
    return [*(word for word in former if hydra_app.key_of(word) not in given), *words]


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
    return sha256("".join(map(digest_of_file, _manifests(cfg))).encode()).hexdigest()


def _manifests(cfg: DictConfig) -> list[Path]:
    patterns = cfg.data.manifest.split(",")
    return sorted(path for each in patterns for path in Path(cfg.data.dir).glob(each.strip()))


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


_SETTING = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*(=|$)")


def _require_data(cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    hint = f"Make one with `{cfg.data.made_by}`, then add data.dir=FOLDER."
    if OmegaConf.is_missing(cfg.data, "dir"):
        raise UsageError(f"data.dir is not given; expected a folder of training data. {hint}")
    if cfg.data.dir is not None and not _manifests(cfg):
        raise UsageError(
            f"data.dir={cfg.data.dir} holds no training data; expected {cfg.data.manifest} in it. "
            f"{hint}"
        )


def _data_folder(cfg: DictConfig, run_dir: Path) -> str:
    """Return the folder of training data; a debug experiment without one makes its own."""
    if cfg.data.dir is not None:
        return str(cfg.data.dir)
    return str(build(cfg.data.stand_in)(run_dir / "data"))


def _require_weights(recipe: Recipe, cfg: DictConfig) -> None:
    from omegaconf import OmegaConf

    if "weights" in cfg.network and OmegaConf.is_missing(cfg, "weights"):
        raise UsageError(
            "weights is not given; expected the checkpoint to start from, such as weights=small, "
            f"weights=runs/{recipe.domain}-train/DATE or the authors' file."
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


def _text(recipe: Recipe, result: dict[str, Any]) -> str:
    metrics = result["metrics"]
    found = ", ".join(f"{name} {metrics[name]:.4g}" for name in recipe.shown if name in metrics)
    return (
        f"trained to step {result['step']} in {result['run']} ({found or 'nothing logged yet'})\n"
        f"next: {result['next']}"
    )
