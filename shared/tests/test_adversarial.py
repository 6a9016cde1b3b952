"""AdversarialTraining: two optimisers, one run folder; also a script for the test to kill."""

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from rectiflow.training import (
    AdversarialTraining,
    RunFolder,
    network_weights,
    read_checkpoint,
    read_metrics,
)
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import KillAt, tiny_data, tiny_run

RATE = 0.125


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Duel(nn.Module):
    """Generator loss (w - m)² - d w and discriminator loss d² + 2 d (w - m), m the batch's mean.

    Every gradient has a closed form: 2 (w - m) - d in w, and 2 d + 2 (w - m) in d.
    """

    def __init__(self, start=0, spoil=None, scale=1.0):
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        self.discriminator = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.network.weight, 0.5)
        nn.init.constant_(self.discriminator.weight, 0.25)
        self.start, self.spoil, self.scale = start, spoil or {}, scale
        self.seen = []

    def forward(self, batch, generator):
        return {"loss": (self.network.weight - batch["x1"].mean()).square().sum()}

    def generator_loss(self, batch, step, generator):
        w, d = self.network.weight, self.discriminator.weight
        assert int(batch["step"]) == step
        assert w.requires_grad
        assert not d.requires_grad
        self.seen.append(("generator", step, torch.rand((), generator=generator).item()))
        loss = self.scale * ((w - batch["x1"].mean()).square() - d * w).sum()
        return {"loss": loss * self.spoil.get(("generator", step), 1.0), "w": w.sum()}

    def discriminator_loss(self, batch, step, generator):
        if step < self.start:
            return None
        w, d = self.network.weight, self.discriminator.weight
        assert d.requires_grad
        assert not w.requires_grad
        self.seen.append(("discriminator", step, torch.rand((), generator=generator).item()))
        loss = self.scale * (d.square() + 2 * d * (w - batch["x1"].mean())).sum()
        return {"loss": loss * self.spoil.get(("discriminator", step), 1.0)}


class NoisyDuel(nn.Module):
    """Networks with dropout and with noise from the generator: nothing to solve by hand."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Dropout(0.2), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(
            nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.SiLU(), nn.Linear(8, 1)
        )
        self.logvar = nn.Parameter(torch.zeros(()))

    def make(self, batch, generator):
        return self.network(torch.randn(batch["x1"].shape, generator=generator))

    def forward(self, batch, generator):
        return {"loss": (self.make(batch, generator) - batch["x1"]).square().mean()}

    def generator_loss(self, batch, step, generator):
        made = self.make(batch, generator)
        error = (made - batch["x1"]).square().mean() * torch.exp(-self.logvar) + self.logvar
        return {"loss": error - self.discriminator(made).mean()}

    def discriminator_loss(self, batch, step, generator):
        if step < 3:
            return None
        with torch.no_grad():
            made = self.make(batch, generator)
        real, fake = self.discriminator(batch["x1"]), self.discriminator(made)
        return {"loss": (1 - real).relu().mean() + (1 + fake).relu().mean()}


def noisy_training():
    torch.manual_seed(0)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=100)
    return AdversarialTraining(
        NoisyDuel(),
        partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.9)),
        scheduler=schedule,
        discriminator_scheduler=schedule,
        ema=[0.99],
        grad_clip=1.0,
        seed=3,
    )


def duel_training(ema=(), grad_clip=None, optimizer=torch.optim.SGD, **objective):
    return AdversarialTraining(
        Duel(**objective), partial(optimizer, lr=RATE), ema=ema, grad_clip=grad_clip
    )


def duel_run(folder, training, **options):
    return tiny_run(folder, training=training, **{"accumulate": 1, **options})[0]


def weights(training):
    duel = training.objective
    return duel.network.weight.item(), duel.discriminator.weight.item()


def means(count):
    """Return the mean of each of the first batches."""
    data = tiny_data()
    source, records = data.batches, data.dataset
    batches = [*source.batches(0), *source.batches(1)][:count]
    return [torch.stack([records[i]["x1"] for i in batch]).mean().item() for batch in batches]


class Keep(Callback):
    """Keeps what both optimisers and the averages hold after each step."""

    def __init__(self):
        self.after = {}

    def on_train_batch_end(self, trainer, training, *_):
        kept = [held(optimizer) for optimizer in trainer.optimizers]
        averages = [value.clone() for ema in training.averages for value in ema.average.values()]
        self.after[trainer.global_step] = [*kept, averages]


def held(optimizer):
    """Return an optimiser's parameters and moments."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = [v for state in optimizer.state.values() for v in state.values()]
    return [value.detach().clone() for value in (*parameters, *moments)]


