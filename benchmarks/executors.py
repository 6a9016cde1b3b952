"""What it costs to hand out 10,000 tiny items: one by one, and a hundred to a task.

An item takes a tenth of a millisecond. Workers have started before the clock does, except Slurm's,
which end with their queue. The aim: once chunked, Ray takes at most three times as long as
processes.

    python benchmarks/executors.py --out benchmarks/results/executors.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from environment import environment
from rectiflow.execution import HERE, Executor, Processes, Ray, Slurm
from rectiflow.execution.ray import import_ray, start_here
from rectiflow.storage.files import write_text
from tiny_items import ITEM_S, opened

ITEMS, CHUNK, TIMES = 10_000, 100, 3.0


def seconds(executor: Executor, chunk: int, items: int) -> float:
    """Return the time from the first answer to the last, for all items but those of the first."""
    tasks = [range(i, min(i + chunk, items)) for i in range(0, items, chunk)]
    outcomes = executor.run(opened, tasks)
    next(outcomes).get()
    started = time.perf_counter()
    done = sum(outcome.get() for outcome in outcomes)
    assert done + len(tasks[0]) == items
    return time.perf_counter() - started


def main() -> None:
    """Measure every engine, tell, and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    start_here(import_ray(), args.workers, object_store_memory=100 << 20)
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Executor] = {
            "here": HERE,
            "processes": Processes(args.workers),
            "ray": Ray(args.workers),
            "slurm (local)": Slurm(args.workers, Path(folder), "local"),
        }
        found = {
            name: {str(chunk): round(seconds(engine, chunk, args.items), 3) for chunk in (1, CHUNK)}
            for name, engine in engines.items()
        }
    ratio = found["ray"][str(CHUNK)] / found["processes"][str(CHUNK)]
    told = {"items": args.items, "item_seconds": ITEM_S, "workers": args.workers}
    told |= {"seconds": found, "ray_over_processes": round(ratio, 2), "aim": TIMES}
    text = json.dumps(told | {"environment": environment()}, indent=1)
    print(text)
    if args.out is not None:
        write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
