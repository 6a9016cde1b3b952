"""LPIPS: names, the distance's properties, and its files."""

import pytest
import torch
from rectiflow.storage.tensor_files import CheckpointError
from rectiflow_audio.networks.lpips import Lpips
from safetensors.torch import save_file
from torch import nn


@pytest.fixture(scope="module")
def lpips():
    """The network with weights of our own, positive in the last layers as the authors' are."""
    torch.manual_seed(0)
    made = Lpips()
    for index in range(5):
        made.get_submodule(f"lin{index}.model.1").weight.abs_()
    return made


@pytest.fixture(scope="module")
def picture():
    return torch.randn(2, 1, 32, 16, generator=torch.Generator().manual_seed(1))


def test_tensors_are_named_as_the_authors_do(lpips):
    state = lpips.state_dict()
    convolutions = {
        1: (0, 2),
        2: (5, 7),
        3: (10, 12, 14),
        4: (17, 19, 21),
        5: (24, 26, 28),
    }
    expected = {"scaling_layer.shift", "scaling_layer.scale"}
    for part, numbers in convolutions.items():
        for number in numbers:
            expected |= {f"net.slice{part}.{number}.{kind}" for kind in ("weight", "bias")}
    expected |= {f"lin{index}.model.1.weight" for index in range(5)}
    assert state.keys() == expected
    assert state["net.slice1.0.weight"].shape == (64, 3, 3, 3)
    assert state["lin4.model.1.weight"].shape == (1, 512, 1, 1)
    assert state["scaling_layer.scale"].shape == (1, 3, 1, 1)
    assert not any(p.requires_grad for p in lpips.parameters())


def test_slices_are_those_of_vgg(lpips):
    """Against the network's plan as one list of layers, which numbers them."""
    reference, width = nn.Sequential(), 3
    for wide in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512):
        if wide:
            reference.append(nn.Conv2d(width, wide, 3, padding=1)).append(nn.ReLU())
            width = wide
        else:
            reference.append(nn.MaxPool2d(2, 2))
    names = [name for name in lpips.state_dict() if name.startswith("net.")]
    reference.load_state_dict({n.split(".", 2)[2]: lpips.state_dict()[n] for n in names})
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    for features, end in zip(lpips.net(x), (4, 9, 16, 23, 30), strict=True):
        torch.testing.assert_close(features, reference[:end](x))


def test_distance_to_itself_is_zero(lpips, picture):
    assert torch.equal(lpips(picture, picture), torch.zeros(2))


def test_distance_grows_with_noise_and_is_symmetric(lpips, picture):
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(3))
    distances = torch.stack([lpips(picture, picture + s * noise) for s in (0.1, 0.3, 1.0)])
    assert (distances[0] > 0).all()
    assert (distances.diff(dim=0) > 0).all()
    torch.testing.assert_close(lpips(picture + noise, picture), distances[2])


def test_distance_of_each_sample_stands_alone(lpips, picture):
    other = picture.flip(2)
    together = lpips(picture, other)
    torch.testing.assert_close(together[:1], lpips(picture[:1], other[:1]))


def test_one_channel_stands_for_three(lpips, picture):
    other = picture.flip(2)
    wide = [each.expand(-1, 3, -1, -1) for each in (picture, other)]
    torch.testing.assert_close(lpips(picture, other), lpips(*wide))


def test_distance_is_the_weighted_square_of_unit_features(lpips, picture):
    """The formula, written out for one sample."""
    other = picture.flip(2)
    pairs = [lpips.net(lpips.scaling_layer(x[:1])) for x in (picture, other)]
    total = 0.0
    for index, (a, b) in enumerate(zip(*pairs, strict=True)):
        weights = lpips.state_dict()[f"lin{index}.model.1.weight"][0]
        difference = a / a.norm(dim=1, keepdim=True) - b / b.norm(dim=1, keepdim=True)
        total += (weights * difference[0] ** 2).sum(0).mean().item()
    assert lpips(picture, other)[0].item() == pytest.approx(total, rel=1e-4)


def test_training_mode_changes_nothing(picture):
    made = Lpips()
    other = picture.flip(2)
    assert torch.equal(made.train()(picture, other), made.eval()(picture, other))


def test_gradient_is_finite_where_all_features_are_zero(picture):
    made = Lpips()
    made.net.slice1.get_submodule("2").bias.fill_(-1e6)
    x = picture.clone().requires_grad_()
    made(x, picture + 1.0).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(
    "prefix", ["", "loss.perceptual_loss.", "first_stage_model.loss.perceptual_loss."]
)
def test_weights_come_from_the_authors_files(lpips, picture, tmp_path, prefix):
    state = {prefix + name: value for name, value in lpips.state_dict().items()}
    state["encoder.conv_in.weight"] = torch.zeros(1)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "vae.ckpt")
    loaded = Lpips.load(tmp_path / "vae.ckpt")
    assert torch.equal(loaded(picture, picture.flip(2)), lpips(picture, picture.flip(2)))


def test_weights_come_from_a_file_of_their_own(lpips, tmp_path):
    save_file(lpips.state_dict(), tmp_path / "lpips.safetensors")
    loaded = Lpips.load(tmp_path / "lpips.safetensors").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in lpips.state_dict().items())


def test_incomplete_file_is_refused(lpips, tmp_path):
    state = {
        "loss.perceptual_loss." + n: v for n, v in lpips.state_dict().items() if "lin3" not in n
    }
    torch.save({"state_dict": state}, tmp_path / "vae.ckpt")
    with pytest.raises(CheckpointError, match="lacks 1 of 33") as caught:
        Lpips.load(tmp_path / "vae.ckpt")
    assert caught.value.missing == ["lin3.model.1.weight"]


@pytest.mark.parametrize("shape", [(1, 2, 32, 32), (1, 1, 8, 32)])
def test_bad_pictures(lpips, shape):
    with pytest.raises(ValueError, match="sides of at least 16, got"):
        lpips(torch.zeros(shape), torch.zeros(shape))
