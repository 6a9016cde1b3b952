"""Distances by their closed forms, and against torchmetrics and scipy."""

import math

import numpy as np
import pytest
import torch
from rectiflow_audio.frontend import LogMel
from rectiflow_audio.metrics import (
    log_spectral_distance,
    mel_l1,
    mel_log_spectral_distance,
    sdr,
    si_sdr,
)


@pytest.fixture
def waves():
    generator = torch.Generator().manual_seed(0)
    reference = 0.1 * torch.randn(3, 2, 4000, generator=generator)
    return reference + 0.03 * torch.randn(3, 2, 4000, generator=generator), reference


def test_sdr_is_the_published_formula(waves):
    estimate, reference = waves
    found = sdr(estimate, reference)
    assert found.shape == (3, 2)
    e, r = estimate.numpy().astype(float), reference.numpy().astype(float)
    expected = 10 * np.log10((r**2).mean(-1) / ((e - r) ** 2).mean(-1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_sdr_of_silence_and_of_perfection_is_finite():
    silence, wave = torch.zeros(1000), torch.full((1000,), 0.1)
    assert sdr(silence, silence) == 0  # both powers at the floor
    assert sdr(wave, wave) == pytest.approx(80, abs=1e-3)  # 1e-2 over 1e-10
    assert sdr(wave, silence) == pytest.approx(-80, abs=1e-3)


def test_si_sdr_is_the_published_formula(waves):
    estimate, reference = waves
    e, r = estimate.numpy().astype(float), reference.numpy().astype(float)
    projected = (e * r).sum(-1, keepdims=True) / (r * r).sum(-1, keepdims=True) * r
    expected = 10 * np.log10((projected**2).sum(-1) / ((e - projected) ** 2).sum(-1))
    np.testing.assert_allclose(si_sdr(estimate, reference), expected, atol=1e-4)


@pytest.mark.slow  # its import takes longer than all the rest
def test_si_sdr_agrees_with_torchmetrics(waves):
    audio = pytest.importorskip("torchmetrics.functional.audio")
    estimate, reference = (wave + 0.05 for wave in waves)  # a mean, which must not be taken out
    expected = audio.scale_invariant_signal_distortion_ratio(estimate, reference, zero_mean=False)
    torch.testing.assert_close(si_sdr(estimate, reference), expected)
    doubles = estimate.double(), reference.double()
    expected = audio.scale_invariant_signal_distortion_ratio(*doubles, zero_mean=False)
    torch.testing.assert_close(si_sdr(*doubles), expected)


def test_si_sdr_has_a_closed_form_and_ignores_scale():
    """Orthogonal noise of a hundredth of the power gives 20 dB, at any gain."""
    t = torch.arange(1600, dtype=torch.float64) / 1600
    reference, noise = torch.sin(2 * math.pi * 5 * t), torch.cos(2 * math.pi * 5 * t)
    for gain in (1.0, 0.01, -3.0):
        assert si_sdr(gain * (reference + 0.1 * noise), reference) == pytest.approx(20, abs=1e-6)
    assert sdr(0.5 * reference, reference) == pytest.approx(10 * math.log10(4), abs=1e-6)


def test_si_sdr_of_silence_is_finite():
    silence, wave = torch.zeros(100), torch.ones(100)
    for pair in ((silence, silence), (silence, wave), (wave, silence)):
        assert torch.isfinite(si_sdr(*pair))


def test_lsd_of_a_gain_is_that_gain():
    """Halving a waveform lowers every power by log10 4."""
    reference = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    found = log_spectral_distance(0.5 * reference, reference)
    torch.testing.assert_close(found, torch.full((2,), math.log10(4)), atol=1e-4, rtol=0)
    assert torch.equal(log_spectral_distance(reference, reference), torch.zeros(2))


def test_lsd_is_the_formula_of_numpy(waves):
    estimate, reference = (wave[0, 0] for wave in waves)
    window = np.hanning(1025)[:-1]

    def powers(wave):
        padded = np.pad(wave.numpy().astype(float), 512, mode="reflect")
        frames = [padded[i : i + 1024] * window for i in range(0, len(padded) - 1023, 160)]
        return np.abs(np.fft.rfft(frames)) ** 2

    difference = np.log10(powers(estimate)) - np.log10(powers(reference))
    expected = np.sqrt((difference**2).mean(1)).mean()
    assert log_spectral_distance(estimate, reference) == pytest.approx(expected, rel=1e-3)


def test_lsd_does_not_hear_phase():
    """A sign, or a shift by whole hops in the inner frames, changes the waveform only."""
    reference = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(2))
    assert log_spectral_distance(-reference, reference) == 0
    assert sdr(-reference, reference) == pytest.approx(-10 * math.log10(4), abs=1e-4)


def test_lsd_of_digital_silence_is_finite():
    noise = 0.1 * torch.randn(4000, generator=torch.Generator().manual_seed(3))
    assert 5 < log_spectral_distance(torch.zeros(4000), noise) < 15


def test_mel_distances_of_constant_offsets():
    mel = LogMel()(0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(4)))
    shifted = mel + math.log(10) / 20  # 1 dB
    expected = torch.full((2,), 0.1)
    torch.testing.assert_close(mel_log_spectral_distance(shifted, mel), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        mel_l1(shifted, mel), torch.full((2,), math.log(10) / 20), atol=1e-5, rtol=0
    )


def test_mel_lsd_takes_the_root_within_frames():
    """One frame is off by 20 dB in one band of four: sqrt(4/4), halved by the other frame."""
    reference, estimate = torch.zeros(2, 4), torch.zeros(2, 4)
    estimate[0, 1] = math.log(10)
    assert mel_log_spectral_distance(estimate, reference) == pytest.approx(0.5)
    assert mel_l1(estimate, reference) == pytest.approx(math.log(10) / 8)


@pytest.mark.parametrize("distance", [sdr, si_sdr, log_spectral_distance])
def test_unequal_lengths_are_refused(distance):
    with pytest.raises(ValueError, match="must have one length, got 1000 and 1001 samples"):
        distance(torch.zeros(1000), torch.zeros(1001))


@pytest.mark.parametrize("distance", [mel_log_spectral_distance, mel_l1])
def test_unequal_spectrograms_are_refused(distance):
    with pytest.raises(ValueError, match=r"got \(5, 64\) and \(6, 64\)"):
        distance(torch.zeros(5, 64), torch.zeros(6, 64))
