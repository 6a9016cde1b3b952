"""Masks return the mixture's own samples, and true spectrograms separate real sounds."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

import librosa
import pytest
import soundfile
import torch
from rectiflow_audio.frontend import SAMPLE_RATE, LogMel, MelConfig, normalise
from rectiflow_audio.masking import (
    apply_mask,
    griffin_lim,
    inverse_stft,
    mel_ratio_mask,
    mel_wiener_mask,
    mixture_consistency,
)
from torch.testing import assert_close


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    """Return the released front end."""
    return LogMel()


def si_sdr(estimate: torch.Tensor, reference: torch.Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in decibel."""
    target = (estimate @ reference) / (reference @ reference) * reference
    return float(10 * torch.log10(target.square().sum() / (estimate - target).square().sum()))


def mixture_of(target: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mix at 0 dB; return target and mixture, with the mixture's peak at one half."""
    size = max(len(target), len(other))
    pair = [torch.nn.functional.pad(w, (0, size - len(w))) for w in (target, other)]
    target, other = (w - w.mean() for w in pair)
    mixture = target + other * (target.square().mean() / other.square().mean()).sqrt()
    scale = 0.5 / mixture.abs().max()
    return target * scale, mixture * scale


def chirp_and_knocks() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sounds that a spectrogram tells apart: a rising tone, and bursts of noise."""
    time = torch.arange(2 * SAMPLE_RATE) / SAMPLE_RATE
    chirp = torch.sin(2 * math.pi * (300 * time + 200 * time**2))
    knocks = torch.randn(len(time)) * torch.exp(-20 * (time % 0.4))
    return chirp, knocks


@pytest.mark.parametrize("samples", [513, 16_000, 16_037, 20_159])
@pytest.mark.parametrize("shape", [(), (2,), (3, 2)])
def test_a_mask_of_ones_gives_the_mixture_back(log_mel, samples, shape):
    mixture = torch.randn(*shape, samples).clamp(-1, 1)
    mask = torch.ones(513, samples // 160 + 1)
    assert_close(apply_mask(mixture, mask, log_mel), mixture, atol=1e-5, rtol=0)
    assert torch.equal(apply_mask(mixture, mask), apply_mask(mixture, mask, log_mel))
    assert not apply_mask(mixture, 0 * mask, log_mel).any()


def test_the_phase_and_place_are_those_of_the_mixture(log_mel):
    """A constant mask is a gain, one of the last frames leaves the first samples silent."""
    mixture = 0.3 * torch.randn(8000)
    mask = torch.full((513, 51), 0.25)
    assert_close(apply_mask(mixture, mask, log_mel), 0.25 * mixture, atol=1e-6, rtol=0)
    mask[:, :25] = 0
    estimate = apply_mask(mixture, mask, log_mel)
    assert not estimate[: 25 * 160 - 512].abs().gt(1e-6).any()
    assert_close(estimate[25 * 160 + 512 :], 0.25 * mixture[25 * 160 + 512 :], atol=1e-6, rtol=0)


def test_one_mask_serves_both_channels(log_mel):
    stereo = torch.stack([0.3 * torch.randn(8000), 0.1 * torch.randn(8000)])
    mask = torch.rand(1, 513, 51)
    together = apply_mask(stereo, mask, log_mel)
    for channel, estimate in zip(stereo, together, strict=True):
        assert_close(estimate, apply_mask(channel, mask[0], log_mel), atol=1e-6, rtol=0)


def test_masks_of_other_shapes_are_refused(log_mel):
    with pytest.raises(ValueError, match=r"got \(513, 50\) bins and frames; expected \(513, 51\)"):
        apply_mask(torch.zeros(8000), torch.ones(513, 50), log_mel)
    with pytest.raises(ValueError, match=r"must be the mel bands, got \[513, 64\]; expected 64"):
        mel_ratio_mask(torch.zeros(51, 513), torch.zeros(51, 64), log_mel)
    with pytest.raises(ValueError, match=r"exponent must be positive, got 0\.0"):
        mel_wiener_mask(torch.zeros(51, 64), torch.zeros(51, 64), log_mel, exponent=0.0)


def test_values_of_masks(log_mel):
    target = torch.randn(2, 7, 64)
    assert_close(mel_ratio_mask(target, target, log_mel), torch.ones(2, 513, 7))
    assert_close(mel_ratio_mask(target + 3, target, log_mel), torch.ones(2, 513, 7))
    half = mel_ratio_mask(target - math.log(2), target, log_mel, exponent=1.0)
    assert_close(half, torch.full((2, 513, 7), 0.5))
    squared = mel_ratio_mask(target - math.log(2), target, log_mel)
    assert_close(squared, torch.full((2, 513, 7), 0.25))
    passed = mel_ratio_mask(target - math.log(2), target, log_mel, headroom=math.log(2))
    assert_close(passed, torch.ones(2, 513, 7))
    third = mel_wiener_mask(target, target + math.log(2), log_mel)
    assert_close(third, torch.full((2, 513, 7), 0.2))
    residual = torch.randn(2, 7, 64)
    both = mel_wiener_mask(target, residual, log_mel) + mel_wiener_mask(residual, target, log_mel)
    assert_close(both, torch.ones(2, 513, 7))


def test_bins_between_the_centres_of_bands_are_interpolated():
    log_mel = LogMel(MelConfig(n_mels=16, fmin=100.0))
    mixture = torch.zeros(1, 16)
    target = torch.full((1, 16), -20.0)
    target[0, 8] = 0.0
    mask = mel_ratio_mask(target, mixture, log_mel)[:, 0]
    low, centre, high = librosa.mel_frequencies(18, fmin=100, fmax=8000)[8:11] * 1024 / SAMPLE_RATE
    assert mask.argmax() == round(centre)
    assert not mask[: math.floor(low)].gt(1e-6).any()
    assert not mask[math.ceil(high) + 1 :].gt(1e-6).any()
    middle = round((low + centre) / 2)
    assert float(mask[middle]) == pytest.approx((middle - low) / (centre - low), abs=1e-3)
    target[0] = torch.linspace(-2, -1, 16)
    mask = mel_ratio_mask(target, mixture, log_mel, exponent=1.0)[:, 0]
    assert float(mask[0]) == pytest.approx(math.exp(-2))  # below the first centre: the first band
    assert float(mask[-1]) == pytest.approx(math.exp(-1))


@pytest.mark.parametrize("swapped", [False, True])
def test_true_mels_separate_a_synthetic_mixture(log_mel, swapped):
    sounds = chirp_and_knocks()
    target, mixture = mixture_of(*(sounds[::-1] if swapped else sounds))
    mels = log_mel(target), log_mel(mixture), log_mel(mixture - target)
    before = si_sdr(mixture, target)
    assert abs(before) < 0.5
    by_ratio = apply_mask(mixture, mel_ratio_mask(mels[0], mels[1], log_mel), log_mel)
    by_both = apply_mask(mixture, mel_wiener_mask(mels[0], mels[2], log_mel), log_mel)
    assert si_sdr(by_ratio, target) - before > 10
    assert si_sdr(by_both, target) - before > 10


def test_true_mels_separate_real_mixtures_and_the_default_exponent_is_best(log_mel, shared_data):
    folder: Path = shared_data / "audio"
    first: dict[str, Path] = {}
    with (folder / "metadata.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == "valid":
                first.setdefault(row["class"], folder / row["file"])
    names = ["dog_bark", "rain", "speech", "crying_baby", "sea_waves", "rooster"]
    sounds = [torch.from_numpy(soundfile.read(first[n], dtype="float32")[0]) for n in names]
    gains: dict[float, list[float]] = {0.5: [], 1.0: [], 2.0: []}
    for a, b in itertools.permutations(sounds, 2):
        target, mixture = mixture_of(a, b)
        mels = log_mel(target), log_mel(mixture)
        before = si_sdr(mixture, target)
        for exponent, found in gains.items():
            mask = mel_ratio_mask(*mels, log_mel, exponent=exponent)
            found.append(si_sdr(apply_mask(mixture, mask, log_mel), target) - before)
    assert min(gains[2.0]) > 2
    means = {exponent: sum(found) / len(found) for exponent, found in gains.items()}
    assert means[2.0] > means[1.0] > means[0.5] > 5


def test_headroom_helps_where_the_target_is_guessed(log_mel):
    target, mixture = mixture_of(*chirp_and_knocks())
    guess = log_mel(target)
    guess = guess + 0.7 * torch.randn(guess.shape)
    gains = []
    for headroom in (0.0, 0.7):
        mask = mel_ratio_mask(guess, log_mel(mixture), log_mel, headroom=headroom)
        gains.append(si_sdr(apply_mask(mixture, mask, log_mel), target))
    assert gains[1] > gains[0] + 1


@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 0.0, 3.0])])
def test_consistent_estimates_sum_to_the_mixture(weights):
    estimates, mixture = torch.randn(2, 3, 500), torch.randn(2, 500)
    fixed = mixture_consistency(estimates, mixture, weights)
    assert_close(fixed.sum(-2), mixture, atol=1e-5, rtol=0)
    assert_close(mixture_consistency(fixed, mixture, weights), fixed, atol=1e-5, rtol=0)
    if weights is not None:
        assert torch.equal(fixed[:, 1], estimates[:, 1])


def test_equal_weights_are_the_orthogonal_projection():
    estimates, mixture = torch.randn(3, 500), torch.randn(500)
    change = mixture_consistency(estimates, mixture) - estimates
    allowed = torch.randn(3, 500)
    allowed -= allowed.mean(0)  # directions along which the sum stays
    assert abs(float((change * allowed).sum())) < 1e-3


def test_bad_consistency_is_refused():
    with pytest.raises(ValueError, match=r"differ in length, got 10 and 11 samples"):
        mixture_consistency(torch.zeros(2, 10), torch.zeros(11))
    with pytest.raises(ValueError, match=r"negative or all zero, got \[0\.0, 0\.0\]"):
        mixture_consistency(torch.zeros(2, 10), torch.zeros(10), torch.zeros(2))


def test_griffin_lim_finds_a_sound_with_the_mel_it_was_given(log_mel):
    wave, _ = normalise(sum(mixture_of(*chirp_and_knocks())))
    wanted = log_mel(wave.expand(2, -1))
    found = griffin_lim(wanted, log_mel, generator=torch.Generator().manual_seed(0))
    assert found.shape == (2, len(wave))
    assert float((log_mel(found) - wanted).abs().mean()) < 0.25
    again = griffin_lim(wanted, log_mel, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found, again)
    assert not torch.equal(found[0], found[1])  # phases are drawn


def test_griffin_lim_improves_with_iterations_and_keeps_a_length(log_mel):
    wave, _ = normalise(sum(mixture_of(*chirp_and_knocks())))
    wanted = log_mel(wave)
    errors = []
    for iterations in (1, 32):
        seed = torch.Generator().manual_seed(0)
        found = griffin_lim(wanted, log_mel, iterations=iterations, samples=31_900, generator=seed)
        assert found.shape == (31_900,)
        errors.append(float((log_mel(found) - wanted[: 31_900 // 160 + 1]).abs().mean()))
    assert errors[1] < 0.8 * errors[0]


def test_inverse_stft_inverts(log_mel):
    wave = torch.randn(2, 3, 5000)
    assert_close(inverse_stft(log_mel.stft(wave), 5000, log_mel), wave, atol=1e-5, rtol=0)
