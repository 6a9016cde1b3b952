"""Pairs: storage, regeneration of noise, data sets, mixtures, distillation objectives."""

import pytest
import torch
from rectiflow.premetrics import MeanSquared, PartWeights, RootMeanSquared
from rectiflow.rectify import (
    FlowGuidedDistillation,
    Mixed,
    OneStepDistillation,
    Pair,
    PairDataset,
    PairStore,
    generate_pairs,
    sample_generator,
)
from rectiflow.spaces import Euclidean, Product, Rotations
from torch import nn

FRAMES = Product({"trans": Euclidean(), "rot": Rotations()})
SEED = 11


def noise(generator, x1):
    """The noise of a chain as long as ``x1``."""
    n = x1["trans"].shape[0]
    return FRAMES.prior((n,), generator=generator, dtype=torch.float64)


def frame_pair(index):
    """A pair of chains whose length depends on the index."""
    generator = sample_generator(SEED, index)
    shape = {"trans": torch.empty(2 + index % 5, 3)}
    x0 = noise(generator, shape)
    x1 = FRAMES.prior((2 + index % 5,), generator=generator, dtype=torch.float64)
    return Pair(index, x0, x1, cond=torch.tensor(index % 3), scores={"plddt": index / 7})


def frame_store(folder, num=12, **options):
    def sample(indices):
        return [frame_pair(i) for i in indices]

    settings = {"num": num, "batch": 5, "seed": SEED, "progress": False, **options}
    generate_pairs(sample, folder, **settings)
    return PairStore(folder)


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_pairs_of_dict_states_are_stored_without_loss(tmp_path):
    store = frame_store(tmp_path, metadata={"solver": "heun", "steps": 100})
    assert len(store) == 12
    assert store.is_complete
    assert store.metadata["solver"] == "heun"
    for i in range(12):
        found, expected = store[i], frame_pair(i)
        assert found.index == i
        assert same_state(found.x0, expected.x0)
        assert same_state(found.x1, expected.x1)
        assert found.cond == expected.cond
        assert found.scores == expected.scores
    assert store.lengths("x1.trans") == [2 + i % 5 for i in range(12)]


def test_records_for_training_are_flat(tmp_path):
    dataset = PairDataset(frame_store(tmp_path))
    assert len(dataset) == 12
    assert sorted(dataset[3]) == ["cond", "x0.rot", "x0.trans", "x1.rot", "x1.trans"]
    assert torch.equal(dataset[3]["x0.rot"], frame_pair(3).x0["rot"])


def test_noise_is_drawn_again_from_the_seed(tmp_path):
    stored = frame_store(tmp_path / "stored")
    seeds_only = frame_store(tmp_path / "seeds", store_noise=False)
    assert seeds_only[0].x0 is None
    redrawn = PairDataset(seeds_only, noise)
    for i in range(12):
        assert same_state(redrawn[i], PairDataset(stored)[i])
    with pytest.raises(ValueError, match="stored without x0, got noise=None"):
        PairDataset(seeds_only)


def test_half_precision_states_keep_their_dtype(tmp_path):
    def sample(indices):
        return [Pair(i, torch.ones(3).half(), torch.zeros(3, dtype=torch.uint8)) for i in indices]

    generate_pairs(sample, tmp_path, num=2, batch=2, seed=0, progress=False)
    pair = PairStore(tmp_path)[1]
    assert (pair.x0.dtype, pair.x1.dtype) == (torch.float16, torch.uint8)


def test_no_pairs_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no pairs; expected part-"):
        PairStore(tmp_path)


def test_parts_of_different_sets_are_told_apart(tmp_path):
    frame_store(tmp_path, shard=(0, 2))
    with pytest.raises(ValueError, match="come from different settings"):
        frame_store(tmp_path, shard=(1, 3))


def test_incomplete_sets_are_known_to_be(tmp_path):
    assert not frame_store(tmp_path, shard=(0, 2)).is_complete
    assert frame_store(tmp_path, shard=(1, 2)).is_complete


def test_record_without_data():
    with pytest.raises(KeyError, match="record has no 'x1'"):
        Pair.from_record({"index": torch.tensor(0)})


# --- mixtures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(("n_real", "n_generated"), [(10, 90), (70, 5), (3, 3)])
def test_mixture_has_its_fraction_and_loses_nothing(fraction, n_real, n_generated):
    real = [{"x1": i} for i in range(n_real)]
    generated = [{"x1": -1 - i} for i in range(n_generated)]
    mixed = Mixed(real, generated, fraction)
    values = [mixed[i]["x1"] for i in range(len(mixed))]
    share = sum(value >= 0 for value in values) / len(values)
    assert share == pytest.approx(fraction, abs=1 / len(values))
    assert [mixed.is_real(i) for i in range(len(mixed))] == [value >= 0 for value in values]
    assert set(values) == set(range(n_real)) | {-1 - i for i in range(n_generated)}


def test_mixture_tells_where_an_item_is_from():
    real, generated = [{"x1": 0}], [{"x1": 1}, {"x1": 2}]
    mixed = Mixed(real, generated, 1 / 3)
    assert mixed.origin(0) == (real, 0)
    assert mixed.origin(2) == (generated, 1)
    with pytest.raises(IndexError, match="the mixture has 3"):
        mixed[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([{"x1": 0}], [{"x1": 0}], 1.0), r"must lie in \(0, 1\), got 1\.0"),
        (([], [{"x1": 0}], 0.5), "the real set is empty"),
        (([{"x1": 0}], [], 0.5), "the generated set is empty"),
        (([{"x1": 0}], [{"x0": 0, "x1": 0}], 0.5), r"got \['x1'\] real and \['x0', 'x1'\]"),
    ],
)
def test_bad_mixtures(arguments, message):
    with pytest.raises(ValueError, match=message):
        Mixed(*arguments)


