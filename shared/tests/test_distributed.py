"""What runs on several processes gives what one gives: two gloo ranks on loopback."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from rectiflow.training import (
    AdversarialTraining,
    Ema,
    FlowData,
    FlowTraining,
    PowerDecay,
    RunFolder,
    fit,
    network_weights,
    read_checkpoint,
    read_snapshots,
)
from rectiflow.training.flow_training import mean_over_ranks
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from ranks import in_ranks
from tiny_run import tiny_run, tiny_training

TWO = {"devices": 2, "strategy": "ddp", "accumulate": 1}
ONE = {"devices": 1, "accumulate": 2}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assert_close(a: RunFolder, b: RunFolder, atol: float = 1e-6) -> None:
    """Weights, averages and counters of the last checkpoints agree."""
    for average in (None, 0, 1):
        first, second = network_weights(a.last, average), network_weights(b.last, average)
        for name, value in first.items():
            torch.testing.assert_close(value, second[name], rtol=0, atol=atol)
    counted = [read_checkpoint(run.last)["flow_training"] for run in (a, b)]
    for name in ("batches_seen", "items_seen", "skipped"):
        assert counted[0][name] == counted[1][name]


def run(folder: Path, **options) -> None:
    tiny_run(folder, **options)


def test_two_ranks_agree_with_one_process_of_the_same_global_batch(tmp_path):
    """Dropout, noise, times, clipping, averages, validation, and a change of ranks in between."""
    options = {"max_steps": 6, "validate_every": 3, "checkpoint_every": 3}
    run(tmp_path / "one", **ONE, **options)
    in_ranks(partial(run, tmp_path / "two", **TWO, **options))
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    assert_close(one, two)
    assert read_checkpoint(two.last)["flow_training"]["items_seen"] == 6 * 16
    losses = [read_checkpoint(each.best)["callbacks"] for each in (one, two)]
    bests = [state["best"] for told in losses for state in told.values()]
    assert bests[0] == pytest.approx(bests[1], abs=1e-6)

    in_ranks(partial(run, tmp_path / "first", **TWO, **{**options, "max_steps": 3}))
    run(tmp_path / "first", **ONE, **options, resume=True)
    assert_close(one, RunFolder(tmp_path / "first"))
    run(tmp_path / "second", **ONE, **{**options, "max_steps": 3})
    in_ranks(partial(run, tmp_path / "second", **TWO, **options, resume=True))
    assert_close(one, RunFolder(tmp_path / "second"))


def test_a_checkpoint_of_before_counts_the_batches_of_all_its_ranks(tmp_path):
    """Each rank counted its own batches, and nobody the items."""
    in_ranks(partial(run, tmp_path, **TWO, max_steps=3))
    checkpoint = torch.load(RunFolder(tmp_path).last, weights_only=True)
    state = checkpoint["flow_training"]
    del state["items_seen"]
    state["batches_seen"] //= 2
    torch.save(checkpoint, RunFolder(tmp_path).last)
    run(tmp_path, **ONE, max_steps=6, resume=True)
    run(tmp_path / "one", **ONE, max_steps=6)
    old, one = (network_weights(RunFolder(p).last, None) for p in (tmp_path, tmp_path / "one"))
    for name, value in one.items():
        torch.testing.assert_close(old[name], value, rtol=0, atol=1e-6)
    assert read_checkpoint(RunFolder(tmp_path).last)["flow_training"]["items_seen"] is None


class Square(nn.Module):
    """Loss (w - x)², whose gradient is a mean over the items."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)

    def forward(self, batch, generator):
        return {"loss": (self.network.weight - batch["x"]).square().mean()}


class Uneven:
    """Batches of six items and of two, in turn."""

    def batches(self, epoch):
        return [[0, 1, 2, 3, 4, 5], [6, 7]]


def uneven(folder: Path, **options) -> float:
    data = [{"x": torch.tensor([float(i**2)])} for i in range(8)]
    training = FlowTraining(Square(), partial(torch.optim.SGD, lr=0.5))
    told = {"max_steps": 1, "validate_every": 1, "accelerator": "cpu", "progress": False}
    fit(training, FlowData(data, Uneven(), validation(data)), folder, **told, **options)
    return training.network.weight.item()


def validation(data) -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.stack([data[i]["x"] for i in rows])} for rows in ((0, 1, 2, 3, 4), (5,))]


