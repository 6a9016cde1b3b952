"""The autoencoder's losses: every term against its formula, and trainings of seconds."""

import math
from functools import partial

import pytest
import torch
from rectiflow.training import (
    AdversarialTraining,
    FlowData,
    FlowTraining,
    ShuffledBatches,
    fit,
    network_weights,
    read_metrics,
)
from rectiflow.training.adversarial import adaptive_weight, hinge_loss
from rectiflow_audio.frontend import LogMel, MelConfig
from rectiflow_audio.networks.discriminators import PatchDiscriminator
from rectiflow_audio.networks.vae import SpectrogramVae, VaeConfig
from rectiflow_audio.vae_objective import (
    AdversarialVaeObjective,
    VaeObjective,
)
from torch import nn

SIZES = VaeConfig(channels=8, multipliers=(1, 2), blocks=1, latent_channels=2, groups=4)
MEL = MelConfig(n_fft=256, hop=64, n_mels=16)


pytestmark = pytest.mark.usefixtures("one_thread")


class MeanSquare(nn.Module):
    """Stands for LPIPS."""

    def forward(self, x, y):
        return (x - y).square().mean((1, 2, 3))


def small_vae():
    torch.manual_seed(0)
    return SpectrogramVae(SIZES)


def plain(**options):
    return VaeObjective(small_vae(), LogMel(MEL), **options)


def adversarial(**options):
    vae = small_vae()
    return AdversarialVaeObjective(vae, PatchDiscriminator(4, 1), log_mel=LogMel(MEL), **options)


@pytest.fixture
def batch():
    waves = 0.1 * torch.randn(2, 2000, generator=torch.Generator().manual_seed(1))
    return {"target": waves, "step": torch.tensor(0)}


def generator():
    return torch.Generator().manual_seed(5)


def test_loss_is_the_sum_of_its_formula(batch):
    """L1 and a perceptual distance over exp(logvar), per element, and the mean KL."""
    objective = plain(kl_weight=3.0, perceptual=MeanSquare(), perceptual_weight=0.5)
    objective.logvar.data.fill_(0.7)
    x = LogMel(MEL)(batch["target"])[:, None]
    assert x.shape == (2, 1, 32, 16)  # 2000 // 64 + 1, already even
    posterior = objective.network.encode(x)
    noise = torch.randn(posterior.mean.shape, generator=generator())
    x_hat = objective.network.decode(posterior.mean + posterior.std * noise)
    total = 0.0
    for one, made in zip(x, x_hat, strict=True):
        distance = (one - made).square().mean()
        total += (((one - made).abs() + 0.5 * distance) / math.exp(0.7) + 0.7).sum().item()
    variance = posterior.std.square()
    kl = 0.5 * (posterior.mean.square() + variance - 1 - variance.log()).mean().item()
    found = objective(batch, generator())
    assert found["nll"].item() == pytest.approx(total / 2, rel=1e-5)
    assert found["kl"].item() == pytest.approx(kl, rel=1e-4)
    assert found["loss"].item() == pytest.approx(total / 2 + 3 * kl, rel=1e-5)
    assert found["reconstruction"].item() == pytest.approx((x - x_hat).abs().mean().item())
    assert found["perceptual"].item() == pytest.approx(MeanSquare()(x, x_hat).mean().item())


def test_scale_is_learnt_towards_the_mean_error(batch):
    """The gradient in logvar vanishes where it is the logarithm of the mean error."""
    objective = plain()
    error = objective(batch, generator())["reconstruction"].item()
    objective.logvar.data.fill_(math.log(error))
    objective(batch, generator())["loss"].backward()
    assert abs(objective.logvar.grad.item()) < 1e-2
    objective.logvar.data.fill_(0.0)
    objective.logvar.grad = None
    objective(batch, generator())["loss"].backward()
    assert objective.logvar.grad.item() == pytest.approx(32 * 16 * (1 - error), rel=1e-4)


def test_frames_are_cut_to_what_the_autoencoder_takes():
    objective = plain()
    assert objective.spectrogram(torch.zeros(1, 64 * 20)).shape == (1, 1, 20, 16)
    deep = VaeConfig(channels=4, multipliers=(1, 1, 1, 1), blocks=1, latent_channels=2, groups=4)
    objective = VaeObjective(SpectrogramVae(deep), LogMel(MEL))
    with pytest.raises(ValueError, match="got 200 samples, 4 frames; expected at least 8 frames"):
        objective.spectrogram(torch.zeros(1, 200))


def test_hinge_loss_by_hand():
    real, fake = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]), torch.tensor([-3.0, 0.0, 1.0])
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * (2.5 / 4 + 3.0 / 3))
    assert hinge_loss(torch.ones(3), -torch.ones(3)) == 0