def same(first, second):
    return len(first) == len(second) and all(map(torch.equal, first, second))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_have_a_closed_form(tmp_path, accumulate):
    """Two steps, each with gradients of the parameters before it, means over micro-batches."""
    training = duel_training()
    folder = duel_run(tmp_path, training, max_steps=2, accumulate=accumulate)
    w, d = 0.5, 0.25
    found = means(2 * accumulate)
    for step in range(2):
        m = math.fsum(found[step * accumulate : (step + 1) * accumulate]) / accumulate
        w, d = w - RATE * (2 * (w - m) - d), d - RATE * (2 * d + 2 * (w - m))
    assert weights(training) == pytest.approx((w, d), rel=1e-5)
    assert training.batches_seen == 2 * accumulate
    assert read_checkpoint(folder.last)["global_step"] == 2
    assert [int(row["step"]) for row in read_metrics(folder.metrics)] == [1, 2]
    assert [seen[1] for seen in training.objective.seen] == [0] * 2 * accumulate + [1] * (
        2 * accumulate
    )


def test_draws_of_the_two_losses_differ(tmp_path):
    training = duel_training()
    duel_run(tmp_path, training, max_steps=3)
    draws = [seen[2] for seen in training.objective.seen]
    assert len(set(draws)) == 6


def test_discriminator_waits_for_its_start(tmp_path):
    """Until then its weights, moments and schedule stand still; the steps go on."""
    training = duel_training(optimizer=torch.optim.Adam, start=3)
    training.make_discriminator_scheduler = partial(
        torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda n: 0.5**n
    )
    keep = Keep()
    folder = duel_run(tmp_path, training, max_steps=5, callbacks=[keep])
    assert all(len(keep.after[step][1]) == 1 for step in (1, 2, 3))
    assert keep.after[3][1][0].item() == 0.25
    assert keep.after[4][1][0].item() != 0.25
    assert training.trainer.optimizers[1].param_groups[0]["lr"] == RATE / 4
    rows = read_metrics(folder.metrics)
    assert [bool(row["train/discriminator_loss"]) for row in rows] == [False] * 3 + [True] * 2
    assert all(row["train/loss"] and row["train/w"] and row["train/grad_norm"] for row in rows)
    assert rows[-1]["train/discriminator_grad_norm"]


@pytest.mark.parametrize(("part", "other"), [("generator", 1), ("discriminator", 0)])
def test_non_finite_gradient_counts_as_zero(tmp_path, caplog, part, other):
    training = duel_training(ema=[0.9], optimizer=torch.optim.Adam, spoil={(part, 2): math.nan})
    keep = Keep()
    folder = duel_run(tmp_path, training, max_steps=4, callbacks=[keep])
    before, after, resumed = keep.after[2], keep.after[3], keep.after[4]
    assert all(torch.as_tensor(value).isfinite().all() for value in after[1 - other])
    assert not same(before[other], after[other])
    assert not same(after[1 - other], resumed[1 - other])
    assert training.skipped == 1
    assert float(read_metrics(folder.metrics)[-1]["train/skipped"]) == 1
    assert "1 gradient(s) not finite" in caplog.text


