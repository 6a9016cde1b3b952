"""A run that was killed and resumed repeats the numbers of one that was not."""

import json
import os
import signal
import subprocess
import sys
from itertools import chain, islice
from pathlib import Path

import pytest
import torch
from rectiflow.training import Ema, RunFolder, StepStream, read_checkpoint, read_metrics
from rectiflow.training.stream import ShuffledBatches

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import tiny_data, tiny_run, tiny_training

SCRIPT = Path(__file__).with_name("tiny_run.py")
REPRODUCED = ("step", "train/loss", "train/grad_norm", "train/lr")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 20 steps without interruption."""
    return tiny_run(tmp_path_factory.mktemp("whole") / "run")


def run_script(folder, **settings):
    """Train in a process of its own."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), json.dumps(settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def reproduced(folder):
    return [[row[name] for name in REPRODUCED] for row in read_metrics(folder.metrics)]


def assert_same_state(a, b):
    """Weights, optimiser, scheduler, averages and counters agree bit by bit."""
    first, second = read_checkpoint(a.last), read_checkpoint(b.last)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "flow_training"):
        assert_identical(first[part], second[part])


def assert_identical(a, b):
    """Compare nested containers, tensors bit by bit."""
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_identical(left, right)
    else:
        assert a == b


def test_killed_run_resumes_bit_by_bit(whole, tmp_path):
    """SIGKILL in the middle of an accumulation, after steps that no checkpoint holds."""
    killed = run_script(tmp_path / "run", kill_at=27)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = read_metrics(tmp_path / "run" / "metrics.csv")
    assert int(before[-1]["step"]) == 13  # one step later than the last checkpoint, at 12

    resumed, _ = tiny_run(tmp_path / "run", resume=True)
    assert reproduced(resumed) == reproduced(whole[0])
    assert_same_state(resumed, whole[0])


@pytest.mark.slow
def test_two_ranks_resume_bit_by_bit(tmp_path):
    """Data-parallel processes draw from streams of their own, and continue them."""
    ranks = {"devices": 2, "strategy": "ddp"}
    for folder, settings in (
        ("whole", {"max_steps": 8}),
        ("cut", {"max_steps": 5}),
        ("cut", {"max_steps": 8, "resume": True}),
    ):
        done = run_script(tmp_path / folder, **ranks, **settings)
        assert done.returncode == 0, done.stderr
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    assert read_checkpoint(whole.last)["flow_training"]["layout"]["world_size"] == 2
    assert reproduced(cut) == reproduced(whole)
    assert_same_state(cut, whole)


@pytest.mark.parametrize("stop", [3, 7])
def test_longer_run_continues_a_finished_one(whole, tmp_path, stop):
    tiny_run(tmp_path, max_steps=stop)
    resumed, _ = tiny_run(tmp_path, resume=True)
    assert reproduced(resumed) == reproduced(whole[0])
    assert_same_state(resumed, whole[0])


def test_means_over_open_windows_survive(tmp_path):
    """Log windows of 5 steps that a checkpoint cuts in two."""
    straight, _ = tiny_run(tmp_path / "a", log_every=5)
    tiny_run(tmp_path / "b", log_every=5, max_steps=7)
    resumed, _ = tiny_run(tmp_path / "b", log_every=5, resume=True)
    assert reproduced(straight)[-2:] == reproduced(resumed)[-2:]
    assert reproduced(straight)[-1][1] != ""


def test_time_limit_stops_at_a_boundary_and_resumes(whole, tmp_path):
    stopped, _ = tiny_run(tmp_path, max_time_s=0.0)
    assert read_checkpoint(stopped.last)["global_step"] == 1
    resumed, _ = tiny_run(tmp_path, resume=True)
    assert reproduced(resumed) == reproduced(whole[0])
    assert_same_state(resumed, whole[0])


