"""Progress bars that stay out of the way of machines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def progress(
    items: Iterable[Item], label: str, *, total: int | None = None, quiet: bool = False
) -> Iterable[Item]:
    """Iterate with a bar and an ETA on stderr, once the work has taken two seconds.

    Parameters
    ----------
    items : iterable
        What to iterate over.
    label : str
        What is being done, shown left of the bar.
    total : int, optional
        Number of items, where ``items`` has no length.
    quiet : bool, default False
        No bar, as under ``--json``. There is none either when stderr is not a terminal.
    """
    silent = quiet or not sys.stderr.isatty()
    return tqdm(items, desc=label, total=total, delay=2.0, disable=silent, file=sys.stderr)


@contextmanager
def counter(
    label: str, *, unit: str = "it", quiet: bool = False
) -> Iterator[Callable[[float, float], None]]:
    """Give a callback ``(done, total)`` that draws such a bar, for work that counts itself.

    Parameters
    ----------
    label, unit : str
        What is being done, and what is counted.
    quiet : bool, default False
        As in :func:`progress`.
    """
    silent = quiet or not sys.stderr.isatty()
    with tqdm(desc=label, unit=unit, delay=2.0, disable=silent, file=sys.stderr) as bar:

        def show(done: float, total: float) -> None:
            bar.total = total
            bar.update(round(done, 2) - bar.n)

        yield show
