"""The sounds that ship are those their functions make."""

from __future__ import annotations

import pytest
import torch
from rectiflow_audio import examples
from rectiflow_audio.io import read_audio

MADE = {
    examples.RAIN: examples.rain,
    examples.CLOCK_TICK: examples.clock_tick,
    examples.KICK_DRUM: examples.kick_drum,
}


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.stem)
def test_the_file_is_what_the_function_makes(path):
    audio = read_audio(path)
    wave = MADE[path]()
    assert audio.sample_rate == examples.SAMPLE_RATE
    assert audio.seconds == examples.SECONDS
    assert float((torch.from_numpy(audio.samples[0]) - wave).abs().max()) < 1e-4
    assert float(wave.abs().max()) == pytest.approx(0.5)
    assert path in examples.CAPTIONS


def test_the_clock_ticks_twice_a_second_and_the_rain_depends_on_its_seed():
    ticks = examples.clock_tick(2.0).abs().reshape(4, -1)
    assert (ticks.argmax(1) < 80).all()
    assert not torch.equal(examples.rain(0.5), examples.rain(0.5, seed=1))
