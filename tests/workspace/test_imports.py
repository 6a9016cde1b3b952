"""Who may import whom, what is declared, and what an import costs."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MEMBERS = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for pattern in ("shared", "packages/*", "apps/*")
    for path in sorted(REPOSITORY.glob(f"{pattern}/pyproject.toml"))
}


def python(code: str, *words: str) -> str:
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_core_packages_apps_are_layers():
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def canonical(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def declared(member: str, extras: set[str]) -> set[str]:
    """Distributions that a member asks for, those of a sibling's extras included."""
    project = tomllib.loads((MEMBERS[member] / "pyproject.toml").read_text())["project"]
    optional = project.get("optional-dependencies", {})
    names: set[str] = set()
    for requirement in [*project["dependencies"], *(r for e in extras for r in optional[e])]:
        name = canonical(requirement)
        names.add(name)
        wanted = re.search(r"\[([^\]]+)\]", requirement)
        if name in MEMBERS and wanted:
            names |= declared(name, {extra.strip() for extra in wanted[1].split(",")})
    return names


def all_extras(member: str) -> set[str]:
    project = tomllib.loads((MEMBERS[member] / "pyproject.toml").read_text())["project"]
    return set(project.get("optional-dependencies", {}))


def only_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level names of the modules that a source imports at run time."""
    for node in ast.iter_child_nodes(tree):
        if only_for_types(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
        yield from imported(node)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_third_party_import_is_declared(member):
    providers = importlib.metadata.packages_distributions()
    own = {path.name for path in (MEMBERS[member] / "src").iterdir()}
    allowed = declared(member, all_extras(member))
    undeclared = []
    for path in sorted((MEMBERS[member] / "src").rglob("*.py")):
        for module in set(imported(ast.parse(path.read_text()))) - own - {"__future__"}:
            if module in sys.stdlib_module_names:
                continue
            if not {canonical(name) for name in providers.get(module, [module])} & allowed:
                undeclared.append(f"{path.relative_to(REPOSITORY)}: {module}")
    assert not undeclared


@pytest.mark.parametrize("member", MEMBERS)
def test_every_package_is_typed(member):
    for package in (MEMBERS[member] / "src").glob("rectiflow*"):
        assert (package / "py.typed").is_file()


BLOCKED = ["biotite", "trimesh", "librosa", "hydra", "matplotlib", "omegaconf", "transformers"]
BLOCK = f"""
import importlib, importlib.abc, pkgutil, sys
class Absent(importlib.abc.MetaPathFinder):
    # Libraries probe for optional friends by importing them; only our own imports must not.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in {[*BLOCKED, "jaxtyping"]!r}:
            return None
        frame = sys._getframe(1)
        while "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if frame.f_globals["__name__"].startswith("rectiflow"):
            raise ModuleNotFoundError(f"{{name}} is not on a bare GPU machine", name=name)
sys.meta_path.insert(0, Absent())
"""
EVERYTHING_UNDER = """
for name in sys.argv[1:]:
    module = importlib.import_module(name)
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
        importlib.import_module(found.name)
"""


def test_training_paths_import_on_a_bare_gpu_machine():
    """Only torch, numpy, safetensors, tqdm, scipy and lightning are there."""
    rooms = ["networks", "flow", "data"]
    python(BLOCK + EVERYTHING_UNDER, "rectiflow", *(f"rectiflow_protein.{r}" for r in rooms))


@pytest.mark.parametrize("package", ["rectiflow", "rectiflow_protein"])
def test_a_package_import_is_light(package):
    """Heavy optional libraries are imported where they are used."""
    heavy = [*BLOCKED, "lightning", "scipy", "tensorboard"]
    code = f"import sys, {package}; print(*(name for name in {heavy!r} if name in sys.modules))"
    assert python(code).split() == []


def test_core_costs_little_over_torch():
    code = """
import time, numpy, torch, safetensors.torch
start = time.process_time(); import rectiflow; print(time.process_time() - start)
"""
    assert any(
        float(python(code)) < 0.3 for _ in range(3)
    )  # the first is enough on a quiet machine


def test_help_answers_in_a_second_without_torch():
    code = """
import sys, time
start = time.perf_counter()
from rectiflow_cli.main import main
codes = main(["--help"]), main(["protein", "--help"])
print(codes, time.perf_counter() - start, "torch" in sys.modules, file=sys.stderr)
"""
    times = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        codes, seconds, torch = re.fullmatch(r"(\(.*\)) (\S+) (\S+)\n", done.stderr).groups()
        assert (codes, torch) == ("(0, 0)", "False")
        times.append(float(seconds))
        if times[-1] < 1.0:
            return
    pytest.fail(f"help took {times} s")


@pytest.mark.parametrize("command", ["rectiflow", "rectiflow-protein", "rectiflow-audio"])
def test_installed_commands_answer(command):
    done = subprocess.run(
        [Path(sys.executable).with_name(command), "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.startswith("usage: rectiflow")
