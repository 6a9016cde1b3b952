"""Repairs, edits and spans: what is known stays, and the fill is what a spectrum makes likely."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rectiflow.inverse import STFT, Projected
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.prediction import draw, linear_prediction, smoothest
from rectiflow_audio.repair import Band, Clip, Gaps, Repairer
from rectiflow_audio.replacement import Replacer

RATE = 16_000
T = np.arange(16_000) / RATE


@pytest.fixture(scope="module")
def pipe():
    return SeparationPipeline.from_pretrained("small")


def tones(*hertz):
    return sum(0.2 * np.sin(2 * np.pi * f * T + f) for f in hertz)


def sdr(found, truth):
    return 10 * np.log10((truth**2).sum() / ((found - truth) ** 2).sum())


def test_linear_prediction_continues_tones():
    wave = tones(440, 1000, 2300)
    known = np.ones(len(wave), bool)
    known[5000:5160] = False
    known[9000:9003] = False
    found = linear_prediction(np.where(known, wave, 0), known)
    assert np.array_equal(found[known], wave[known])
    assert sdr(found[~known], wave[~known]) > 30
    assert np.array_equal(linear_prediction(wave, np.ones_like(known)), wave)


def test_the_fill_of_a_known_spectrum_is_the_sound():
    wave = torch.from_numpy(tones(500, 1500)[:8000])
    transform = STFT(8000, 512, 128)
    known = torch.ones(8000, dtype=torch.bool)
    known[4000:4300] = False
    power = transform(wave[None])[0].square().sum(-1)
    power = power.clamp_min(1e-4 * power.max())
    found = smoothest(torch.where(known, wave, 0.0), known, power, transform)
    assert torch.equal(found[known], wave[known])
    assert sdr(found[~known].numpy(), wave[~known].numpy()) > 10


def test_a_draw_has_its_spectrum():
    transform = STFT(16_000, 512, 128)
    power = torch.linspace(2, 1, 257).expand(transform.frames, 257)
    made = draw(power, transform, torch.Generator().manual_seed(0))
    found = transform(made[None])[0].square().sum(-1)[8:-8].mean(0)
    assert (found[4:-4] / power[0, 4:-4]).mean().item() == pytest.approx(1, abs=0.05)
    one = draw(power[:1], transform, torch.Generator().manual_seed(0))
    assert one.shape == made.shape


@pytest.mark.parametrize("evaluations", [0, 2])
def test_known_samples_stay_bit_for_bit(pipe, evaluations):
    rng = np.random.default_rng(0)
    wave = (tones(300, 900) + 0.02 * rng.standard_normal(len(T))).astype(np.float32)
    clipped = np.clip(wave, -0.25, 0.25)
    gap = wave.copy()
    gap[8000:9600] = 0
    for damage, heard in ((Clip(), clipped), (Gaps(((0.5, 0.6),)), gap)):
        repair = Repairer(pipe, damage, "a sound", evaluations, method=Projected())
        found = repair(np.stack([heard, heard]), RATE)
        known = damage.known(heard, RATE)
        assert found.dtype == np.float32
        assert found.shape == (2, len(wave))
        assert np.array_equal(found[:, known], np.stack([heard, heard])[:, known])
        assert not np.array_equal(found[0, ~known], heard[~known])
        assert sdr(found[0], wave) > sdr(heard, wave) + (3 if isinstance(damage, Clip) else -3)
        assert np.array_equal(found[:1], repair(heard[None], RATE))
        if isinstance(damage, Clip):
            assert (np.abs(found[:, ~known]) >= 0.2499).all()


def test_a_band_is_added_above_the_limit(pipe):
    rng = np.random.default_rng(1)
    spectrum = np.fft.rfft(0.1 * rng.standard_normal(len(T)))
    hertz = np.fft.rfftfreq(len(T), 1 / RATE)
    low = np.fft.irfft(np.where(hertz < 4000, spectrum, 0), len(T)).astype(np.float32)
    found = Repairer(pipe, Band(4000.0), evaluations=2)(low[None], RATE)[0]
    power = [np.abs(np.fft.rfft(each)) ** 2 for each in (found, low)]
    assert power[0][hertz > 4200].sum() > 0.01 * power[1].sum()
    below = hertz < 3700
    assert np.abs(power[0][below] - power[1][below]).sum() < 0.02 * power[1][below].sum()


def test_silence_and_what_is_whole_stay(pipe):
    silent = np.zeros((1, 16_000), np.float32)
    assert np.array_equal(Repairer(pipe, Clip())(silent, RATE), silent)
    wave = tones(400)[None].astype(np.float32)
    assert np.array_equal(Repairer(pipe, Clip(0.9))(wave, RATE), wave)
    filled = Repairer(pipe, Gaps(((0.4, 0.5),)), evaluations=0)(silent, RATE)
    assert np.abs(filled).max() < 1e-6


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Clip(1.5), "level of clipping"),
        (lambda: Gaps(((0.5, 0.4),)), "begin before it ends"),
        (lambda: Gaps(((0.5, 1.4),)), "outside of the recording, which has 1 s"),
        (lambda: Gaps(((0.0, 1.0),)), "nothing is left"),
        (lambda: Band(-1), "must be positive"),
        (lambda: Band(9000.0), "nothing is missing below 9000 Hz"),
    ],
)
def test_bad_damage_is_told(pipe, make, said):
    with pytest.raises(ValueError, match=said):
        Repairer(pipe, make())(tones(300)[None].astype(np.float32), RATE)


def test_nan_and_long_gaps_are_told(pipe):
    wave = np.tile(tones(300), 4)[None].astype(np.float32)
    with pytest.raises(ValueError, match="too long for the checkpoint"):
        Repairer(pipe, Gaps(((1.0, 2.5),)), evaluations=0)(wave, RATE)
    wave[0, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        Repairer(pipe, Clip())(wave, RATE)


def test_a_replacement_leaves_what_lies_outside(pipe):
    rng = np.random.default_rng(2)
    wave = (0.1 * rng.standard_normal((1, 24_000))).astype(np.float32)
    replacer = Replacer(pipe, "rain", "sea waves", steps=1)
    found = replacer(wave, RATE, when=(0.5, 1.0))
    outside = np.ones(24_000, bool)
    outside[8000:16_000] = False
    assert np.array_equal(found[:, outside], wave[:, outside])
    assert not np.array_equal(found[:, ~outside], wave[:, ~outside])
    with pytest.raises(ValueError, match="keep lie in 0 to 1"):
        Replacer(pipe, "rain", "sea waves", keep=2.0)


def test_a_span_is_separated_and_the_rest_is_the_mixture(pipe):
    rng = np.random.default_rng(3)
    wave = (0.1 * rng.standard_normal((2, 60_000))).astype(np.float32)
    found = pipe(wave, RATE, "rain", residual=True, steps=1, when=(2.0, 2.5))
    outside = np.ones(60_000, bool)
    outside[32_000:40_000] = False
    assert not found.estimates[0].samples[:, outside].any()
    assert np.array_equal(found.residual[:, outside], wave[:, outside])
    assert np.abs(found.estimates[0].samples[:, ~outside]).max() > 1e-4
    total = found.estimates[0].samples + found.residual
    np.testing.assert_allclose(total, wave, atol=1e-5)
    with pytest.raises(ValueError, match="inside of the recording"):
        pipe(wave, RATE, "rain", when=(3.0, 4.0))
