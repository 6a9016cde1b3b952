"""``--plan``: the time and the memory that a command would take here, before anything starts."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from typing import Any

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser
from rectiflow.commands.verb import PipelineVerb
from rectiflow.costs import MARGIN, Costs, Load, costs_of
from rectiflow.memory import free_memory
from rectiflow.storage.reading import size_text


class Planned(PipelineVerb):
    """A command that can tell what it takes, and refuses what cannot fit."""

    @property
    def has_plan(self) -> bool:
        """Whether this one can."""
        return True

    def add_plan(self, parser: Parser) -> None:
        """Add ``--plan``, where it is offered."""
        told = "Tell the time and the memory that it would take here, and make nothing."
        if self.has_plan:
            parser.add_argument("--plan", action="store_true", help=told)
        parser.set_defaults(plan=False)

    def lighter(self, rows: int, tokens: int) -> str:
        """Return the flag under which batches of so many rows and tokens are the largest.

        With ``rows`` 0 not even one sample fits, and ``tokens`` is the most that would.
        """
        return "a smaller input"

    def tell_plan(self, args: Namespace, pipe: Any, loads: Sequence[Load], what: str) -> int:
        """Tell what some batches take.

        Raises
        ------
        ValueError
            When they would not fit.
        """
        free = free_memory(pipe.device)
        document: dict[str, Any] = {"seconds": 0.0, "memory": 0.0}
        if loads:
            costs = costs_of(pipe, (load.part for load in loads))
            assert costs is not None
            found = costs.estimate(loads)
            document = {"seconds": found.seconds, "memory": found.memory}
            self._require(pipe, costs, loads, free)
        count, _, _ = what.partition(" ")
        document |= {"samples": int(count), "free": free, "device": str(pipe.device)}
        text = (
            f"{what} to make on {pipe.device}: about {_duration(document['seconds'])} and "
            f"{size_text(document['memory'])} of the {size_text(free)} that are free"
        )
        answer(document, text, as_json=args.json)
        return 0

    def require_room(self, pipe: Any, loads: Callable[[], Sequence[Load]]) -> None:
        """Refuse what cannot fit, with the setting that would, where the costs are known."""
        if not self.has_plan or costs_of(pipe, (), fit=False) is None:
            return
        wanted = loads()
        costs = costs_of(pipe, (load.part for load in wanted), fit=False)
        if costs is not None:
            self._require(pipe, costs, wanted, free_memory(pipe.device))

    def _require(self, pipe: Any, costs: Costs, loads: Sequence[Load], free: float) -> None:
        found = costs.estimate(loads)
        if found.memory * MARGIN <= free:
            return
        tokens, model = found.largest.tokens, costs.of(found.largest)
        rows = model.most_rows(tokens, free)
        setting = self.lighter(rows, tokens if rows else model.most_tokens(free))
        raise ValueError(
            f"the memory of {pipe.device} is too small, got {size_text(free)} free for about "
            f"{size_text(found.memory)}; expected {setting}."
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 5400 else f"{seconds / 3600:.3g} h"
