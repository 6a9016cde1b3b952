"""The vocoder's losses: segments, alignments, every term by hand, and a training of seconds."""

from functools import partial

import pytest
import torch
from rectiflow.training import (
    AdversarialTraining,
    FlowData,
    ShuffledBatches,
    fit,
    network_weights,
    read_metrics,
)
from rectiflow_audio.frontend import LogMel, MelConfig
from rectiflow_audio.networks.discriminators import Judgement, WaveDiscriminator
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig
from rectiflow_audio.vocoder_objective import (
    VocoderObjective,
    discriminator_loss,
    feature_distance,
    generator_loss,
)

MEL = MelConfig(n_fft=256, hop=40, n_mels=12)
SIZES = VocoderConfig(
    n_mels=12, rates=(5, 8), kernels=(10, 16), channels=8, block_kernels=(3,), dilations=((1,),)
)


pytestmark = pytest.mark.usefixtures("one_thread")


def objective(**options):
    torch.manual_seed(0)
    judge = WaveDiscriminator((2, 3), ((64, 16, 48),), (4, 8), 4)
    settings = {"segment": 500, **options}
    return VocoderObjective(BigVgan(SIZES), judge, LogMel(MEL), **settings)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def batch():
    return {"target": 0.2 * torch.randn(3, 3000, generator=generator(1))}


def judgement(score, *features):
    return Judgement(torch.tensor(score), tuple(map(torch.tensor, features)))


def test_least_squares_losses_by_hand():
    real = [judgement([1.0, 0.0]), judgement([0.5])]
    fake = [judgement([0.0, 2.0]), judgement([-1.0])]
    assert generator_loss(fake).item() == pytest.approx((1 + 1) / 2 + 4)
    assert discriminator_loss(real, fake).item() == pytest.approx((0.5 + 2) + (0.25 + 1))
    perfect = [judgement([1.0])], [judgement([0.0])]
    assert discriminator_loss(*perfect) == 0


def test_feature_distance_by_hand():
    """A mean over each layer, summed over layers and discriminators."""
    real = [judgement([0.0], [[1.0, 2.0]], [3.0]), judgement([0.0], [1.0])]
    fake = [judgement([0.0], [[2.0, 5.0]], [1.0]), judgement([0.0], [1.5])]
    assert feature_distance(real, fake).item() == pytest.approx((1 + 3) / 2 + 2 + 0.5)
    assert feature_distance(real, real) == 0


