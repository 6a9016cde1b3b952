"""Words of a command: groups of flags, help in sentences, errors in one line."""

from __future__ import annotations

import argparse
import math
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch

from rectiflow.execution import Executor, Here, Processes, Ray, Slurm, worker_number
from rectiflow.storage.splits import SPLITS

DTYPES = ("float32", "bfloat16")
_WIDTH = 96


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows a default where there is one, as the user would type it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=_WIDTH)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if (
            not action.option_strings
            or not action.help
            or action.nargs == 0
            or default in (None, argparse.SUPPRESS, [], "")
        ):
            return action.help
        text = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
        return f"{action.help} (default: {text.replace('%', '%%')})"


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and whose help has examples.

    Parameters
    ----------
    domain, verb : str
        Of the command.
    about : str, optional
        What it does: its first paragraph is shown.
    examples : sequence of str
        Words after ``rectiflow DOMAIN VERB``, each of which parses.
    """

    def __init__(
        self, domain: str, verb: str, about: str | None, examples: Sequence[str] = ()
    ) -> None:
        prog = f"rectiflow {domain} {verb}".rstrip()
        first = " ".join((about or "").strip().partition("\n\n")[0].split())
        shown = "\n".join(f"  {prog} {words}" for words in examples)
        super().__init__(
            prog=prog,
            description=textwrap.fill(first, _WIDTH),
            epilog=f"examples:\n{shown}" if shown else None,
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self.examples = tuple(examples)

    def error(self, message: str) -> NoReturn:
        """Raise the message instead of printing the usage."""
        raise ValueError(f"{message}. See: {self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help without swallowing that it could not be written."""
        (file or sys.stderr).write(message)

    def group(self, title: str) -> Callable[..., Any]:
        """Begin a group of flags and return what adds one to it."""
        return self.add_argument_group(title).add_argument

    def add_json(self) -> None:
        """Add ``--json``."""
        self.add_argument("--json", action="store_true", help="Print one JSON document.")

    def add_overwrite(self) -> None:
        """Add ``--overwrite``, the only way to replace what the command did not make."""
        self.add_argument(
            "--overwrite", action="store_true", help="Replace what is in the way at -o."
        )

    def add_shard(self) -> None:
        """Add ``--shard``."""
        self.add_argument(
            "--shard",
            type=shard_of,
            default="0/1",
            metavar="i/n",
            help="The part that this worker does; parts are numbered from 0.",
        )

    def add_executor(self) -> None:
        """Add the flags that say where the tasks of a batch run; see :func:`executor_of`."""
        add = self.group("where it runs")
        add(
            "--on",
            metavar="ENGINE",
            help="One of here, processes, ray, ray:ADDRESS of a cluster, slurm, and slurm:local to "
            "try its jobs on this machine; here if absent, and with --workers processes.",
        )
        add(
            "--workers",
            type=positive,
            metavar="N",
            help="Tasks at a time; as many as there are cores if absent.",
        )

    def add_device(self, add: Callable[..., Any]) -> None:
        """Add ``--device``."""
        add("--device", default="auto", help="One of auto, cpu, cuda and cuda:INDEX.")

    def add_network(self, default: str | None = "small") -> None:
        """Add the flags that say which network runs, where and as what."""
        add = self.group("network")
        add(
            "--weights",
            default=default,
            help="A shipped name, a folder, a run, a file of the authors, or owner/name.",
        )
        add(
            "--adapter",
            type=adapter_of,
            action="append",
            default=[],
            metavar="FILE[:WEIGHT]",
            help="A low-rank adapter of these weights, or a run that trained one; several add up.",
        )
        self.add_device(add)
        add("--dtype", choices=DTYPES, default="float32", help="What the networks compute in.")
        add("--compile", action="store_true", help="Compile the network before it runs.")
        add("--seed", type=int, default=0, help="Fixes the noise of each sample by its number.")


