"""What of a sharded or stopped job is done, failed or missing, read off its folder."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from rectiflow.results import listings, read_listing
from rectiflow.storage.preparation import REPORT, read_report
from rectiflow.storage.reading import read_json
from rectiflow.storage.shards import MANIFEST, read_manifest

NAMED = 10
"""Names that a status lists of each kind, at most."""


@dataclass(frozen=True)
class Part:
    """One worker's share of a job.

    Attributes
    ----------
    name : str
        The file or folder it is read off.
    wanted, done : int or None
        Samples, steps or records; None where nobody knows.
    failed : dict
        Reason by name.
    missing : list of str
        Names of what is still to be made, as far as they are known.
    """

    name: str
    wanted: int | None
    done: int
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Status:
    """What a folder holds, part by part.

    Attributes
    ----------
    kind : str
        ``results``, ``pairs``, ``prepared data`` or ``training``.
    parts : list of Part
    absent : list of str
        Parts that have not begun.
    next : str
        How to go on, where that can be told.
    under_way : int
        Calls that workers have begun, or had when they were killed, of which nothing is in place.
    """

    kind: str
    parts: list[Part]
    absent: list[str] = field(default_factory=list)
    next: str = ""
    under_way: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.absent and all(p.wanted == p.done + len(p.failed) for p in self.parts)


def status_of(folder: Path | str) -> Status:
    """Read the status of a job off its folder.

    Raises
    ------
    FileNotFoundError
        When the folder holds no job.
    """
    folder = Path(folder)
    found = [path for path in listings(folder) if "samples" in read_json(path)]
    if found:
        return _results(folder, found)
    parts = sorted(folder.glob(f"part-*-of-*/{MANIFEST}"))
    if parts:
        return _pairs([path.parent for path in parts])
    if (folder / MANIFEST).is_file():
        return _prepared(folder)
    if (folder / "checkpoints").is_dir():
        return _training(folder)
    raise FileNotFoundError(
        f"{folder} holds no job of ours; expected results, pairs, prepared data or a run folder."
    )


def _results(folder: Path, found: list[Path]) -> Status:
    parts, command = [], ""
    for path in found:
        told = read_listing(path)
        there = {
            row["name"]
            for row in told["samples"]
            if all((folder / file).is_file() for file in row["files"])
        }
        failed = told.get("failed", {})
        wanted = told.get("wanted", sorted(there))
        missing = [name for name in wanted if name not in there and name not in failed]
        done = sum(name in there for name in wanted)
        parts.append(Part(path.name, len(wanted), done, failed, missing))
        if missing and told.get("command"):
            command = f"the same command: rectiflow {' '.join(map(str, told['command']))}"
    under_way = sum(path.is_dir() for path in folder.glob(".*.partial/[0-9]*"))
    return Status("results", parts, _absent([path.name for path in found]), command, under_way)


def _absent(names: list[str]) -> list[str]:
    """Return the names of shards of which others are there."""
    told = [re.fullmatch(r"(.*-)(\d+)-of-(\d+)(.*)", name) for name in names]
    wanted = {
        f"{m[1]}{i:0{len(m[2])}d}-of-{m[3]}{m[4]}" for m in told if m for i in range(int(m[3]))
    }
    return sorted(wanted - set(names))


def _pairs(folders: list[Path]) -> Status:
    parts = []
    for folder in folders:
        manifest = read_manifest(folder)
        part, count = manifest["metadata"]["part"]
        wanted = len(range(part, manifest["metadata"]["num"], count))
        parts.append(Part(folder.name, wanted, manifest["progress"].get("tried", 0)))
    return Status("pairs", parts, _absent([folder.name for folder in folders]))


def _prepared(folder: Path) -> Status:
    report = read_report(folder) if (folder / REPORT).is_file() else None
    if report is not None:
        return Status("prepared data", [Part(REPORT, report.inputs, report.inputs)])
    judged = sum(
        json.loads(rows.read_text(encoding="utf-8")).get("inputs", 0)
        for rows in folder.glob(".partial/*/rows.json")
    )
    return Status("prepared data", [Part(MANIFEST, None, judged)], next="the same command again")


def _training(folder: Path) -> Status:
    from rectiflow.training.reading import read_checkpoint
    from rectiflow.training.run_folder import RunFolder

    run = RunFolder(folder)
    step = int(read_checkpoint(run.last)["global_step"]) if run.last.is_file() else 0
    config = run.config.read_text(encoding="utf-8") if run.config.is_file() else ""
    found = re.search(r"^ +max_steps: (\d+)$", config, re.M)
    wanted = int(found[1]) if found else None
    absent = [] if (folder / "export").is_dir() or step != wanted else ["export"]
    again = f"resume={folder}" if step != wanted or absent else ""
    return Status("training", [Part("steps", wanted, step)], absent, again)
