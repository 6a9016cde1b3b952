"""Generation: independent of batches and workers, resumable, filtered, honest about rejects."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from rectiflow.grids import uniform
from rectiflow.integrate import integrate, plan
from rectiflow.rectify import Pair, PairStore, Verdict, generate_pairs, sample_generator
from rectiflow.solvers import Heun
from rectiflow.storage.shards import ShardError

SEED = 5


def sample(indices):
    """Solve a small flow for a batch of candidates."""
    x0 = torch.stack([torch.randn(3, generator=sample_generator(SEED, i)) for i in indices])
    x1 = integrate(lambda x, t: torch.sin(x) - t, x0, plan(uniform(4), Heun()))
    return [Pair(i, a, b) for i, a, b in zip(indices, x0, x1, strict=True)]


def keep(pair):
    """Reject by two rules, keep the rest with a score."""
    norm = pair.x1.norm().item()
    if norm > 2.5:
        return Verdict(False, "too large")
    if pair.x1[0] < -1:
        return Verdict(False, "too low")
    return Verdict(True, scores={"norm": norm})


def generate(folder, **options):
    settings = {"num": 60, "batch": 8, "seed": SEED, "keep": keep, "progress": False, **options}
    return generate_pairs(settings.pop("sample", sample), folder, **settings)


def contents(folder):
    store = PairStore(folder, verify=True)
    return [(p.index, p.x0.tolist(), p.x1.tolist(), dict(p.scores)) for p in store]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    counts = generate(folder)
    return folder, counts, contents(folder)


def test_kept_and_rejected_add_up(reference):
    folder, counts, pairs = reference
    store = PairStore(folder)
    assert counts["kept"] == len(pairs) == len(store)
    assert set(counts) == {"kept", "rejected: too large", "rejected: too low"}
    assert sum(counts.values()) == 60
    assert store.rejected == {
        "too large": counts["rejected: too large"],
        "too low": counts["rejected: too low"],
    }
    assert min(store.rejected.values()) > 0
    judged = [keep(pair) for pair in sample(list(range(60)))]
    assert [index for index, *_ in pairs] == [i for i, v in enumerate(judged) if v.kept]


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_batch_size_does_not_matter(reference, tmp_path, batch):
    generate(tmp_path, batch=batch)
    for found, expected in zip(contents(tmp_path), reference[2], strict=True):
        assert found[:2] == expected[:2]
        torch.testing.assert_close(found[2], expected[2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_number_of_workers_does_not_matter(reference, tmp_path, workers):
    counts = [generate(tmp_path, shard=(k, workers), shard_size=4) for k in range(workers)]
    assert [found[:2] for found in contents(tmp_path)] == [each[:2] for each in reference[2]]
    assert sum(sum(each.values()) for each in counts) == 60
    assert PairStore(tmp_path).is_complete
    assert PairStore(tmp_path).rejected == PairStore(reference[0]).rejected


def test_interrupted_worker_continues(reference, tmp_path):
    calls = []

    def interrupted(indices):
        calls.append(indices)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample(indices)

    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, sample=interrupted)
    assert not PairStore(tmp_path).is_complete
    generate(tmp_path, sample=interrupted)
    assert calls[4] == calls[3]
    assert contents(tmp_path) == reference[2]
    assert PairStore(tmp_path).rejected == PairStore(reference[0]).rejected


def test_finished_worker_does_nothing_more(reference, tmp_path):
    generate(tmp_path)
    assert generate(tmp_path, sample=lambda indices: pytest.fail("called")) == reference[1]


def test_killed_worker_continues(reference, tmp_path):
    """SIGKILL after four batches; the shards written before stay, the rest is made again."""
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_generate_pairs as t\n"
        "def dying(indices):\n"
        "    if indices[0] >= 32: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return t.sample(indices)\n"
        "t.generate(sys.argv[2], sample=dying, shard_size=10)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(__file__), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    manifest = json.loads(next(tmp_path.glob("part-*/manifest.json")).read_text())
    assert manifest["progress"]["tried"] >= 16
    generate(tmp_path, shard_size=10)
    assert contents(tmp_path) == reference[2]
    assert PairStore(tmp_path).rejected == PairStore(reference[0]).rejected


def test_everything_may_be_rejected(tmp_path):
    counts = generate(tmp_path, keep=lambda pair: Verdict(False, "no"))
    assert counts == {"kept": 0, "rejected: no": 60}
    store = PairStore(tmp_path)
    assert len(store) == 0
    assert store.is_complete


def test_other_settings_are_refused(tmp_path):
    generate(tmp_path, metadata={"steps": 4})
    with pytest.raises(ShardError, match="steps is 4 there, got 8 now"):
        generate(tmp_path, metadata={"steps": 8})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": (2, 2)}, r"shard must be \(k, n\) with 0 <= k < n, got \(2, 2\)"),
        ({"batch": 0}, "num and batch must be at least 1"),
        ({"sample": lambda i: sample(i[::-1])}, "one pair per index, in order"),
        ({"sample": lambda i: sample(i[1:])}, "one pair per index, in order"),
    ],
)
def test_bad_calls(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        generate(tmp_path, **options)


def test_generators_are_independent_of_order():
    a = torch.randn(3, generator=sample_generator(1, 7))
    b = torch.randn(3, generator=sample_generator(1, 8))
    assert torch.equal(a, torch.randn(3, generator=sample_generator(1, 7)))
    assert not torch.equal(a, b)
    assert not torch.equal(a, torch.randn(3, generator=sample_generator(2, 7)))
