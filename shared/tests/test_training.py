"""FlowTraining: steps, skips, logs, validation, checkpoints, run folders."""

import json
import logging
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
from rectiflow.couplings import Annealed, LinearAnnealing, MinibatchOT, Paired
from rectiflow.flow import Flow
from rectiflow.randomness import counter_generator, counter_seed
from rectiflow.sources import Normal
from rectiflow.storage.records import flatten_state, state_of
from rectiflow.training import (
    FlowObjective,
    FlowTraining,
    PowerDecay,
    RunFolder,
    ShuffledBatches,
    network_weights,
    read_checkpoint,
    read_metrics,
    read_snapshots,
    reconstruct,
    step_loader,
)
from rectiflow.training.meter import Meter
from rectiflow.training.metrics_csv import MetricsCsv
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parent))
from tiny_run import TinyVelocity, tiny_run


class Quadratic(nn.Module):
    """Loss (w - mean(x1))², so that every step has a closed form."""

    def __init__(self, spoil=(), scale=1.0, by=math.nan):
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.network.weight)
        self.spoil, self.scale, self.by = spoil, scale, by
        self.seen = []

    def forward(self, batch, generator):
        step = int(batch["step"])
        self.seen.append((step, torch.rand((), generator=generator).item(), self.training))
        loss = self.scale * (self.network.weight - batch["x1"].mean()).square().sum()
        if step in self.spoil and self.training:
            loss = loss * self.by
        return {"loss": loss, "twice": 2 * loss}


def quadratic_training(ema=(), grad_clip=None, **objective):
    return FlowTraining(
        Quadratic(**objective), partial(torch.optim.AdamW, lr=0.1), ema=ema, grad_clip=grad_clip
    )


def logged(folder, name):
    rows = read_metrics(folder.metrics)
    return {int(row["step"]): float(row[name]) for row in rows if row.get(name)}


def test_training_learns_and_logs(tmp_path):
    folder, training = tiny_run(tmp_path, max_steps=150, log_every=10, config="seed: 3\n")
    losses = logged(folder, "train/loss")
    assert list(losses) == list(range(10, 151, 10))
    assert sum(losses[step] for step in (110, 120, 130, 140, 150)) / 5 < losses[10]
    assert logged(folder, "train/lr")[50] < 1e-2
    assert logged(folder, "train/samples_per_s")[150] > 0
    assert logged(folder, "train/skipped")[150] == 0
    assert folder.config.read_text() == "seed: 3\n"
    assert json.loads(folder.version.read_text())["libraries"]["torch"] == torch.__version__
    assert list(folder.tensorboard.glob("events.*"))
    assert training.batches_seen == 300


@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_gradient_that_is_not_finite_counts_as_zero(tmp_path, caplog, grad_clip):
    """Weights, moments and averages are those of a run whose loss is constant in these steps."""

    def final(name, **objective):
        training = quadratic_training(ema=[0.9], grad_clip=grad_clip, **objective)
        folder, _ = tiny_run(tmp_path / name, training=training, max_steps=8, accumulate=1)
        moments = training.trainer.optimizers[0].state[training.network.weight]
        average = training.averages[0].average["weight"]
        return training, folder, [training.network.weight, average, *moments.values()]

    spoiled, folder, found = final("spoiled", spoil=(3, 4))
    wanted = final("zero", spoil=(3, 4), by=0.0)[2]
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not torch.equal(found[0], final("whole")[2][0])
    assert spoiled.skipped == 2
    assert read_checkpoint(folder.last)["flow_training"]["skipped"] == 2
    assert logged(folder, "train/skipped")[8] == 2
    assert "gradient(s) not finite" in caplog.text


def test_step_never_reads_the_device(tmp_path):
    """No operation of the optimiser step copies a number to the host."""
    training, seen = quadratic_training(grad_clip=1.0), []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    weight = training.network.weight
    weight.grad = torch.ones_like(weight)
    with Reads():
        training.tame(torch.optim.SGD([weight], lr=0.1), "grad_norm")
    assert seen
    assert not [name for name in seen if "local_scalar" in name]


