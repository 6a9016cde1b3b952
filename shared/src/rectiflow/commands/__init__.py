"""The frames of the commands that all domains have: a domain adds its flags and its science.

A verb is an instance of a subclass of :class:`Verb`, called with the words after its name.
What is wrong with the user's input is raised as a ValueError of one sentence.
"""

from rectiflow.commands.answers import answer, table
from rectiflow.commands.convert import Convert
from rectiflow.commands.evaluate import Evaluate, Measured
from rectiflow.commands.make import Job, Made, Make, Tick
from rectiflow.commands.methods import add_rule, add_sampler, sampling_of
from rectiflow.commands.pairs import Candidates, Pairs
from rectiflow.commands.parser import (
    Parser,
    device_kind,
    executor_of,
    fractions_of,
    pick_device,
    positive,
    shard_of,
    words,
)
from rectiflow.commands.prepare import Prepare
from rectiflow.commands.progress import counter, progress
from rectiflow.commands.tune import Batch, Tune
from rectiflow.commands.verb import Verb

__all__ = [
    "Batch",
    "Candidates",
    "Convert",
    "Evaluate",
    "Job",
    "Made",
    "Make",
    "Measured",
    "Pairs",
    "Parser",
    "Prepare",
    "Tick",
    "Tune",
    "Verb",
    "add_rule",
    "add_sampler",
    "answer",
    "counter",
    "device_kind",
    "executor_of",
    "fractions_of",
    "pick_device",
    "positive",
    "progress",
    "sampling_of",
    "shard_of",
    "table",
    "words",
]
