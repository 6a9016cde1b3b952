"""What ``rectiflow DOMAIN train --help`` shows: groups, experiments and the usual lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rectiflow_cli.config_root import config_root

if TYPE_CHECKING:
    from rectiflow_cli.domains import Domain

NO_GROUPS = ("experiment", "hydra", "shared")
"""Folders that are shown by themselves, or hold what groups are made of."""

ABOUT = {
    "train": "Train on prepared data.",
    "reflow": "Train a rectified flow, or a student of few steps, on pairs of a teacher.",
}


def train_help(domain: Domain, config: str) -> str:
    """Return the page of a verb that takes Hydra overrides."""
    prog = f"rectiflow {domain.name} {config}"
    assert domain.configs is not None
    roots = (domain.configs, config_root() / "common")
    found = sorted({p.name for root in roots for p in root.iterdir() if p.is_dir()})
    groups = {name: _options(roots, name) for name in found if name not in NO_GROUPS}
    experiments = {
        path.stem: _first_comment(path)
        for path in sorted((domain.configs / "experiment").glob("*.yaml"))
        if is_for(path, config)
    }
    data = "PAIRS weights=TEACHER" if config == "reflow" else "SHARDS"
    usual = next((name for name in experiments if name.startswith("small")), "NAME")
    width = max(map(len, [*groups, *experiments]), default=0)
    lines = [
        f"usage: {prog} [KEY=VALUE ...] [-m] [--overwrite] [--json]",
        "",
        f"{ABOUT.get(config, '')} Settings are words KEY=VALUE, without dashes.",
        "",
        "the usual lines:",
        f"  {prog} data.dir={data} experiment={usual}",
        f"  {prog} resume=runs/{domain.name}-{config}/DATE",
        "",
        "experiments (experiment=NAME):",
        *(f"  {name:<{width}}  {text}" for name, text in experiments.items()),
        "",
        "groups (GROUP=OPTION; a key of an option is GROUP.KEY=VALUE):",
        *(f"  {name:<{width}}  {', '.join(options)}" for name, options in groups.items()),
        "",
        "options:",
        "  -m, --multirun  Run once for each value of KEY=A,B.",
        "  --cfg job       Show the composed settings and run nothing.",
        "  --overwrite     Remove what is in the run's folder first.",
        "  --json          Print one JSON document at the end.",
    ]
    return "\n".join(lines) + "\n"


def _options(roots: tuple[Path, ...], group: str) -> list[str]:
    return sorted({path.stem for root in roots for path in (root / group).glob("*.yaml")})


def is_for(path: Path, config: str) -> bool:
    """Say whether an experiment trains on pairs, by its data, as the verb does."""
    text = path.read_text(encoding="utf-8")
    by_data = re.search(r"override /data: \w*pairs", text)
    on_pairs = bool(by_data) or "_rectify" in text or "_distill" in path.stem
    return on_pairs == (config == "reflow")


def _first_comment(path: Path) -> str:
    """Return the first sentence of a config's own comment."""
    told = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @") or not line.strip():
            continue
        if not line.startswith("#"):
            break
        told.append(line.lstrip("# "))
    return " ".join(told).partition(". ")[0].partition(": ")[0].rstrip(".")[:100]