def test_adaptive_weight_by_hand():
    """Gradients 2 w = (6, 8) and (0.5, 0): 10 over 0.5; then the two ends of the clamp."""
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    nll = w.square().sum()
    assert adaptive_weight(nll, 0.5 * w[0], w).item() == pytest.approx(10 / 0.5001)
    assert adaptive_weight(nll, 1e-9 * w[0], w).item() == pytest.approx(1e4)
    assert adaptive_weight(0 * nll, w[0], w).item() == 0
    factor = adaptive_weight(nll, w[0], w)
    assert not factor.requires_grad
    nll.backward()  # the graph is still there
    assert w.grad.tolist() == [6.0, 8.0]


def test_adversarial_term_is_balanced_at_the_last_layer(batch):
    """Its gradient at the decoder's last weights is half as long as that of the likelihood."""
    objective = adversarial(start=0, kl_weight=0.0)
    objective.discriminator.main[-1].weight.data.mul_(1e3)  # else the factor is at its limit
    last = objective.network.autoencoder.decoder.conv_out.weight
    found = objective.generator_loss(batch, 0, generator())
    grad = partial(torch.autograd.grad, inputs=last, retain_graph=True)
    (nll,), (score,) = grad(found["nll"]), grad(found["adversarial"])
    expected = nll.norm() / (score.norm() + 1e-4)
    assert 0 < expected < 1e4
    torch.testing.assert_close(found["adaptive_weight"], expected)
    (whole,) = grad(found["loss"])
    torch.testing.assert_close(whole, nll + 0.5 * expected * score, rtol=1e-3, atol=1e-3)


def test_adversarial_terms_are_those_of_the_reconstruction(batch):
    objective = adversarial(start=0)
    objective.discriminator.eval()
    x, x_hat, _ = objective.reconstruct(batch, generator())
    real, fake = objective.discriminator(x), objective.discriminator(x_hat)
    made = objective.generator_loss(batch, 0, generator())
    judged = objective.discriminator_loss(batch, 0, generator())
    assert made["adversarial"].item() == pytest.approx(-fake.mean().item(), rel=1e-4)
    expected = 0.5 * ((1 - real).relu().mean() + (1 + fake).relu().mean())
    torch.testing.assert_close(judged["loss"], expected)
    judged["loss"].backward()
    assert all(p.grad is None for p in objective.network.parameters())
    assert all(p.grad is not None for p in objective.discriminator.parameters())


def test_discriminator_takes_part_from_its_start(batch):
    objective = adversarial(start=7)
    assert objective.discriminator_loss(batch, 6, generator()) is None
    before = objective.generator_loss(batch, 6, generator())
    assert "adversarial" not in before
    torch.testing.assert_close(before["loss"], objective(batch, generator())["loss"])
    assert objective.discriminator_loss(batch, 7, generator()) is not None
    assert objective.generator_loss(batch, 7, generator())["loss"] != before["loss"]
    assert adversarial().start == 50_001


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: plain(kl_weight=-1.0), "weights must not be negative, got kl_weight=-1.0"),
        (lambda: plain(perceptual_weight=1.0), "go together, got 1.0 without a network"),
        (lambda: plain(perceptual=MeanSquare()), "go together, got 0.0 with a network"),
        (lambda: adversarial(start=-1), "must not be negative, got -1 and 0.5"),
        (lambda: adversarial(adversarial_weight=-1.0), "got 50001 and -1.0"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def tones():
    """Sounds of one tone each, 1000 samples."""
    time = torch.arange(1000) / 16_000
    return [{"target": 0.4 * torch.sin(2 * torch.pi * f * time)} for f in range(300, 3000, 170)]


def trained(training, folder, max_steps):
    data = FlowData(tones(), ShuffledBatches(16, 4, seed=1), [])
    options = {"accelerator": "cpu", "devices": 1, "progress": False, "log_every": 5}
    run = fit(training, data, folder, max_steps=max_steps, **options)
    return run, read_metrics(run.metrics)


def test_plain_training_lowers_the_error(tmp_path):
    """A VAE learns in the training that flows use; so does the scale."""
    training = FlowTraining(plain(kl_weight=0.1), partial(torch.optim.Adam, lr=3e-3), ema=[0.9])
    run, rows = trained(training, tmp_path, 20)
    errors = [float(row["train/reconstruction"]) for row in rows]
    assert errors[-1] < 0.85 * errors[0]
    assert training.objective.logvar.item() > 0
    small_vae().load_state_dict(network_weights(run.last))


def test_adversarial_training_moves_both_networks(tmp_path):
    objective = adversarial(start=3, kl_weight=0.1)
    before = objective.discriminator.main[0].weight.detach().clone()
    training = AdversarialTraining(
        objective, partial(torch.optim.Adam, lr=3e-3, betas=(0.5, 0.9)), ema=[0.9]
    )
    _, rows = trained(training, tmp_path, 10)
    assert not torch.equal(before, objective.discriminator.main[0].weight)
    assert float(rows[-1]["train/reconstruction"]) < float(rows[0]["train/reconstruction"])
    assert float(rows[-1]["train/discriminator_loss"]) > 0
    assert rows[-1]["train/adaptive_weight"]
