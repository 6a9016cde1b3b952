"""What it takes to write, open and shuffle prepared data of 10,000 to 1,000,000 records.

    nice -n 5 python benchmarks/data_scale.py --out benchmarks/results/data_scale.json

Records are tiny, so that what is measured is what each record costs beside its data: bytes written
(of all calls that write), processor seconds, and resident memory over that of a start with ten
records. ``passed`` tells whether seconds, bytes and memory grow no faster than the records, and
whether a million records start within 5 s and 200 MB.
"""

from __future__ import annotations

import argparse
import json
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from environment import environment
from rectiflow.results import ResultFolder
from rectiflow.storage.files import write_json
from rectiflow.storage.prepared import Prepared
from rectiflow.storage.shards import ShardWriter
from rectiflow.storage.table import Columns, write_rows
from rectiflow.training.shuffle import WINDOW, shuffled_windows
from rectiflow.training.stream import DrawnBatches, step_loader
from rectiflow_protein.data.batching import PaddedBatches
from torch.utils.data import Dataset

SIZES = (10_000, 100_000, 1_000_000)
MOST_SECONDS, MOST_MEGABYTES = 5.0, 200.0
SLACK = 2.0
"""How much more than ten times may be spent on ten times the records."""


class Clips(Prepared):
    """A prepared folder of tiny clips."""

    columns: ClassVar[Columns] = {
        **dict.fromkeys(("name", "source", "label", "caption", "split"), str),
        **{"seconds": float, "length": int},
    }
    unit = "clip"


def row(i: int) -> dict[str, Any]:
    """Return what the table says of a clip: names differ, captions come from ten thousand."""
    return {
        "name": f"clip-{i:09d}",
        "source": f"folder-{i % 1000}/clip-{i:09d}.wav",
        "label": f"label-{i % 500}",
        "caption": f"a sound of kind {i % 500} in a place of kind {i // 500 % 20}",
        "split": "valid" if i % 100 == 0 else "train",
        "seconds": 10.0,
        "length": 60 + i * 7919 % 200,
    }


def cost(action: Callable[[], Any]) -> dict[str, float]:
    """Return the processor seconds and the bytes that an action writes."""
    written, since = _written(), time.process_time()
    action()
    seconds = time.process_time() - since
    return {"seconds": round(seconds, 3), "bytes": _written() - written}


def _written() -> int:
    text = Path("/proc/self/io").read_text()
    return int(dict(line.split(": ") for line in text.splitlines())["wchar"])


def write_shards(folder: Path, n: int) -> None:
    wave = torch.zeros(4, dtype=torch.int16)
    with ShardWriter(folder, {"kind": "benchmark"}) as writer:
        for i in range(n):
            writer.add({"wave": wave, "index": torch.tensor(i)}, f"clip-{i:09d}")


def write_results(folder: Path, n: int) -> None:
    results = ResultFolder(folder, {"seed": 0})
    with results.writing([]) as staged:
        for start in range(0, n, 100):
            rows = [{"name": f"{i:09d}", "files": []} for i in range(start, start + 100)]
            results.add(rows, staged, 0.0)


class Waves(Dataset[Any]):
    """Records by row and draw."""

    def __init__(self, prepared: Prepared) -> None:
        self.records, self.rows = prepared.records, prepared.some_rows("train")

    def __getitem__(self, index: tuple[int, int]) -> Any:
        return self.records[int(self.rows[index[0]])]


def start(folder: str) -> None:
    """Open a folder as a training does, load a batch, and tell what it took."""
    memory, since = _resident(), time.process_time()
    prepared = Clips(folder)
    waves = Waves(prepared)
    first = next(iter(step_loader(waves, DrawnBatches(len(waves.rows), 16))))
    told = {"seconds": time.process_time() - since, "megabytes": _resident() - memory}
    told["pickled_bytes"] = len(pickle.dumps(waves))
    captions = prepared.table["caption"][waves.rows]
    assert captions[int(first["index"][0]) % len(captions)]
    memory, since = _resident(), time.process_time()
    next(iter(PaddedBatches(prepared.table["length"][waves.rows]).batches(0)))
    told["padded_seconds"] = time.process_time() - since
    told["padded_megabytes"] = _resident() - memory
    told["peak_megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({key: round(value, 3) for key, value in told.items()}))


def _resident() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1024


def plan(n: int) -> dict[str, float]:
    """Return what the order of a whole epoch takes, and how far apart neighbours in time are."""
    since, seen = time.process_time(), 0
    for window in shuffled_windows(n, torch.Generator().manual_seed(0)):
        seen += len(window)
    assert seen == n
    return {"seconds": round(time.process_time() - since, 3), "windows": -(-n // WINDOW)}


def written(path: Path, n: int) -> dict[str, float]:
    """Return what writing a table costs; its rows are let go before the next part is measured."""
    rows = [row(i) for i in range(n)]
    return cost(lambda: write_rows(path, Clips.columns, rows))


def measure(n: int, folder: Path) -> dict[str, Any]:
    """Return all that is measured of one size."""
    clips = folder / "clips"
    told: dict[str, Any] = {"records": n, "shards": cost(lambda: write_shards(clips, n))}
    told["table"] = written(clips / "metadata.csv", n)
    told["results"] = cost(lambda: write_results(folder / "results", n))
    words = [sys.executable, __file__, "--start", str(clips)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    told["start"] = json.loads(done.stdout)
    told["order"] = plan(n)
    return told


def grows(sizes: list[dict[str, Any]], part: str, key: str, least: float) -> bool:
    """Return whether a cost grows no faster than the records; below ``least`` nothing is told."""
    values = [max(float(size[part][key]), least) for size in sizes]
    counts = [size["records"] for size in sizes]
    return all(
        b <= SLACK * a * n / m
        for a, b, m, n in zip(values, values[1:], counts, counts[1:], strict=False)
    )


def main() -> None:
    """Measure all sizes, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data_scale.json"))
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.start:
        start(args.start)
        return
    found = []
    for n in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            found.append(measure(n, Path(folder)))
        print(json.dumps(found[-1]), flush=True)
    linear = {
        f"{part} {key}": grows(found, part, key, least)
        for part, key, least in (
            *((part, "bytes", 1e5) for part in ("shards", "table", "results")),
            *((part, "seconds", 0.2) for part in ("shards", "table", "results", "start", "order")),
            *(("start", key, 20.0) for key in ("megabytes", "padded_megabytes")),
        )
    }
    last = found[-1]["start"]
    fits = last["seconds"] <= MOST_SECONDS and last["megabytes"] <= MOST_MEGABYTES
    told = {"sizes": found, "linear": linear, "start_fits": fits}
    write_json(args.out, {**told, "passed": fits and all(linear.values()), **environment()})


if __name__ == "__main__":
    main()