def test_gradients_are_clipped_to_the_global_norm(tmp_path):
    training = quadratic_training(grad_clip=0.5, scale=1e4)
    norms = []

    class Probe(Callback):
        def on_train_batch_end(self, trainer, training, *_):
            norms.append(training.network.weight.grad.norm().item())

    options = {"max_steps": 3, "accumulate": 1, "callbacks": [Probe()]}
    folder, _ = tiny_run(tmp_path, training=training, **options)
    assert norms == pytest.approx([0.5] * 3, rel=1e-3)
    assert min(logged(folder, "train/grad_norm").values()) > 0.5


def test_accumulated_step_equals_the_mean_gradient(tmp_path):
    """Two micro-batches per step: the first gradient is that of the mean loss."""
    training = quadratic_training()
    folder, _ = tiny_run(tmp_path, training=training, max_steps=1, accumulate=2)
    assert training.batches_seen == 2
    assert [seen[0] for seen in training.objective.seen] == [0, 0]
    assert training.objective.seen[0][1] != training.objective.seen[1][1]
    assert logged(folder, "train/twice")[1] == pytest.approx(2 * logged(folder, "train/loss")[1])


def test_draws_depend_on_seed_rank_and_micro_step_only():
    key = (3, 0, 17)
    first = torch.rand(4, generator=counter_generator("train", *key))
    torch.rand(100)
    assert torch.equal(first, torch.rand(4, generator=counter_generator("train", *key)))
    seeds = {counter_seed(s, r, m) for s in range(5) for r in range(5) for m in range(20)}
    assert len(seeds) == 500
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_validation_uses_averages_and_fixed_noise(tmp_path):
    """Equal weights give equal validation losses; the average is what is validated."""
    training = quadratic_training(ema=[0.9])
    folder, _ = tiny_run(tmp_path, training=training, max_steps=6, validate_every=2, accumulate=1)
    validated = [seen for seen in training.objective.seen if not seen[2]]
    assert [seen[1] for seen in validated[:2]] == [seen[1] for seen in validated[2:4]]
    assert training.objective.training
    average = training.averages[0].average["weight"].item()
    means = [batch["x1"].mean().item() for batch in training.trainer.datamodule.validation]
    expected = (8 * (average - means[0]) ** 2 + 4 * (average - means[1]) ** 2) / 12
    assert logged(folder, "val/loss")[6] == pytest.approx(expected, rel=1e-5)


def test_frozen_parts_keep_their_mode(tmp_path):
    training = quadratic_training()
    training.objective.teacher = nn.Dropout().eval()
    tiny_run(tmp_path, training=training, max_steps=2, validate_every=1)
    assert not training.objective.teacher.training
    assert training.network.training


def test_evaluation_gets_averaged_network_and_its_metrics_choose_the_best(tmp_path):
    seen = []

    def evaluate(network, step, run_dir):
        assert not network.training
        (run_dir / "samples" / f"{step}.txt").write_text("picture")
        seen.append((step, network.weight.item()))
        return {"distance": {2: 3.0, 4: 1.0, 6: 2.0}[step]}

    training = quadratic_training(ema=[0.9])
    folder, _ = tiny_run(
        tmp_path,
        training=training,
        max_steps=6,
        accumulate=1,
        validate_every=2,
        evaluate=evaluate,
        monitor="val/distance",
    )
    assert [step for step, _ in seen] == [2, 4, 6]
    assert seen[-1][1] == training.averages[0].average["weight"].item()
    assert seen[-1][1] != training.network.weight.item()
    assert logged(folder, "val/distance") == {2: 3.0, 4: 1.0, 6: 2.0}
    assert read_checkpoint(folder.best)["global_step"] == 4
    assert read_checkpoint(folder.last)["global_step"] == 6
    assert len(list(folder.samples.iterdir())) == 3


def test_best_is_remembered_over_a_resume(tmp_path):
    def worse(network, step, run_dir):
        return {"distance": float(step)}

    options = {"validate_every": 2, "evaluate": worse, "monitor": "val/distance"}
    tiny_run(tmp_path, max_steps=4, **options)
    folder, _ = tiny_run(tmp_path, max_steps=8, resume=True, **options)
    assert read_checkpoint(folder.best)["global_step"] == 2


