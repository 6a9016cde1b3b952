"""What ships: every checkpoint loads, is small, and tells nothing of the machine that made it."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
from rectiflow.pipeline import Pipeline
from rectiflow_cli import domains

DOMAINS = {domain.name: domain for domain in domains.DOMAINS}
SHIPPED = [
    (name, path.parent)
    for name, domain in sorted(DOMAINS.items())
    for path in sorted((domain.folder() or Path()).glob("pretrained/*/config.json"))
]


def pipelines(package: str) -> list[type[Pipeline]]:
    """Return the pipelines that a package makes public."""
    module = importlib.import_module(package)
    found = [getattr(module, name) for name in module.__all__]
    return [each for each in found if isinstance(each, type) and issubclass(each, Pipeline)]


def names(pipeline: type[Pipeline]) -> set[str]:
    """Return the names that tell a pipeline's checkpoint: its own, and those of its networks."""
    parts = [part if isinstance(part, tuple) else (part,) for part in pipeline.kinds().values()]
    return {pipeline.__name__, *(kind.__name__ for part in parts for kind in part)}


@pytest.mark.parametrize(("domain", "folder"), SHIPPED, ids=[f"{n}-{p.name}" for n, p in SHIPPED])
def test_a_shipped_checkpoint_loads_by_its_name(domain, folder):
    kinds = pipelines(DOMAINS[domain].package)
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))["class"]
    kind = next((each for each in kinds if told in names(each)), kinds[0])
    assert all(part.state_dict() for part in kind.from_pretrained(folder.name).parts.values())
    assert not (folder / ".rectiflow").exists()  # nobody's claim
    for config in folder.rglob("config.json"):
        assert not re.search(r'"/[^"]*/', config.read_text(encoding="utf-8"))  # an absolute path


@pytest.mark.parametrize("domain", sorted({name for name, _ in SHIPPED}))
def test_a_domain_ships_at_most_16_mib(domain):
    files = [p for name, folder in SHIPPED if name == domain for p in folder.rglob("*")]
    assert sum(p.stat().st_size for p in files if p.is_file()) <= 16 * 2**20
