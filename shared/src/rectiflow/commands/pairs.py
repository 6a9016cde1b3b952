"""``pairs``: what reflow trains on."""

from __future__ import annotations

import sys
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar

from rectiflow.commands.answers import answer
from rectiflow.commands.parser import Parser, positive
from rectiflow.commands.plan import Planned
from rectiflow.costs import Load
from rectiflow.execution import Here, Loading
from rectiflow.rectify import Pair, PairStore, Verdict, generate_pairs

NUM = 1000


@dataclass(frozen=True)
class Candidates:
    """What makes pairs, how many there are to be, which are kept, and what the manifest tells.

    And, of a verb with ``--plan``, what one call comes to.
    """

    sample: Callable[[list[int]], Sequence[Pair]]
    num: int | None = None
    keep: Callable[[Pair], Verdict] | None = None
    told: Mapping[str, Any] = field(default_factory=dict)
    load: Load | None = None


class Pairs(Planned):
    """Make pairs of noise and sample with a trained network."""

    name = "pairs"
    takes: ClassVar[str]
    """What the folder of prepared data is used for, as a sentence."""
    needs_data: ClassVar[bool] = True
    plans: ClassVar[bool] = False
    """Whether ``--plan`` is offered: candidates then have a ``load``."""
    inverts: ClassVar[bool] = True
    """Whether ``--real`` is offered, which inverts data to noise."""
    mend: ClassVar[str] = "Loosen the filter, or sample with a better network or more steps."

    def flags(self, parser: Parser) -> None:
        """Add the flags of every domain around the domain's own."""
        add = parser.group("input and output")
        add("shards", metavar="SHARDS", nargs=None if self.needs_data else "?", help=self.takes)
        add("-o", "--out", required=True, metavar="PAIRS", help="The folder to write.")
        add(
            "--num",
            type=positive,
            help=f"How many pairs to try in all; {NUM} if absent"
            f"{', and with --real every record' if self.inverts else ''}.",
        )
        if self.inverts:
            real = "Invert the train split of SHARDS to noise instead of sampling."
            add("--real", action="store_true", help=real)
        parser.set_defaults(real=False)
        add("--batch", type=positive, default=16, help="How many pairs one call makes.")
        parser.add_shard()
        parser.add_executor()
        parser.add_network(None if self.trained_by else "small")
        self.own_flags(parser)
        self.add_plan(parser)
        parser.add_overwrite()
        parser.add_json()

    @property
    def has_plan(self) -> bool:
        """Whether the candidates tell what a call comes to."""
        return self.plans

    def lighter(self, rows: int, tokens: int) -> str:
        """Return a bound of the batch."""
        return f"--batch {rows}" if rows else "a device with more memory"

    def own_flags(self, parser: Parser) -> None:
        """Add the domain's flags."""

    def _candidates(self, args: Namespace) -> Candidates:
        return self.candidates(args, self.load(args))

    @abstractmethod
    def candidates(self, args: Namespace, pipe: Any) -> Candidates:
        """Return what makes the pairs that the flags ask for."""

    def run(self, args: Namespace) -> int:
        """Make what an earlier call with the same flags did not.

        Raises
        ------
        ValueError
            When no pair is kept.
        """
        if args.plan:
            args.executor = Here()
        pipe = self.load_to_describe(args)
        made = self.candidates(args, pipe)
        if made.load is not None:
            num = made.num or NUM
            loads = [replace(made.load, batches=-(-num // args.batch))]
            if args.plan:
                return self.tell_plan(args, pipe, loads, f"{num} pairs")
            self.require_room(pipe, lambda: loads)
        described = {
            key: value for key, value in pipe.describe().items() if key not in ("weights", "device")
        }
        is_here = args.executor.is_here
        making = _Making(Loading(partial(self._candidates, args), made if is_here else None))
        counts = generate_pairs(
            making.sample,
            args.out,
            num=made.num or NUM,
            batch=args.batch,
            seed=args.seed,
            shard=args.shard,
            keep=None if made.keep is None else making.keep,
            metadata={**described, "real": args.real, **made.told},
            shard_size=max(args.batch, 64),
            progress=sys.stderr.isatty() and not args.json,
            overwrite=args.overwrite,
            executor=args.executor,
        )
        store = PairStore(args.out)
        document = {
            "folder": args.out,
            "counts": counts,
            "pairs": len(store),
            "complete": store.is_complete,
        }
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        lines = [f"{told}; {len(store)} pairs in {args.out}"]
        if not store.is_complete:
            lines.append("other shards are still to be done")
        elif len(store):
            lines.append(
                f"next: rectiflow {self.domain} reflow data.dir={args.out} weights={args.weights}"
            )
        answer(document, "\n".join(lines), as_json=args.json)
        if store.is_complete and not len(store):
            raise ValueError(f"no pair was kept, got {store.rejected}; expected some. {self.mend}")
        return 0


@dataclass(frozen=True)
class _Making:
    """Makes and judges candidates, loading what does when it is first asked to."""

    made: Loading[Candidates]

    def sample(self, indices: list[int]) -> Sequence[Pair]:
        """Sample candidates."""
        return self.made().sample(indices)

    def keep(self, pair: Pair) -> Verdict:
        """Judge one."""
        judge = self.made().keep
        assert judge is not None
        return judge(pair)
