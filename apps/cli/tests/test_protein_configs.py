"""Every experiment composes, and everything it names can be built."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from rectiflow.training.muon import Muon
from rectiflow_cli.config_root import config_root
from rectiflow_cli.hydra_app import compose
from rectiflow_cli.targets import check_config
from rectiflow_cli.train import KEYS
from rectiflow_cli.train_help import is_for
from rectiflow_protein.data.batching import LengthBatches, PaddedBatches
from rectiflow_protein.data.crops import CropBatches
from rectiflow_protein.data.synthetic import prepare_synthetic, synthetic_pairs
from rectiflow_protein.losses import ContactDistances, LocalDistances
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.training import RECIPE

BY_MUON = ("small_sheets", "small_sheets_rectify", "small_whole")
CROPPED = ("small_crops", "small_sheets", "small_whole")
EXPERIMENTS = sorted(p.stem for p in (config_root() / "protein" / "experiment").glob("*.yaml"))
RELEASED = 16_779_268
SMALL = 1_608_312
WIDE = 2_158_840


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data of both kinds, and weights to start from."""
    root = tmp_path_factory.mktemp("made")
    prepare_synthetic(root / "shards", num=5, min_length=60, max_length=62)
    synthetic_pairs(root / "pairs", num=3, min_length=60, max_length=62)
    ReQFlowNetwork(ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 2, 2, 4, 2, 1, 2)).save_pretrained(
        root / "teacher"
    )
    return root


def composed(name: str, made, *more: str):
    path = config_root() / "protein" / "experiment" / f"{name}.yaml"
    kind = "pairs" if is_for(path, "reflow") else "shards"
    verb = "reflow" if kind == "pairs" else "train"
    given = [f"experiment={name}", f"data.dir={made / kind}", f"weights={made / 'teacher'}", *more]
    return compose("protein", verb, given)


def test_the_published_experiments_are_there():
    assert {"small", "reqflow_scope", "reqflow_pdb"} <= set(EXPERIMENTS)
    for name in ("small", "reqflow_scope", "reqflow_pdb"):
        assert f"{name}_rectify" in EXPERIMENTS


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_builds_its_training_and_data(name, made):
    cfg = composed(name, made)
    check_config(cfg, (*KEYS, *RECIPE.keys))
    pretrained = "weights" in cfg.network
    with torch.device("cpu" if pretrained else "meta"):
        training = instantiate(cfg.training, _convert_="all")
    size = sum(p.numel() for p in training.network.parameters())
    expected = {"reqflow_scope": RELEASED, "reqflow_pdb": RELEASED, "small": SMALL}
    assert size == expected.get(name, size)
    assert len(training.averages) == len(cfg.training.ema)
    optimizer = training.make_optimizer([torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(optimizer, Muon if name in BY_MUON else torch.optim.AdamW)
    if training.make_scheduler is not None:
        training.make_scheduler(optimizer)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * cfg.optimizer.lr)
    data = instantiate(cfg.data.module, _convert_="all")
    source = data.batches
    assert next(source.batches(0))
    assert source.max_num_res_squared == cfg.data.module.batching.max_num_res_squared
    kind = LengthBatches if name.startswith("reqflow") else PaddedBatches
    assert isinstance(source, CropBatches if name in CROPPED else kind)
    assert callable(instantiate(cfg.validation, _convert_="all"))
    assert instantiate(cfg.trainer).keywords["max_steps"] == cfg.trainer.max_steps


@pytest.mark.parametrize(
    ("name", "lengths", "pairs", "auxiliary"),
    [("reqflow_scope", (60, 128), 500_000, 0.25), ("reqflow_pdb", (60, 512), 1_000_000, 0.5)],
)
def test_published_numbers(name, lengths, pairs, auxiliary, made):
    cfg = composed(name, made)
    assert (cfg.data.min_length, cfg.data.max_length) == lengths
    assert cfg.data.module.batching.max_num_res_squared == pairs
    assert cfg.data.module.by_cluster == (name == "reqflow_pdb")
    assert cfg.optimizer.lr == 1e-4
    assert cfg.optimizer.weight_decay == 0.01
    assert cfg.trainer.accumulate == 2
    for config in (cfg, composed(f"{name}_rectify", made)):
        loss = instantiate(config.training.objective.loss)
        assert (loss.auxiliary_from, loss.clamp) == (auxiliary, 5.0)
        assert config.training.objective.self_condition == 0.5
        assert config.training.ema == []
        assert config.training.grad_clip is None


def test_the_recipe_for_sheets(made):
    cfg = composed("small_sheets", made, "network=small_wide")
    loss = instantiate(cfg.training.objective.loss, _convert_="all")
    assert [type(term) for term in loss.further] == [LocalDistances, ContactDistances]
    reflow = composed("small_sheets_rectify", made).training.objective.loss
    again = instantiate(reflow, _convert_="all")
    assert [type(term) for term in again.further] == [LocalDistances, ContactDistances]
    whole = composed("small_whole", made)
    last = instantiate(whole.training.objective.loss, _convert_="all")
    assert [type(term) for term in last.further] == [LocalDistances, ContactDistances]
    batching = instantiate(whole.data.module.batching)(lengths=[60, 256])
    assert (batching.shortest, batching.longest, batching.whole) == (40, 112, 0.6)
    density = instantiate(cfg.training.objective.flow.density, _convert_="all")
    assert (density.edges, density.masses) == ([0.01, 0.15, 0.65, 0.99], [0.07, 0.43, 0.5])
    with torch.device("meta"):
        network = instantiate(cfg.network, _convert_="all")
    assert sum(p.numel() for p in network.parameters()) == WIDE
    assert cfg.edge_dtype == "bfloat16"


def test_the_recipe_of_the_shipped_checkpoint(made):
    cfg = composed("small", made)
    loss = instantiate(cfg.training.objective.loss)
    assert (loss.auxiliary_from, loss.clamp) == (0.25, 20.0)
    assert (cfg.data.min_length, cfg.data.max_length) == (40, 128)
    assert cfg.data.module.batching.max_num_res_squared == 64_000
    assert (cfg.optimizer.lr, cfg.seed, cfg.edge_dtype) == (1e-3, 0, "bfloat16")
    assert OmegaConf.to_container(cfg.training.ema) == [0.999, 0.9995]
    assert cfg.training.grad_clip == 1.0
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = instantiate(cfg.optimizer, _convert_="all")([weight])
    schedule = instantiate(cfg.training.scheduler, _convert_="all")(optimizer)
    rates = [schedule.get_last_lr()[0]]
    for _ in range(100):
        optimizer.step()
        schedule.step()
        rates.append(schedule.get_last_lr()[0])
    assert rates[0] == pytest.approx(1e-5)
    assert rates[50] == pytest.approx(0.505e-3)
    assert rates[100] == pytest.approx(1e-3)


@pytest.mark.parametrize("override", ["trainer=gpu4", "network=tiny", "data.max_length=61"])
def test_words_of_the_command_line_win_over_the_experiment(override, made):
    plain, changed = composed("small", made), composed("small", made, override)
    group, _, value = override.partition("=")
    if group == "trainer":
        assert (changed.trainer.devices, changed.trainer.max_steps) == (4, plain.trainer.max_steps)
    elif group == "network":
        assert changed.network.sizes.c_s == 32
    else:
        assert changed.data.module.filters[0].maximum == int(value)