def test_network_weights_are_averaged_or_raw(tmp_path):
    folder, training = tiny_run(tmp_path, max_steps=5)
    raw, averaged = network_weights(folder.last, None), network_weights(folder.last)
    assert raw.keys() == training.network.state_dict().keys()
    name = "layers.0.weight"
    assert torch.equal(raw[name], training.network.state_dict()[name])
    assert torch.equal(averaged[name], training.averages[0].average[name])
    assert not torch.equal(raw[name], averaged[name])
    with pytest.raises(ValueError, match="has 2 moving averages, got average=2"):
        network_weights(folder.last, 2)


def test_snapshots_are_stored_and_reconstructed(tmp_path):
    training = quadratic_training(ema=[PowerDecay(0.05), PowerDecay(0.1), 0.9])
    folder, _ = tiny_run(tmp_path, training=training, max_steps=9, snapshot_every=4)
    snapshots = read_snapshots(folder.snapshots)
    assert [each.updates for each in snapshots] == [4, 4, 8, 8, 9, 9]
    found = reconstruct(snapshots, 0.1)["weight"]
    torch.testing.assert_close(found, training.averages[1].average["weight"], rtol=1e-4, atol=1e-5)


def test_snapshots_need_a_power_average(tmp_path):
    with pytest.raises(ValueError, match="needs a power-function average"):
        tiny_run(tmp_path, training=quadratic_training(ema=[0.9]), snapshot_every=4)


