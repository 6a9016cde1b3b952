"""Where the tasks of a batch run: in this process, in others, on Ray, on Slurm.

::

    with closing(Processes(4).run(open, tasks)) as outcomes:
        for outcome in outcomes:                     # as they end, in no order
            value = outcome.get()

``open`` can be pickled, is called once by every worker (it loads the model) and returns what does
one task. A task writes its files whole, then answers, and may be done again: a worker that is
killed costs its task a retry, and a task that ends its worker three times is reported and left out.
Tasks are cut by the items, never by the workers, so that every engine makes the same bytes.
"""

from rectiflow.execution.executor import (
    HERE,
    TRIES,
    Executor,
    Here,
    Loading,
    LostError,
    Open,
    Outcome,
    TaskError,
    worker_number,
)
from rectiflow.execution.processes import Processes
from rectiflow.execution.ray import Ray
from rectiflow.execution.slurm import Slurm

__all__ = [
    "HERE",
    "TRIES",
    "Executor",
    "Here",
    "Loading",
    "LostError",
    "Open",
    "Outcome",
    "Processes",
    "Ray",
    "Slurm",
    "TaskError",
    "worker_number",
]
