"""Run a training verb as a Hydra application, or only compose its config."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow.storage.files import write_json
from rectiflow.storage.reading import read_json

from rectiflow_cli.config_root import config_root
from rectiflow_cli.domains import Domain, domain_of, nearest
from rectiflow_cli.errors import USER_INPUT, UsageError, exit_code, message_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

FLAGS = {
    *("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve"),
    *("--json", "--overwrite", "--hydra-help", "--version", "--shell-completion", "-sc"),
    *("-cn", "--config-name", "-cd", "--config-dir", "-cp", "--config-path"),
}
"""Flags of Hydra, and ours."""

WITH_VALUE = {
    *("-c", "--cfg", "-i", "--info", "-p", "--package"),
    *("-cn", "--config-name", "-cd", "--config-dir", "-cp", "--config-path"),
}


@contextmanager
def _process(argv: list[str], **environment: str) -> Iterator[None]:
    """Give Hydra and Lightning what they read off the process, and put it back afterwards.

    Lightning would start the other processes of a training as it finds this one to be started,
    which may be by a launcher of jobs, and leaves words in the environment that would make the
    next training of a sweep one of these processes.
    """
    main: Any = sys.modules["__main__"]
    words, before, spec = sys.argv, dict(os.environ), getattr(main, "__spec__", None)
    sys.argv, main.__spec__ = argv, None
    os.environ.update(environment)
    try:
        yield
    finally:
        sys.argv, main.__spec__ = words, spec
        os.environ.clear()
        os.environ.update(before)


def run(
    domain: str, config: str, task: Callable[[DictConfig], Any], argv: Sequence[str]
) -> list[Any]:
    """Compose ``configs/<domain>/<config>.yaml`` with the overrides and run the task on it.

    Sweeps (``-m``), ``--help``, ``--cfg job`` and ``--info`` are Hydra's.

    Parameters
    ----------
    domain, config : str
        The domain's config folder and the name of a primary config in it.
    task : callable
        Takes the composed config; called once per job, by some launchers in another process.
    argv : sequence of str
        Overrides and Hydra's own flags.

    Returns
    -------
    list
        What the task returned for each job, in their order.

    Raises
    ------
    Exception
        What the first job raised that failed; of one in another process, what was said of it.
    """
    import hydra

    # Hydra's parser takes the flag before or after the overrides, not among them.
    words = sorted(argv, key=lambda word: word not in ("-m", "--multirun"))
    results: dict[int, Any] = {}
    failures: list[Exception] = []
    here = platform.node(), os.getpid()
    elsewhere = Path.cwd() / "runs" / f".sweep-{uuid.uuid4().hex[:12]}"

    def job(cfg: DictConfig) -> None:
        """Keep result and error for us: Hydra would print a line of its own about an error."""
        from hydra.core.hydra_config import HydraConfig

        if failures:
            return
        own: Any = HydraConfig.get().job
        number = own.get("num", 0)
        told: dict[str, Any] = {}
        try:
            with _process(_again(domain, config, words)):
                told["result"] = results[number] = task(cfg)
        except Exception as error:
            failures.append(error)
            told = {"code": exit_code(error), "error": message_of(error)}
        if (platform.node(), os.getpid()) != here:
            write_json(elsewhere / f"{number}.json", told)

    root = str(domain_of(domain).configs)
    application = hydra.main(version_base="1.3", config_path=root, config_name=config)(job)
    with (
        _process(
            [f"rectiflow {domain} {config}", *words, *(_SILENT if rank() else ())],
            HYDRA_MAIN_MODULE=f"{domain}-{config}",  # becomes hydra.job.name
            HYDRA_FULL_ERROR="1",  # errors arrive here as they are, not printed and swallowed
        ),
        _told_plainly(domain, config, words),
    ):
        application()
    if failures:
        raise failures[0]
    for path in sorted(elsewhere.glob("*.json"), key=lambda path: int(path.stem)):
        told = read_json(path)
        if "error" in told:
            shutil.rmtree(elsewhere)
            kind = UsageError if told["code"] == USER_INPUT else RuntimeError
            raise kind(f"job {path.stem} of the sweep: {told['error']}")
        results[int(path.stem)] = told["result"]
    shutil.rmtree(elsewhere, ignore_errors=True)
    return [results[number] for number in sorted(results)]


_SILENT = (
    *("hydra.run.dir=.", "hydra.output_subdir=null"),
    *("hydra.job_logging.root.handlers=[console]", "~hydra.job_logging.handlers.file"),
)
"""Overrides that let Hydra leave no folder and no log: of all processes but a training's first."""


