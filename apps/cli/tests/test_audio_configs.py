"""Every audio experiment composes, and everything it names can be built."""

from __future__ import annotations

import pytest
import torch
from hydra.utils import instantiate
from rectiflow.rectify import FlowGuidedDistillation, OneStepDistillation
from rectiflow.training import AdversarialTraining
from rectiflow_audio.networks import SeparationUNet, SpectrogramVae, UNetConfig, VaeConfig
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.settings import SeparationSettings
from rectiflow_audio.training import RECIPE, network_after, settings_of
from rectiflow_cli import train
from rectiflow_cli.config_root import config_root
from rectiflow_cli.hydra_app import compose
from rectiflow_cli.targets import check_config
from rectiflow_cli.train_help import is_for

EXPERIMENTS = sorted(p.stem for p in (config_root() / "audio" / "experiment").glob("*.yaml"))
RELEASED = {
    "flowsep_audiocaps": 265_549_456 - 8 * (9 * 128 + 1),  # without the outputs that do not count
    "flowsep_audiocaps_vae": 55_376_873,
    "flowsep_audiocaps_vocoder": 13_953_825,
}
CODED = ("small", "small_adapter", "flowsep_audiocaps")
"""Those that are given an autoencoder."""
TINY = UNetConfig(8, 8, 8, (1, 2), (False, True), 1, 8, 384, 4)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A folder of weights to start from."""
    folder = tmp_path_factory.mktemp("teacher")
    settings = SeparationSettings("minilm", 0.64, 2, False, False)
    vae = SpectrogramVae(VaeConfig(4, (1, 2, 4), 1, 8, 4))
    SeparationPipeline(SeparationUNet(TINY), vae, settings=settings).save_pretrained(folder)
    return folder


def composed(name: str, teacher, *more: str):
    path = config_root() / "audio" / "experiment" / f"{name}.yaml"
    verb = "reflow" if is_for(path, "reflow") else "train"
    given = [f"experiment={name}", "data.dir=somewhere", f"weights={teacher}", *more]
    return compose("audio", verb, given)


def test_the_experiments_are_there():
    for name in ("flowsep_audiocaps", "small"):
        assert {name, f"{name}_vae", f"{name}_vocoder", f"{name}_rectify"} <= set(EXPERIMENTS)
    assert "small_distill" in EXPERIMENTS


def test_an_export_is_used_as_the_experiment_says_or_as_its_teacher(teacher):
    def settings(name: str, *more: str) -> SeparationSettings:
        return settings_of(composed(name, teacher, *more))

    own = settings("small")
    assert (own.steps, own.guidance, own.posterior_sample) == (2, 2.0, False)
    patches = settings("small_patches")
    assert (patches.guidance, patches.mask_headroom) == (1.5, 0.0)
    heard = settings("small_heard")
    assert (heard.steps, heard.guidance, heard.mask_exponent) == (2, 1.5, 0.7)
    mask = settings("small_mask")
    assert (mask.steps, mask.guidance, mask.mask_exponent) == (1, 1.0, 1.0)
    mean = settings("small_mean")
    assert (mean.steps, mean.guidance, mean.mask_exponent) == (2, 1.25, 0.85)
    assert own.window_seconds == 2.555
    published = settings("flowsep_audiocaps")
    assert (published.steps, published.guidance, published.posterior_sample) == (20, 1.0, True)
    assert settings("small_rectify") == SeparationPipeline.from_pretrained(teacher).settings
    further = settings("small", "network=pretrained", "sampling.steps=3", "sampling.guidance=null")
    assert (further.steps, further.guidance, further.window_seconds) == (3, 1.0, 0.64)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_builds_its_training(name, teacher):
    cfg = composed(name, teacher, *(["vae=tiny"] if name in CODED else []))
    check_config(cfg, (*train.KEYS, *RECIPE.keys))
    with torch.device("meta" if name in RELEASED else "cpu"):
        training = instantiate(cfg.training, _convert_="all")
    network = training.network
    if name.endswith("vocoder"):
        assert isinstance(training, AdversarialTraining)
        lengths = sum(p.numel() for n, p in network.named_parameters() if "original0" in n)
        size = sum(p.numel() for p in network.parameters()) - lengths  # of the weight norm
    else:
        size = sum(p.numel() for p in network.parameters())
    assert size == RELEASED.get(name, size)
    one_step = isinstance(training.objective, (OneStepDistillation, FlowGuidedDistillation))
    assert one_step == name.endswith(("distill", "instaflow"))
    assert len(training.averages) == len(cfg.training.ema)
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = training.make_optimizer([weight])
    if training.make_scheduler is not None:
        training.make_scheduler(optimizer)
        assert optimizer.param_groups[0]["lr"] < 0.05 * cfg.optimizer.lr
    assert instantiate(cfg.trainer).keywords["max_steps"] == cfg.trainer.max_steps


def test_published_numbers(teacher):
    cfg = composed("flowsep_audiocaps", teacher)
    assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (5e-5, 0.01)
    assert cfg.training.objective.text_dropout == 0.1
    assert cfg.training.objective.per_batch
    assert cfg.training.objective.posterior_sample
    assert cfg.data.module.rules.official
    assert cfg.data.module.window_seconds == 10.24
    assert cfg.training.ema == [0.9999]
    vae = composed("flowsep_audiocaps_vae", teacher)
    assert (vae.optimizer.lr, list(vae.optimizer.betas)) == (4.5e-5, [0.5, 0.9])
    assert vae.training.objective.start == 50_001


def test_reflow_keeps_the_teachers_codec(teacher):
    cfg = composed("small_rectify", teacher)
    objective = instantiate(cfg.training, _convert_="all").objective
    assert objective.text_dropout == 0
    kept = SeparationPipeline.from_pretrained(teacher)
    read = objective.vae.state_dict()
    for name, value in kept.vae.state_dict().items():
        assert torch.equal(read[name], value)
    read = objective.network.state_dict()
    for name, value in kept.unet.state_dict().items():
        assert torch.equal(read[name], value)


def test_a_flow_starts_from_the_weights_that_fit(teacher):
    cfg = composed("small_patches", teacher, "network=patches_after", "network.sizes.groups=8")
    network = instantiate(cfg.network, _convert_="all")
    known = SeparationPipeline.from_pretrained(teacher).unet.state_dict()
    same = {
        name
        for name, value in network.state_dict().items()
        if name in known and torch.equal(known[name], value)
    }
    # Of a network of 8 channels, one of 32 can only take what knows no width.
    assert same == {
        name
        for name, value in network.state_dict().items()
        if name in known and known[name].shape == value.shape
    }
    assert "unet.conv_in.weight" not in same
    twin = network_after(teacher, SeparationPipeline.from_pretrained(teacher).unet.sizes)
    read = twin.state_dict()
    for name, value in known.items():
        assert torch.equal(read[name], value)


@pytest.mark.parametrize("override", ["trainer=gpu4", "network=tiny", "data.module.loop=0.5"])
def test_words_of_the_command_line_win_over_the_experiment(override, teacher):
    plain, changed = composed("small", teacher), composed("small", teacher, override)
    assert plain.network.sizes.channels == 32
    assert plain.data.module.loop == 0.3
    group = override.partition("=")[0]
    if group == "trainer":
        assert (changed.trainer.devices, changed.trainer.max_steps) == (4, plain.trainer.max_steps)
    elif group == "network":
        assert changed.network.sizes.channels == 8
    else:
        assert changed.data.module.loop == 0.5