def test_gradients_are_clipped_apart(tmp_path):
    training = duel_training(grad_clip=0.5, scale=1e4)
    norms = []

    class Probe(Callback):
        def on_train_batch_end(self, trainer, training, *_):
            duel = training.objective
            norms.append([p.grad.norm().item() for p in duel.parameters()])

    duel_run(tmp_path, training, max_steps=2, callbacks=[Probe()])
    for pair in norms:
        assert pair == pytest.approx([0.5, 0.5], rel=1e-3)


def test_averages_are_of_the_network_and_are_validated_and_exported(tmp_path):
    training = duel_training(ema=[0.9])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = duel_run(tmp_path, training, max_steps=4, validate_every=2)
    average = training.averages[0].average
    assert list(average) == ["weight"]
    exported = network_weights(folder.last)
    assert exported.keys() == {"weight"}
    assert torch.equal(exported["weight"], average["weight"])
    assert not torch.equal(exported["weight"], network_weights(folder.last, None)["weight"])
    validation = [batch["x1"] for batch in training.trainer.datamodule.validation]
    losses = [len(x) * (average["weight"].item() - x.mean().item()) ** 2 for x in validation]
    expected = sum(losses) / sum(map(len, validation))
    assert float(read_metrics(folder.metrics)[-1]["val/loss"]) == pytest.approx(expected, rel=1e-5)
    assert read_checkpoint(folder.best)["global_step"] in (2, 4)


def reproduced(folder):
    names = ("step", "train/loss", "train/discriminator_loss", "train/grad_norm", "train/lr")
    return [[row[name] for name in names] for row in read_metrics(folder.metrics)]


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


def assert_same_state(a, b):
    first, second = read_checkpoint(a.last), read_checkpoint(b.last)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "flow_training"):
        assert_identical(first[part], second[part])
    assert len(first["optimizer_states"]) == len(first["lr_schedulers"]) == 2


def run_script(folder, **settings):
    """Train in a process of its own."""
    return subprocess.run(
        [sys.executable, __file__, str(folder), json.dumps(settings)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow  # the quick one is in test_resume.py
def test_killed_run_resumes_bit_by_bit(tmp_path):
    """SIGKILL in the middle of an accumulation, after a step that no checkpoint holds."""
    whole, _ = tiny_run(tmp_path / "whole", training=noisy_training(), max_steps=8)
    killed = run_script(tmp_path / "run", max_steps=8, kill_at=11)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert int(read_metrics(tmp_path / "run" / "metrics.csv")[-1]["step"]) == 5
    assert read_checkpoint(RunFolder(tmp_path / "run").last)["global_step"] == 4
    resumed, _ = tiny_run(tmp_path / "run", training=noisy_training(), max_steps=8, resume=True)
    assert reproduced(resumed) == reproduced(whole)
    assert_same_state(resumed, whole)


@pytest.mark.slow
def test_two_ranks_resume_bit_by_bit(tmp_path):
    ranks = {"devices": 2, "strategy": "ddp_find_unused_parameters_true"}
    for folder, settings in (
        ("whole", {"max_steps": 6}),
        ("cut", {"max_steps": 4}),
        ("cut", {"max_steps": 6, "resume": True}),
    ):
        done = run_script(tmp_path / folder, **ranks, **settings)
        assert done.returncode == 0, done.stderr
    whole, cut = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "cut")
    assert read_checkpoint(whole.last)["flow_training"]["layout"]["world_size"] == 2
    assert reproduced(cut) == reproduced(whole)
    assert_same_state(cut, whole)


if __name__ == "__main__":
    torch.set_num_threads(1)
    settings = json.loads(sys.argv[2])
    kill_at = settings.pop("kill_at", None)
    callbacks = [KillAt(kill_at)] if kill_at else []
    tiny_run(sys.argv[1], training=noisy_training(), callbacks=callbacks, **settings)