# --- distillation -------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A velocity that is a constant, and remembers where it was asked."""

    def __init__(self, value=0.0):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.asked = []

    def forward(self, x, t, cond=None):
        self.asked.append((x, t, cond))
        return (
            {k: self.value.expand_as(v) for k, v in x.items()}
            if isinstance(x, dict)
            else (self.value.expand_as(x))
        )


def pair_batch(n=6):
    generator = torch.Generator().manual_seed(0)
    return {
        "x0": torch.randn(n, 3, generator=generator),
        "x1": torch.randn(n, 3, generator=generator),
    }


def test_one_step_distillation_asks_at_the_noise():
    network, batch = Recorder(0.5), pair_batch()
    loss = OneStepDistillation(network)(batch, torch.Generator())["loss"]
    (x, t, _), *rest = network.asked
    assert not rest
    assert torch.equal(x, batch["x0"])
    assert torch.equal(t, torch.zeros(6))
    expected = (batch["x0"] + 0.5 - batch["x1"]).square().mean()
    torch.testing.assert_close(loss, expected)


def test_any_premetric_compares_end_points():
    batch = pair_batch()
    objective = OneStepDistillation(Recorder(), RootMeanSquared())
    expected = (batch["x0"] - batch["x1"]).square().mean(1).sqrt().mean()
    torch.testing.assert_close(objective(batch, torch.Generator())["loss"], expected)


def test_grid_distillation_asks_on_the_grid_with_the_same_target():
    network, batch = Recorder(), pair_batch(400)
    times = (0.0, 0.25, 0.5, 0.75)
    loss = OneStepDistillation(network, times=times)(batch, torch.Generator().manual_seed(1))
    x, t, _ = network.asked[0]
    assert {round(each, 6) for each in t.tolist()} == set(times)
    counts = [(t == time).sum().item() for time in times]
    assert min(counts) > 60
    torch.testing.assert_close(x, batch["x0"] + t[:, None] * (batch["x1"] - batch["x0"]))
    expected = (batch["x0"] - batch["x1"]).square().mean()
    torch.testing.assert_close(loss["loss"], expected)


def test_distillation_on_frames_compares_velocities():
    class Exact(nn.Module):
        def forward(self, x, t, cond):
            return self.target

    x0 = FRAMES.prior((4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x1 = FRAMES.prior((4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    network = Exact()
    network.target = FRAMES.log(x0, x1)
    premetric = PartWeights({"trans": (1.0, MeanSquared()), "rot": (2.0, MeanSquared())})
    objective = OneStepDistillation(network, premetric, space=FRAMES)
    batch = {
        **{f"x0.{k}": v for k, v in x0.items()},
        **{f"x1.{k}": v for k, v in x1.items()},
        "cond": torch.zeros(4),
    }
    assert objective(batch, torch.Generator())["loss"] == 0
    network.target = {name: value + 1 for name, value in network.target.items()}
    assert objective(batch, torch.Generator())["loss"].item() == pytest.approx(3.0)


def test_teacher_corrects_where_the_student_leads():
    """With constant fields u and v the corrected end is x0 + t u + (1 - t) v."""
    student, teacher, batch = Recorder(0.5), Recorder(2.0), pair_batch(5000)
    objective = FlowGuidedDistillation(student, teacher, weight=0.3)
    terms = objective(batch, torch.Generator().manual_seed(1))
    (x_t, t, _), *_ = teacher.asked
    fresh = student.asked[1][0]
    assert 0.2 <= t.min() < 0.21
    assert 0.79 < t.max() <= 0.8
    torch.testing.assert_close(x_t, fresh + 0.5 * t[:, None])
    torch.testing.assert_close(terms["guided"], (1.5 * (1 - t)).square().mean())
    torch.testing.assert_close(terms["loss"], terms["pairs"] + 0.3 * terms["guided"])
    assert not torch.allclose(fresh, batch["x0"])
    terms["guided"].backward()
    # Nothing flows through the target, so the gradient is that of u alone.
    expected = 2 * (-1.5 * (1 - t)).mean()
    torch.testing.assert_close(student.value.grad, expected)
    assert teacher.value.grad is None
    assert [name for name, p in objective.named_parameters() if p.requires_grad] == [
        "network.value"
    ]


@pytest.mark.parametrize("times", [(), (1.0,), (-0.1,)])
def test_bad_times(times):
    with pytest.raises(ValueError, match=r"times must lie in \[0, 1\)"):
        OneStepDistillation(Recorder(), times=times)


def test_bad_teacher_times():
    with pytest.raises(ValueError, match="0 < t_min < t_max < 1"):
        FlowGuidedDistillation(Recorder(), Recorder(), t_min=0.9)


def test_distillation_needs_pairs():
    with pytest.raises(KeyError, match=r"no stored pair, got \['x1'\]"):
        OneStepDistillation(Recorder())({"x1": torch.zeros(2, 3)}, torch.Generator())