def test_run_is_quiet(tmp_path, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_run(tmp_path, max_steps=2)
    assert logging.getLogger("lightning.pytorch").level != logging.ERROR
    out, err = capfd.readouterr()
    assert out == ""
    assert err == ""


def test_progress_bar_shows_steps(tmp_path, capfd):
    tiny_run(tmp_path, max_steps=4, progress=True)
    assert "4/4" in capfd.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_finishes_its_step_and_saves(tmp_path, number):
    """The signal comes during the first of two micro-batches of step 7."""

    class Interrupt(Callback):
        def on_train_batch_start(self, trainer, training, *_):
            if training.batches_seen == 12:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as caught:
        tiny_run(tmp_path, checkpoint_every=1000, max_steps=1000, callbacks=[Interrupt()])
    assert caught.value.code == 128 + number
    assert signal.getsignal(number) is before
    assert read_checkpoint(RunFolder(tmp_path).last)["global_step"] == 7


def test_flow_objective_takes_stored_noise_and_refuses_to_lose_it():
    network, generator = TinyVelocity(dropout=0.0), torch.Generator().manual_seed(0)
    objective = FlowObjective(network, Flow(coupling=Paired()))
    batch = {"x0": torch.randn(5, 2), "x1": torch.randn(5, 2)}
    assert objective(batch, generator)["loss"].ndim == 0
    with pytest.raises(ValueError, match="Paired needs the stored noise"):
        objective({"x1": batch["x1"]}, generator)
    with pytest.raises(KeyError, match="batch has no data 'x1'"):
        objective({"y": batch["x1"]}, generator)


def test_optimal_pairs_are_made_where_batches_are_loaded_and_resume(tmp_path):
    """The step gets paired noise; the noise of a batch depends on its number alone."""
    seen = {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer, training, batch, *_):
            seen.setdefault(training.batches_seen, []).append(batch)

    def run(folder, **options):
        torch.manual_seed(0)
        flow = Flow(coupling=MinibatchOT(), source=Normal(scale=2.0))
        training = FlowTraining(
            FlowObjective(TinyVelocity(), flow), partial(torch.optim.AdamW, lr=0.01)
        )
        return tiny_run(tmp_path / folder, training=training, callbacks=[Keep()], **options)[0]

    whole = run("whole", max_steps=4)
    run("cut", max_steps=2)
    cut = run("cut", max_steps=4, resume=True)
    assert logged(cut, "train/loss") == logged(whole, "train/loss")
    assert sorted(seen) == list(range(8))
    for first, *others in seen.values():
        assert torch.equal(MinibatchOT().assign(first["x0"], first["x1"]), first["x0"])
        assert all(torch.equal(first["x0"], other["x0"]) for other in others)
    assert not torch.equal(seen[0][0]["x0"], seen[1][0]["x0"])


@pytest.mark.parametrize("workers", [0, 2])
def test_numbered_batches_are_those_of_the_plain_loader(workers):
    data, source = [{"x1": torch.tensor(i)} for i in range(10)], ShuffledBatches(10, 3)
    plain = iter(step_loader(data, source, start_batch=2))
    finished = iter(step_loader(data, source, start_batch=2, finish=number, num_workers=workers))
    for expected in range(2, 8):
        batch = next(finished)
        assert batch["number"] == expected
        assert torch.equal(batch["x1"], next(plain)["x1"])


def number(batch, at):
    return {**batch, "number": torch.tensor(at)}


def test_annealing_follows_the_training_step():
    network = TinyVelocity(dropout=0.0)
    objective = FlowObjective(network, Flow(coupling=Annealed(LinearAnnealing(10))))
    batch = {"x0": torch.randn(64, 2), "x1": torch.randn(64, 2)}
    paired = FlowObjective(network, Flow(coupling=Paired()))

    def loss(step, used=objective):
        generator = torch.Generator().manual_seed(0)
        return used({**batch, "step": torch.tensor(step)}, generator)["loss"].item()

    assert loss(0) != loss(5)
    assert loss(10) == loss(10, paired)


def test_dict_states_are_flat_in_batches():
    state = {"trans": torch.zeros(2, 3), "rot": torch.ones(2, 4)}
    flat = flatten_state("x1", state) | flatten_state("x0", torch.zeros(2))
    assert sorted(flat) == ["x0", "x1.rot", "x1.trans"]
    assert state_of(flat, "x1") == state
    assert state_of(flat, "x0") is flat["x0"]
    assert state_of(flat, "cond") is None


def test_meter_leaves_non_finite_values_out():
    meter = Meter()
    for value in (1.0, math.nan, 3.0):
        meter.add({"loss": torch.tensor(value)})
    meter.add({"bad": torch.tensor(math.inf)})
    means = meter.flush()
    assert means["loss"] == 2.0
    assert math.isnan(means["bad"])
    assert list(meter.flush()) == ["samples_per_s"]


def test_metrics_file_grows_columns_and_forgets_later_steps(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsCsv(path)
    first.log_metrics({"a": 1.0}, 1)
    first.log_metrics({"a": 2.0, "b": 0.1}, 2)
    first.log_metrics({"b": 3.0}, 3)
    with path.open("a") as file:
        file.write("4,5")  # cut short by a kill
    second = MetricsCsv(path, start_step=2)
    second.log_metrics({"a": 7.0, "c": 1.0}, 3)
    assert path.read_text().splitlines() == ["step,a,b,c", "1,1.0,,", "2,2.0,0.1,", "3,7.0,,1.0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
        ({"snapshot_every": 0}, "snapshot_every must be at least 1"),
    ],
)
def test_bad_intervals(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_run(tmp_path, **options)


def test_bad_clip():
    with pytest.raises(ValueError, match="grad_clip must be positive"):
        quadratic_training(grad_clip=0.0)


def test_half_precision_training_runs(tmp_path):
    folder, training = tiny_run(tmp_path, max_steps=3, precision="bf16-mixed")
    assert training.network.layers[0].weight.dtype == torch.float32
    assert logged(folder, "train/skipped")[3] == 0


def test_importing_the_package_does_not_import_lightning():
    code = "import sys, rectiflow.training, rectiflow.rectify; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_schedule_refuses_points_out_of_order():
    from rectiflow.training.schedules import piecewise_linear

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError, match="in the order of their steps"):
        piecewise_linear(optimizer, [(5, 1.0), (4, 0.0)])


def test_schedule_jumps_where_two_points_share_a_step():
    from rectiflow.training.schedules import piecewise_linear

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = piecewise_linear(optimizer, [(0, 1.0), (2, 0.0), (2, 0.5), (4, 0.0)])
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [2.0, 1.0, 1.0, 0.5, 0.0, 0.0]