def executor_of(on: str | None, workers: int | None, device: str = "cpu") -> Executor:
    """Return the engine that ``--on``, ``--workers`` and ``--device`` name.

    Examples
    --------
    >>> executor_of(None, None), executor_of(None, 2), executor_of("ray:10.0.0.1:6379", 8)
    (Here(), Processes(workers=2), Ray(workers=8, address='10.0.0.1:6379', device='cpu'))
    """
    engine, colon, place = (on or ("here" if workers is None else "processes")).partition(":")
    cores = len(os.sched_getaffinity(0))
    if engine == "here" and not colon and workers in (None, 1):
        return Here()
    if engine == "processes" and not colon:
        return Processes(workers or cores)
    if engine == "ray" and bool(place) == bool(colon):
        return Ray(workers or cores, place, device)
    if engine == "slurm" and place in ("", "local") and bool(place) == bool(colon):
        return Slurm(workers or cores, cluster=place or "slurm", device=device)
    count = "" if workers is None else f" with --workers {workers}"
    raise ValueError(
        f"--on names no engine, got {on!r}{count}; expected here (one worker), processes, ray, "
        " ray:ADDRESS, slurm or slurm:local."
    )


def positive(text: str) -> int:
    """Parse an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return int(text)


def words(text: str) -> str:
    """Parse text; bytes that the terminal's encoding could not read are taken as UTF-8.

    Examples
    --------
    >>> words("a dog barks")
    'a dog barks'
    """
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        pass
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise argparse.ArgumentTypeError(
            f"expected text in the terminal's encoding, got {text!r}; set LC_ALL=C.UTF-8"
        )
    return text


def shard_of(text: str) -> tuple[int, int]:
    """Parse ``i/n`` with ``0 <= i < n``.

    Examples
    --------
    >>> shard_of("1/4")
    (1, 4)
    """
    part, slash, parts = text.partition("/")
    if not slash or not part.isdecimal() or not parts.isdecimal() or int(part) >= int(parts):
        raise argparse.ArgumentTypeError(f"expected i/n with 0 <= i < n, got {text!r}")
    return int(part), int(parts)


def adapter_of(text: str) -> tuple[str, float]:
    """Parse ``FILE`` or ``FILE:WEIGHT``.

    Examples
    --------
    >>> adapter_of("rain.safetensors"), adapter_of("rain.safetensors:0.5")
    (('rain.safetensors', 1.0), ('rain.safetensors', 0.5))
    """
    path, _, weight = text.rpartition(":")
    try:
        strength = float(weight) if path else 1.0
    except ValueError:
        return text, 1.0
    if not math.isfinite(strength):
        raise argparse.ArgumentTypeError(f"expected a finite weight, got {text!r}")
    return path or text, strength


def fractions_of(text: str) -> dict[str, float]:
    """Parse the shares of train, valid and test."""
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if len(shares) != len(SPLITS):
        raise argparse.ArgumentTypeError(
            f"expected three shares for {', '.join(SPLITS)}, such as 0.9,0.05,0.05, got {text!r}"
        )
    return dict(zip(SPLITS, shares, strict=True))


def device_kind(name: str) -> str:
    """Return ``cuda`` or ``cpu`` for the name of a device, which may be another machine's."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name.partition(":")[0]


def pick_device(name: str) -> torch.device:
    """Return the device of that name; ``auto`` is the GPU if there is one."""
    if name == "auto":
        name = device_kind(name)
    kind, colon, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not index.isdecimal()):
        raise ValueError(f"unknown device {name!r}; expected auto, cpu, cuda or cuda:0.")
    count = torch.cuda.device_count()
    if kind == "cuda" and int(index or 0) >= count:
        raise ValueError(
            f"device {name!r} is not there, got {count} CUDA device(s) on this machine; expected "
            "one of them. Leave --device out to take what there is."
        )
    if kind == "cuda" and not colon and (number := worker_number()):
        return torch.device("cuda", number % count)  # workers of a machine take turns
    return torch.device(name)
