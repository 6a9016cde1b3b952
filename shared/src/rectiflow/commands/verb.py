"""What every command is."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from argparse import Namespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from rectiflow.commands.methods import of_checkpoint
from rectiflow.commands.parser import Parser, executor_of, pick_device

if TYPE_CHECKING:
    from rectiflow.pipeline import Pipeline


class Verb(ABC):
    """A command: called with the words after its name, returns an exit code.

    The docstring of a subclass is what help says of it; ``examples`` are words that follow the
    verb.
    """

    domain: ClassVar[str]
    name: ClassVar[str]
    examples: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def flags(self, parser: Parser) -> None:
        """Add the flags."""

    @abstractmethod
    def run(self, args: Namespace) -> int:
        """Do what the flags ask, and return an exit code."""

    def parser(self) -> Parser:
        """Return what reads the words."""
        parser = Parser(self.domain, self.name, self.__doc__, self.examples)
        self.flags(parser)
        return parser

    def __call__(self, argv: list[str]) -> int:
        """Run it with the words after its name."""
        args = self.parser().parse_args(argv)
        args.words = [self.domain, self.name, *argv]
        if hasattr(args, "on"):
            args.executor = executor_of(args.on, args.workers, getattr(args, "device", "cpu"))
        return self.run(args)


class PipelineVerb(Verb):
    """A command that runs a pipeline."""

    pipeline: ClassVar[str]
    """Where the domain's pipeline is, ``"module:Class"``: it is imported when it is used."""

    trained_by: ClassVar[str] = ""
    """Where no such weights ship, the words that train some; then ``--weights`` must be given."""

    def kind(self) -> type[Pipeline]:
        """Return the domain's pipeline."""
        module, _, name = self.pipeline.partition(":")
        return getattr(importlib.import_module(module), name)

    def load(self, args: Namespace) -> Any:
        """Load the pipeline that the flags name, where and as they say.

        Raises
        ------
        ValueError
            When no weights are given and none ship.
        """
        if args.weights is None:
            raise ValueError(
                "no weights are given and none of this kind ship; expected --weights RUN. Train "
                f"some with `rectiflow {self.domain} {self.trained_by}`."
            )
        pipe = self.kind().from_pretrained(
            args.weights, device=pick_device(args.device), dtype=getattr(torch, args.dtype)
        )
        for path, weight in args.adapter:
            pipe.adapt(path, weight)
        of_checkpoint(args, pipe.folder)
        return pipe.compile() if args.compile else pipe

    def load_to_describe(self, args: Namespace) -> Any:
        """Load the pipeline, off the devices where others are going to run it."""
        if args.executor.is_here:
            return self.load(args)
        pipe = self.load(Namespace(**{**vars(args), "device": "cpu"}))
        of_checkpoint(args, pipe.folder)
        return pipe

    def describe(self, args: Namespace, pipe: Any) -> dict[str, Any]:
        """Return what the pipeline tells of itself, with the device that runs it."""
        own = {} if args.executor.is_here else {"device": args.device}
        return pipe.describe() | own
