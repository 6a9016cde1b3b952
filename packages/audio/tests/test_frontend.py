"""The front end: filters as the field builds them, level and rate that can be undone."""

from __future__ import annotations

import math

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torchaudio
from rectiflow_audio import frontend
from rectiflow_audio.frontend import (
    SAMPLE_RATE,
    WINDOW_SAMPLES,
    Level,
    LogMel,
    MelConfig,
    mel_filters,
    normalise,
    read_official,
    resample,
)
from rectiflow_audio.io import AudioFileError
from torch.testing import assert_close

FLOOR = math.log(1e-5)


def test_filters_have_unit_area():
    config = MelConfig()
    area = mel_filters(config).double().sum(1) * config.sample_rate / config.n_fft
    assert_close(area[20:], torch.ones_like(area[20:]), atol=0.02, rtol=0)  # wide ones


def test_magnitude_equals_librosa():
    wave = 0.2 * torch.randn(5000)
    expected = np.abs(librosa.stft(wave.numpy(), n_fft=1024, hop_length=160, pad_mode="reflect"))
    assert_close(LogMel().magnitude(wave), torch.from_numpy(expected), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("samples", [513, 1600, 1759, 1760])
@pytest.mark.parametrize("shape", [(), (3,), (2, 2)])
def test_shapes(samples, shape):
    log_mel, wave = LogMel(), 0.1 * torch.randn(*shape, samples)
    mel = log_mel(wave)
    assert mel.shape == (*shape, samples // 160 + 1, 64)
    rows = [log_mel(row) for row in wave.reshape(-1, samples)]
    assert_close(mel.reshape(-1, *mel.shape[-2:]), torch.stack(rows), atol=1e-4, rtol=0)
    assert log_mel.magnitude(wave).shape == (*shape, 513, samples // 160 + 1)


def test_a_tone_lights_its_band_at_its_time():
    wave = torch.zeros(SAMPLE_RATE)
    time = torch.arange(4000) / SAMPLE_RATE
    wave[8000:12_000] = 0.5 * torch.sin(2 * math.pi * 1500 * time)
    mel = LogMel()(wave)
    frame, band = divmod(int(mel.argmax()), 64)
    assert 50 <= frame <= 75
    assert abs(librosa.mel_frequencies(66, fmin=0, fmax=8000)[band + 1] - 1500) < 60


def test_silence_is_the_floor_and_loudness_is_clipped():
    assert_close(LogMel()(torch.zeros(1600)), torch.full((11, 64), FLOOR))
    wave = torch.randn(1600).clamp(-1, 1)
    loud = torch.where(wave.abs() == 1, 9 * wave, wave)
    assert torch.equal(LogMel()(loud), LogMel()(wave))


def test_too_short_a_waveform_is_refused():
    with pytest.raises(ValueError, match=r"got 512 samples; expected more than half a window, 512"):
        LogMel()(torch.zeros(2, 512))


def test_half_precision_and_autocast_change_nothing_that_matters():
    log_mel, wave = LogMel(), 0.3 * torch.randn(2, 4000)
    expected = log_mel(wave)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = log_mel(wave)
    assert mel.dtype == torch.float32
    assert torch.equal(mel, expected)
    assert_close(log_mel(wave.bfloat16()), log_mel(wave.bfloat16().float()))
    assert_close(LogMel().double()(wave.double()).float(), expected, atol=1e-3, rtol=0)


def test_gradients_flow_and_are_finite_in_silence():
    wave = torch.cat([torch.zeros(2000), 0.1 * torch.randn(2000)]).requires_grad_()
    LogMel()(wave).sum().backward()
    assert torch.isfinite(wave.grad).all()
    assert wave.grad[3000:].abs().max() > 0


def test_nothing_is_saved_with_a_checkpoint():
    assert not LogMel().state_dict()
    assert not list(LogMel().parameters())


def test_level_is_taken_row_by_row_and_given_back():
    wave = torch.randn(2, 3, 1000) * torch.tensor([0.01, 1.0, 30.0])[:, None] + 0.7
    flat, level = normalise(wave)
    assert_close(flat.mean(-1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    assert_close(flat.abs().amax(-1), torch.full((2, 3), 0.5))
    assert_close(level.restore(flat, offset=True), wave, atol=1e-5, rtol=1e-5)
    assert_close(level.restore(flat), wave - wave.mean(-1, keepdim=True), atol=1e-5, rtol=1e-5)


def test_parts_of_a_normalised_mixture_sum_to_the_mixture_without_its_offset():
    parts = torch.randn(2, 1000) + 0.3
    flat, level = normalise(parts.sum(0))
    estimates = torch.stack([0.25 * flat, 0.75 * flat])
    total = level.restore(estimates).sum(0)
    assert_close(total, parts.sum(0) - parts.sum(0).mean(), atol=1e-5, rtol=1e-5)


def test_silence_stays_silent():
    flat, level = normalise(torch.zeros(2, 100))
    assert not flat.any()
    assert not level.restore(flat, offset=True).any()
    assert isinstance(level, Level)


@pytest.mark.parametrize(
    "rates", [(44_100, 16_000), (8000, 16_000), (16_000, 44_100), (48_000, 16_000), (22_050, 8000)]
)
def test_both_ways_to_resample_agree(rates, monkeypatch):
    wave = torch.randn(2, 3001)
    expected = torchaudio.functional.resample(wave, *rates)
    assert torch.equal(resample(wave, *rates), expected)
    monkeypatch.setattr(frontend, "_LARGEST_KERNEL", 0)
    direct = resample(wave, *rates)
    assert direct.shape == (2, math.ceil(3001 * rates[1] / rates[0]))
    assert_close(direct, expected, atol=2e-4, rtol=0)  # torchaudio's table is of float32 times


def test_rates_without_a_common_divisor_keep_a_tone():
    rate = 44_101
    tone = torch.sin(2 * math.pi * 440 * torch.arange(rate, dtype=torch.float64) / rate).float()
    out = resample(tone, rate, SAMPLE_RATE)
    exact = torch.sin(2 * math.pi * 440 * torch.arange(SAMPLE_RATE).double() / SAMPLE_RATE).float()
    assert out.shape == exact.shape
    assert (out - exact)[100:-100].abs().max() < 0.005


def test_resampling_takes_out_what_the_new_rate_cannot_hold():
    rate = 48_000
    tone = torch.sin(2 * math.pi * 11_000 * torch.arange(rate) / rate)
    assert resample(tone, rate, SAMPLE_RATE)[200:-200].abs().max() < 0.01
    assert resample(tone, rate, rate) is tone


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match="sample rates must be positive, got 0 and 16000 Hz"):
        resample(torch.zeros(10), 0, 16_000)


class TestReadOfficial:
    """The steps of the authors' reader, one by one."""

    def test_first_channel_normalised_and_padded(self, tmp_path):
        wave = 0.2 * torch.randn(4000, 2) + torch.tensor([0.1, -0.3])
        soundfile.write(tmp_path / "a.wav", wave.numpy(), SAMPLE_RATE, subtype="FLOAT")
        got = read_official(tmp_path / "a.wav")
        assert got.shape == (WINDOW_SAMPLES,)
        assert_close(got[:4000], normalise(wave[:, 0])[0])
        assert not got[4000:].any()

    def test_the_crop_is_made_before_resampling_and_drawn_by_the_generator(self, tmp_path):
        rate, length = 8000, int(8000 * 10.24)
        wave = 0.1 * torch.randn(length + 5000)
        soundfile.write(tmp_path / "a.wav", wave.numpy(), rate, subtype="FLOAT")
        start = int(torch.rand((), generator=torch.Generator().manual_seed(5)) * 5000)
        expected = normalise(resample(wave[start : start + length], rate, SAMPLE_RATE))[0]
        got = read_official(tmp_path / "a.wav", torch.Generator().manual_seed(5))
        assert_close(got, expected[:WINDOW_SAMPLES])
        other = read_official(tmp_path / "a.wav", torch.Generator().manual_seed(6))
        assert not torch.equal(got, other)

    def test_a_long_file_needs_a_generator(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(WINDOW_SAMPLES + 1), SAMPLE_RATE)
        with pytest.raises(ValueError, match=r"a\.wav is longer than 10\.24 s.* no generator"):
            read_official(tmp_path / "a.wav")

    def test_a_hundred_samples_are_too_few(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(100), SAMPLE_RATE)
        with pytest.raises(AudioFileError, match="it holds 100 samples; expected more than 100"):
            read_official(tmp_path / "a.wav")
        soundfile.write(tmp_path / "b.wav", np.zeros(150), 32_000)
        with pytest.raises(AudioFileError, match="it holds 75 samples"):
            read_official(tmp_path / "b.wav")
