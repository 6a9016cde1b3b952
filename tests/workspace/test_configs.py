"""Every config composes, and every ``_target_`` exists and takes the keys it is given."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest
from omegaconf import DictConfig
from rectiflow_cli import domains
from rectiflow_cli.config_root import config_root
from rectiflow_cli.hydra_app import compose
from rectiflow_cli.targets import check_config

ROOT = config_root()
DOMAINS = [domain.name for domain in domains.DOMAINS]
BESIDE = {"hydra", "shared"}  # folders that are no groups: what others are made of
PRIMARIES = [(d, path.stem) for d in DOMAINS for path in sorted((ROOT / d).glob("*.yaml"))]


def options(domain: str, group: str) -> list[str]:
    """Names of a group's configs, the shared ones included."""
    folders = (ROOT / domain / group, ROOT / "common" / group)
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def groups(domain: str) -> list[tuple[str, str]]:
    folders = {
        p.name for root in (ROOT / domain, ROOT / "common") for p in root.iterdir() if p.is_dir()
    }
    return [(g, option) for g in sorted(folders - BESIDE) for option in options(domain, g)]


OVERRIDES = [(domain, *pair) for domain in DOMAINS for pair in groups(domain)]
WHOLE = {"experiment", "debug"}  # groups whose options choose those of the others


def check(config: DictConfig) -> None:
    check_config(config, map(str, config))


def test_there_are_configs_for_every_domain():
    assert {domain for domain, _ in PRIMARIES} == set(DOMAINS)
    assert {path.name for path in ROOT.iterdir() if path.is_dir()} == {"common", *DOMAINS}


@pytest.mark.parametrize(("domain", "name"), PRIMARIES)
def test_primary_config_composes_and_fits_its_targets(domain, name):
    check(compose(domain, name))


def rounds() -> list[tuple[str, list[str]]]:
    """Words that choose every option of the groups that are independent, one of each at a time."""
    made = []
    for domain in DOMAINS:
        columns: dict[str, list[str]] = {}
        for group, option in groups(domain):
            if group not in WHOLE:
                columns.setdefault(group, []).append(f"{group}={option}")
        rows = zip_longest(*columns.values())
        made += [(domain, [word for word in row if word is not None]) for row in rows]
    return made


@pytest.mark.parametrize(("domain", "words"), rounds())
def test_every_option_of_every_group_fits_training(domain, words):
    check(compose(domain, "train", words))


@pytest.mark.parametrize(
    ("domain", "group", "option"), [row for row in OVERRIDES if row[1] in WHOLE]
)
def test_every_experiment_fits_its_training(domain, group, option):
    words = [f"{group}={option}"]
    stage = option.partition("_")[2] if group == "debug" else ""
    if stage and stage != "pairs":
        words.append(f"experiment=small_{stage.replace('pairs', 'rectify')}")
    check(compose(domain, "reflow" if stage.endswith("pairs") else "train", words))


@pytest.mark.parametrize("domain", DOMAINS)
def test_run_folders_say_what_ran(domain):
    config = compose(domain, "train")
    assert {"seed", "run_dir", "resume"} <= set(config)


def test_no_config_is_unreachable():
    """A file that no group option, primary or defaults list names is dead."""
    reachable = {ROOT / d / f"{name}.yaml" for d, name in PRIMARIES} | {
        ROOT / "common" / "base.yaml"
    }
    for domain, group, option in OVERRIDES:
        reachable |= {
            ROOT / domain / group / f"{option}.yaml",
            ROOT / "common" / group / f"{option}.yaml",
        }
    found = set(Path(ROOT).rglob("*.yaml"))
    text = "".join(path.read_text(encoding="utf-8") for path in found)
    reachable |= {
        path for path in found if path.parent.name == "shared" and f"/shared/{path.stem}" in text
    }
    assert not {str(path.relative_to(ROOT)) for path in found - reachable}