@pytest.mark.parametrize("where", ["two ranks", "two micro-batches"])
def test_unequal_batches_do_not_bias_the_gradient(tmp_path, where):
    """One step of rate 1/2 goes to the mean of all eight items: 17.5, not (9.17 + 42.5) / 2."""
    if where == "two ranks":
        first, second = in_ranks(partial(uneven, tmp_path, **TWO))
        assert first == second
    else:
        first = uneven(tmp_path, **ONE)
    assert first == pytest.approx(17.5, rel=1e-6)
    best = read_checkpoint(RunFolder(tmp_path).best)["callbacks"]
    expected = sum((17.5 - i**2) ** 2 for i in range(6)) / 6
    assert [s["best"] for s in best.values()] == [pytest.approx(expected, rel=1e-5)]


def test_a_sampled_metric_chooses_the_best_of_two_ranks(tmp_path):
    """Only the first process measures it; the run neither waits for ever nor saves another."""

    def evaluate(network, step, folder):
        return {"distance": {2: 3.0, 4: 1.0, 6: 2.0}[step]}

    options = {"max_steps": 6, "validate_every": 2, "monitor": "val/distance"}
    in_ranks(partial(run, tmp_path, **TWO, **options, evaluate=evaluate))
    assert read_checkpoint(RunFolder(tmp_path).best)["global_step"] == 4


def duel(folder: Path, **options) -> list[float]:
    from test_adversarial import duel_run, duel_training, weights

    training = duel_training()
    duel_run(folder, training, **{"max_steps": 4, **options})
    return list(weights(training))


def test_two_ranks_of_an_adversarial_training_agree_with_one_process(tmp_path):
    assert AdversarialTraining.reaches_all is False
    one = duel(tmp_path / "one", **ONE)
    for found in in_ranks(partial(duel, tmp_path / "two", **TWO)):
        assert found == pytest.approx(one, abs=1e-6)


class Blocks(nn.Module):
    """A network of two blocks, as transformers are."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.last = nn.Linear(3, 2)

    def forward(self, x, t):
        h = torch.cat([x, t[:, None]], 1)
        for block in self.blocks:
            h = h + torch.tanh(block(h))
        return self.last(h)


class Layout(Callback):
    """Looks at what a process holds while it trains."""

    def on_train_batch_end(self, trainer, training, *_):
        weight = dict(training.network.named_parameters())["last.weight"]
        average = training.averages[0].average["last.weight"]
        moment = trainer.optimizers[0].state[weight]["exp_avg"]
        self.held = [tuple(each.to_local().shape) for each in (weight, average, moment)]


def sharded(folder: Path, **options) -> list:
    training = tiny_training()
    torch.manual_seed(0)
    training.objective.network = Blocks()
    training.averages = [Ema(training.network, profile) for profile in (0.9, PowerDecay(0.1))]
    training.grad_clip = 0.1
    layout = Layout()
    callbacks = [layout] if options["strategy"] == "fsdp" else []

    def evaluate(network, step, run_dir):
        (run_dir / "samples").mkdir(exist_ok=True)
        (run_dir / "samples" / "made.txt").write_text("one")
        return {"sum": float(network(torch.zeros(2, 2), torch.zeros(2)).sum().detach())}

    told = {
        "max_steps": 4,
        "validate_every": 2,
        "snapshot_every": 4,
        "evaluate": evaluate,
    } | options
    tiny_run(folder, training=training, callbacks=callbacks, **told)
    return [getattr(layout, "held", None), [p.shape for p in training.network.parameters()]]


def test_a_sharded_network_trains_as_a_whole_one(tmp_path):
    """FSDP2 on gloo: clipping, averages, checkpoints, snapshots, validation and export."""
    shared_out = {**TWO, "strategy": "fsdp"}
    in_ranks(partial(sharded, tmp_path / "whole", **TWO))
    (held, shapes), _ = in_ranks(partial(sharded, tmp_path / "parts", **shared_out))
    assert held == [(1, 3)] * 3  # of (2, 3), in each of two processes
    assert shapes == [p.shape for p in Blocks().parameters()]
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    assert_close(whole, parts)
    snapshots = [read_snapshots(each.snapshots) for each in (whole, parts)]
    assert len(snapshots[0]) == len(snapshots[1]) == 1


def test_means_are_over_what_all_ranks_have():
    assert mean_over_ranks({"a": 6.0}, {"a": 4}) == {"a": 1.5}
    told = in_ranks(_means)
    assert told == [{"a": 2.0, "b": 3.0}] * 2


def _means():
    import os

    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = mean_over_ranks(
        {"a": 5.0 + rank, **({"b": 6.0} if rank else {})},
        {"a": 1 + 3.5 * rank, **({"b": 2} if rank else {})},
    )
    torch.distributed.destroy_process_group()
    return found