def rank() -> int:
    """Return the number of this process in a training of several."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # by torchrun, by Lightning, by srun
    return int(next((os.environ[name] for name in names if os.environ.get(name)), 0))


def _again(domain: str, config: str, words: Sequence[str]) -> list[str]:
    """Return the words that start another process of the same job, and of no other of a sweep."""
    from hydra.core.hydra_config import HydraConfig

    flags, values = [], iter(words)
    for word in values:
        if word.startswith("-") and word not in ("-m", "--multirun"):
            flags += [word, next(values)] if word in WITH_VALUE else [word]
    main = str(Path(__file__).with_name("__main__.py"))
    return [main, domain, config, *flags, *HydraConfig.get().overrides.task]


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

    with hydra.initialize_config_dir(str(domain_of(domain).configs), version_base="1.3"):
        return hydra.compose(config, list(overrides))


def key_of(override: str) -> str:
    """Return the key of an override, without its sign."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def refuse_flags(domain: Domain, config: str, words: Sequence[str]) -> None:
    """Refuse flags that a verb with overrides does not take, saying what to write instead.

    Raises
    ------
    UsageError
        For the first such word.
    """
    expected = iter(words)
    for word in expected:
        flag, equals, value = word.partition("=")
        if not word.startswith("-") or flag in FLAGS:
            if flag in WITH_VALUE and not equals:
                next(expected, None)
            continue
        value = value or next(expected, "VALUE")
        key = flag.lstrip("-").replace("-", "_")
        raise UsageError(
            f"rectiflow {domain.name} {config} takes no flag {flag}; expected a word without "
            f"dashes: write {key}={value}."
        )


@contextmanager
def _told_plainly(domain: str, config: str, words: Sequence[str]) -> Iterator[None]:
    """Say in our own words which override has a key or an option that is not there."""
    from hydra.errors import HydraException

    try:
        yield
    except HydraException as error:
        given = [word for word in words if not word.startswith("-")]
        # What is chosen comes first, as for hydra: an experiment says which keys there are.
        given.sort(key=lambda word: not _options(domain, word))
        for number, word in enumerate(given):
            if "=" not in word:
                continue
            try:
                compose(domain, config, given[: number + 1])
            except HydraException as found:
                told = _sentence(domain, config, given[:number], word, str(found))
                if told:
                    raise UsageError(told) from error
                break
        raise


def _options(domain: str, word: str) -> list[str]:
    """Return what may be chosen where an override chooses, or nothing."""
    key = word.partition("=")[0].lstrip("+~")
    root = domain_of(domain).configs
    assert root is not None
    return sorted(
        {p.stem for at in (root, config_root() / "common") for p in (at / key).glob("*.yaml")}
    )


def _sentence(domain: str, config: str, before: Sequence[str], word: str, said: str) -> str:
    """Return what is wrong with the first override that does not compose, after those before."""
    key, _, value = word.partition("=")
    options = _options(domain, word)
    if options and value not in options:
        return f"unknown {key} {value!r}; known: {', '.join(options)}.{nearest(value, options)}"
    if "Could not override" in said or "not in struct" in said or "Could not find" in said:
        known = list(_keys(compose(domain, config, before)))
        return (
            f"unknown key {key_of(word)!r}; expected one of the config.{nearest(key, known)} "
            f"`{shlex.join(['rectiflow', domain, config, *before])} --cfg job` shows them all."
        )
    return ""


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(node, DictConfig):
        for key in map(str, node):
            yield f"{prefix}{key}"
            if not OmegaConf.is_missing(node, key) and not OmegaConf.is_interpolation(node, key):
                yield from _keys(node[key], f"{prefix}{key}.")


def run_folder(cfg: DictConfig) -> tuple[Path, bool]:
    """Return the folder of a run, and whether the run in it is to be continued (``resume=DIR``)."""
    resume = cfg.get("resume")  # None where it is left out
    return (Path(resume), True) if resume else (Path(cfg.run_dir), False)