@pytest.mark.parametrize("offset", [0, 20])
def test_frames_are_centred_on_their_samples(offset):
    """A click at one sample is loudest in the frame that the alignment puts there."""
    made = objective(offset=offset)
    for frame in (3, 5, 8):
        wave = torch.zeros(1, 500)  # no longer than a segment, which is therefore all
        wave[0, 40 * frame + offset] = 1.0
        log_mel, cut = made.segments(wave, generator())
        assert log_mel.shape == (1, 12, 13)
        assert cut.shape == (1, 500)
        assert cut[0].argmax() == 40 * frame + offset
        energy = log_mel[0].sum(0)
        assert energy.argmax() == frame
        torch.testing.assert_close(energy[frame - 1], energy[frame + 1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("offset", [0, 20])
def test_segments_are_cut_from_the_whole_spectrogram(batch, offset):
    """Log-mels are seen in context: they equal rows of that of the whole wave."""
    made = objective(offset=offset)
    wave = batch["target"]
    whole = LogMel(MEL)(wave[:, offset:])
    begins = set()
    for seed in range(40):
        log_mel, cut = made.segments(wave, generator(seed))
        for row in range(3):
            found = [k for k in range(76) if torch.equal(wave[row, 40 * k :][:500], cut[row])]
            (k,) = found
            begins.add(k)
            assert torch.equal(whole[row, k : k + 13].T, log_mel[row])
    assert min(begins) == 0
    assert max(begins) >= 60
    assert len(begins) > 40


def test_short_waves_are_filled_up_with_silence():
    made = objective(offset=20)
    wave = torch.randn(2, 300, generator=generator()).clamp(-1, 1)
    log_mel, cut = made.segments(wave, generator())
    assert torch.equal(cut[:, :300], wave)
    assert not cut[:, 300:].any()
    assert log_mel.shape == (2, 12, 13)


def test_segments_follow_the_generator(batch):
    made = objective()
    first, again, other = (made.segments(batch["target"], generator(s))[1] for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generator_loss_is_the_weighted_sum(batch):
    made = objective(mel_weight=7.0, feature_weight=3.0)
    log_mel, wave = made.segments(batch["target"], generator())
    fake = made.network(log_mel)[:, :500]
    real_judged, fake_judged = made.discriminator(wave), made.discriminator(fake)
    found = made.generator_loss(batch, 0, generator())
    front = LogMel(MEL)
    error = (front(fake) - front(wave)).abs().mean()
    torch.testing.assert_close(found["mel"], error)
    torch.testing.assert_close(found["adversarial"], generator_loss(fake_judged))
    torch.testing.assert_close(found["features"], feature_distance(real_judged, fake_judged))
    expected = found["adversarial"] + 3 * found["features"] + 7 * error
    torch.testing.assert_close(found["loss"], expected)
    assert made(batch, generator())["mel"].item() == pytest.approx(error.item())


def test_released_weights_and_discriminators():
    made = VocoderObjective(BigVgan(VocoderConfig(channels=32)))
    assert (made.segment, made.offset, made.mel_weight, made.feature_weight) == (8192, 0, 45, 2)
    assert len(made.discriminator.discriminators) == 8
    log_mel, wave = made.segments(torch.zeros(1, 9000), generator())
    assert log_mel.shape == (1, 64, 52)
    assert wave.shape == (1, 8192)


def test_losses_reach_their_own_networks(batch):
    made = objective()
    made.discriminator_loss(batch, 0, generator())["loss"].backward()
    assert all(p.grad is None for p in made.network.parameters())
    assert all(p.grad is not None for p in made.discriminator.parameters())
    made.generator_loss(batch, 0, generator())["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in made.network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 255}, "segment must be at least 256 samples"),
        ({"offset": 40}, r"offset must lie in \[0, 40\), got 40"),
        ({"offset": -1}, "got -1"),
        ({"mel_weight": -1.0}, "weights must not be negative, got mel_weight=-1.0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        objective(**options)


def test_front_end_must_be_that_of_the_vocoder():
    with pytest.raises(ValueError, match="got hops of 40 and 160 samples and 12 and 64 bands"):
        VocoderObjective(BigVgan(SIZES), WaveDiscriminator((2,), (), (4,)))


def test_training_lowers_the_mel_error_and_folds_its_norms(tmp_path):
    """As the authors do, with weight norm; what is exported has plain weights again."""
    made = objective(mel_weight=45.0)
    made.network.apply_weight_norm()
    optimizer = partial(torch.optim.AdamW, lr=3e-3, betas=(0.8, 0.99))
    training = AdversarialTraining(made, optimizer, ema=[0.5], grad_clip=1000.0)
    time = torch.arange(1500) / 16_000
    tones = [{"target": 0.4 * torch.sin(2 * torch.pi * f * time)} for f in range(300, 1900, 200)]
    data = FlowData(tones, ShuffledBatches(8, 4, seed=1), [])
    options = {"accelerator": "cpu", "devices": 1, "progress": False, "log_every": 6}
    run = fit(training, data, tmp_path, max_steps=24, **options)
    rows = read_metrics(run.metrics)
    assert float(rows[-1]["train/mel"]) < 0.8 * float(rows[0]["train/mel"])
    assert float(rows[-1]["train/discriminator_loss"]) < float(rows[0]["train/discriminator_loss"])

    exported = BigVgan(SIZES)
    exported.apply_weight_norm()
    exported.load_state_dict(network_weights(run.last))
    log_mel, _ = made.segments(tones[0]["target"][None], generator())
    before = exported(log_mel)
    exported.remove_weight_norm()
    assert exported.state_dict().keys() == BigVgan(SIZES).state_dict().keys()
    torch.testing.assert_close(exported(log_mel), before)