def test_validation_does_not_disturb_training(whole, tmp_path):
    validated, _ = tiny_run(tmp_path, validate_every=3)
    kept = [row for row in reproduced(validated) if row[1]]
    assert kept == reproduced(whole[0])
    assert_same_state(validated, whole[0])


def test_global_generator_has_no_influence(whole, tmp_path):
    training = tiny_training()
    torch.manual_seed(987)
    other, _ = tiny_run(tmp_path, training=training)
    assert reproduced(other) == reproduced(whole[0])


def test_checkpoint_holds_only_tensors_and_plain_containers(whole):
    checkpoint = torch.load(whole[0].last, weights_only=True)
    assert checkpoint["global_step"] == 20
    assert checkpoint["flow_training"]["batches_seen"] == 40


def test_seed_matters(whole, tmp_path):
    other, _ = tiny_run(tmp_path, training=tiny_training(seed=4))
    assert reproduced(other) != reproduced(whole[0])


def test_resumed_with_another_layout_warns(tmp_path, caplog):
    tiny_run(tmp_path, max_steps=2)
    tiny_run(tmp_path, resume=True, max_steps=4, training=tiny_training(seed=4))
    assert "draws differ from an uninterrupted one" in caplog.text


def test_resume_with_other_averages_is_refused(tmp_path):
    tiny_run(tmp_path, max_steps=2)
    training = tiny_training()
    training.averages.pop()
    with pytest.raises(ValueError, match="checkpoint has 2 averages, got 1 now"):
        tiny_run(tmp_path, resume=True, training=training)
    training = tiny_training()
    training.averages[0] = Ema(training.network, 0.9)
    with pytest.raises(ValueError, match=r"profile '0\.99', got '0\.9' now"):
        tiny_run(tmp_path, resume=True, training=training)


def test_run_folders_are_not_overwritten_or_imagined(whole, tmp_path):
    with pytest.raises(FileExistsError, match=r"in Python resume=True"):
        tiny_run(whole[0].path)
    with pytest.raises(FileNotFoundError, match="no checkpoint to resume from"):
        tiny_run(tmp_path, resume=True)


def test_stream_enters_at_any_batch():
    source = ShuffledBatches(23, 4, seed=2)
    stream = iter(StepStream(source))
    batches = [next(stream) for _ in range(40)]
    for start in (0, 1, 4, 5, 6, 17):
        entered = iter(StepStream(source, start_batch=start))
        assert [next(entered) for _ in range(40 - start)] == batches[start:]


def test_epochs_cover_the_data_without_repeats():
    source = ShuffledBatches(24, 4, seed=2)
    first, second = list(source.batches(0)), list(source.batches(1))
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(24))
    assert first != second


def test_ranks_share_an_epoch_out():
    source = ShuffledBatches(24, 3, seed=2)
    ranks = [islice(StepStream(source, rank=rank, world_size=2), 4) for rank in range(2)]
    seen = [index for batches in ranks for batch in batches for index in batch]
    assert sorted(seen) == list(range(24))


def test_worker_processes_keep_the_order():
    class Trainer:
        global_rank, world_size = 0, 1

        class lightning_module:
            batches_seen, items_seen = 3, None

    found = []
    for data in (tiny_data(workers=2), tiny_data()):
        data.trainer = Trainer()
        stream = iter(data.train_dataloader())
        found.append(torch.stack([next(stream)["x1"] for _ in range(8)]))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ShuffledBatches(5, 8), "cannot fill one batch of 8"),
        (lambda: StepStream(None, rank=2, world_size=2), r"rank must lie in \[0, 2\)"),
        (lambda: StepStream(ShuffledBatches(5, 2), -1), "start_batch must be at least 0, got -1"),
    ],
)
def test_bad_streams(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_empty_epoch_is_an_error():
    class Nothing:
        def batches(self, epoch):
            return []

    with pytest.raises(ValueError, match="epoch 0 has no batches"):
        next(iter(StepStream(Nothing())))
