"""Augmentation: pitch, response and place change as told, and nothing else does."""

from __future__ import annotations

import math

import pytest
import torch
from rectiflow_audio.data.augment import Augment, change_speed, crop, equalise, fit

RATE = 16_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sine(hertz: float, n: int = RATE) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(n) / RATE)


def level_db(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * (a.square().mean() / b.square().mean()).log10())


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.15])
def test_speed_moves_pitch_and_length_together(factor):
    changed = change_speed(sine(500), factor)
    assert len(changed) == round(RATE / factor)
    spectrum = torch.fft.rfft(changed * torch.hann_window(len(changed))).abs()
    assert float(spectrum.argmax()) * RATE / len(changed) == pytest.approx(500 * factor, abs=2)


@pytest.mark.parametrize("n", [RATE, 15_991])  # 15,991 is prime
def test_the_equaliser_has_the_gains_it_is_told(n):
    gains = torch.tensor([6.0, -6.0, 3.0])  # at 60 Hz, at their geometric mean, at 8 kHz
    middle = math.sqrt(60 * 8000)
    for hertz, gain in ((60, 6.0), (20, 6.0), (middle, -6.0), (7900, 3.0)):
        tone = sine(hertz, n) * torch.hann_window(n)
        assert level_db(equalise(tone, gains), tone) == pytest.approx(gain, abs=0.2)
    assert torch.allclose(equalise(sine(440, n), torch.zeros(4)), sine(440, n), atol=1e-5)


def test_the_equaliser_has_no_delay():
    impulse = torch.zeros(1001)
    impulse[500] = 1
    answer = equalise(impulse, torch.tensor([3.0, -3.0, 1.0, 0.0]))
    assert int(answer.abs().argmax()) == 500
    assert torch.allclose(answer[400:500], answer[501:601].flip(0), atol=1e-4)


def test_augmenting_is_a_function_of_the_generator():
    wave = torch.randn(8000, generator=seeded())
    augment = Augment()
    assert torch.equal(augment(wave, seeded(3)), augment(wave, seeded(3)))
    lengths = {len(augment(wave, seeded(i))) for i in range(40)}
    assert len(lengths) > 20
    assert min(lengths) >= 8000 / 1.15 - 1
    assert max(lengths) <= 8000 / 0.85 + 1


def test_augmenting_can_be_switched_off_but_for_the_sign():
    wave = torch.randn(800, generator=seeded())
    still = Augment(speed=0.0, equaliser_db=0.0)
    found = [still(wave, seeded(i)) for i in range(20)]
    assert all(torch.equal(w, wave) or torch.equal(w, -wave) for w in found)
    assert len({bool(w[0] == wave[0]) for w in found}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"speed": 1.0}, r"speed must lie in \[0, 1\)"), ({"probability": 2}, "probability must lie")],
)
def test_impossible_strengths_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_a_short_clip_keeps_its_samples_wherever_it_is_put():
    wave = torch.randn(100, generator=seeded())
    starts = set()
    for i in range(50):
        placed = fit(wave, 160, seeded(i))
        start = int(placed.nonzero()[0])
        starts.add(start)
        assert torch.equal(placed[start : start + 100], wave)
        assert placed.square().sum() == pytest.approx(float(wave.square().sum()), rel=1e-6)
    assert len(starts) > 20
    assert max(starts) <= 60


def test_a_looped_clip_repeats_itself():
    wave = torch.arange(1.0, 8.0)
    looped = fit(wave, 20, seeded(), loop=1.0)
    assert torch.equal(looped[7:], looped[:-7])
    assert sorted(looped[:7].tolist()) == wave.tolist()


def test_a_clip_of_the_right_length_is_returned_as_it_is():
    wave = torch.randn(64)
    assert torch.equal(fit(wave, 64, seeded(), loop=1.0), wave)


@pytest.mark.parametrize("quiet", [0.0, 0.01])
def test_a_crop_is_never_silent_if_the_clip_is_not(quiet):
    wave = torch.zeros(10_000)
    wave[7000:7010] = 1.0  # one crop of forty holds it
    starts = set()
    for i in range(50):
        piece = crop(wave, 200, seeded(i), quiet=quiet)
        assert len(piece) == 200
        assert piece.abs().max() == 1.0
        starts.add(int(piece.nonzero()[0]))
    assert len(starts) > 20


def test_crops_lie_everywhere():
    wave = torch.arange(1.0, 1001.0)
    starts = [int(crop(wave, 100, seeded(i))[0]) for i in range(300)]
    assert min(starts) < 40
    assert max(starts) > 860
    assert crop(wave, 1000, seeded()) is wave
