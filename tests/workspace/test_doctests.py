"""Examples in docstrings do what they say."""

import doctest
import importlib
import pkgutil

import pytest


def modules(package: str) -> list[str]:
    found = importlib.import_module(package)
    walked = pkgutil.walk_packages(found.__path__, f"{package}.")
    return [package, *(module.name for module in walked)]


@pytest.mark.parametrize("package", ["rectiflow", "rectiflow_protein"])
def test_examples_in_docstrings(package):
    attempted = 0
    for name in modules(package):
        result = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
        assert result.failed == 0, name
        attempted += result.attempted
    assert attempted > 5
