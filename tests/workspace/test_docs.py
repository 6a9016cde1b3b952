"""What the pages claim about the code holds."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from rectiflow import solvers

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(
    r"^\| `(?P<solver>[A-Z].*?\))` \| (?P<nfe>\d) \| (?P<order>\d) \| (?P<curved>yes|no) ", re.M
)
TABLE = [match.groupdict() for match in ROW.finditer((DOCS / "solvers.md").read_text())]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row["solver"])
def test_solver_table_agrees_with_the_classes(row):
    table = torch.zeros(2, 1)
    statistics = solvers.EmpiricalStatistics(torch.tensor([-1.0, 1.0]), table, table, table)
    given = {"refiner": lambda x, t, v: v, "statistics": statistics}
    solver = eval(row["solver"], {**vars(solvers), **given})
    assert (solver.nfe, solver.order) == (int(row["nfe"]), int(row["order"]))
    assert solver.flat_only == (row["curved"] == "no")


def test_solver_table_lists_every_solver():
    named = {row["solver"].partition("(")[0] for row in TABLE}
    concrete = {
        name
        for name, value in vars(solvers).items()
        if isinstance(value, type) and issubclass(value, solvers.Solver)
    } - {"Solver", "RungeKutta"}
    assert named == concrete


def test_every_page_is_in_the_navigation():
    navigation = (DOCS.parent / "mkdocs.yml").read_text()
    for page in DOCS.rglob("*.md"):
        assert f": {page.relative_to(DOCS).as_posix()}" in navigation


def test_pages_fetch_nothing():
    """No fonts, styles or scripts from elsewhere: the pages work offline."""
    assert "http" not in (DOCS.parent / "mkdocs.yml").read_text()
    assert "font: false" in (DOCS.parent / "mkdocs.yml").read_text()


def test_docstring_roles_and_formulas_become_markdown():
    spec = importlib.util.spec_from_file_location("rst", DOCS.parent / "tools" / "griffe_rst.py")
    rst = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rst)
    text = """One :class:`~rectiflow.flow.Flow` with :math:`a` by :meth:`Path.data`.

.. math:: a = b
          + c

Text.
    .. math::

        x

::

    a file"""
    assert rst.markdown(text).split("\n") == [
        "One `Flow` with $a$ by `Path.data`.",
        *("", "", "$$", "a = b", "+ c", "$$", "", "", "Text."),
        *("", "    $$", "    x", "    $$", "", "", "", "", "    a file"),
    ]
