"""Made-up sounds: they are what their captions say."""

from __future__ import annotations

import pytest
import torch
from rectiflow_audio.data import PreparedSounds
from rectiflow_audio.data.synthetic import KINDS, prepare_synthetic, synthetic_sound


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("label", KINDS)
@pytest.mark.parametrize("seconds", [0.1, 1.0])
def test_a_sound_is_finite_level_and_repeatable(label, seconds):
    for seed in range(5):
        wave = synthetic_sound(label, seconds, seeded(seed))
        assert wave.shape == (round(seconds * 16_000),)
        assert wave.abs().max() == pytest.approx(0.5, abs=1e-5)
        assert wave[0] == wave[-1] == 0
        assert torch.equal(wave, synthetic_sound(label, seconds, seeded(seed)))
    assert not torch.equal(wave, synthetic_sound(label, seconds, seeded(9)))


def flatness(wave: torch.Tensor) -> float:
    """Geometric over arithmetic mean of the power spectrum: 1 for white noise."""
    power = torch.fft.rfft(wave).abs().square() + 1e-9
    return float(power.log().mean().exp() / power.mean())


def test_sounds_differ_as_their_captions_say():
    tone, noise, clicks, chirp = (
        torch.stack([synthetic_sound(label, 1.0, seeded(i)) for i in range(8)]) for label in KINDS
    )
    assert max(map(flatness, tone)) < 0.01
    assert min(map(flatness, noise)) > 0.3
    silent = (clicks.abs() < 0.01).float().mean(1)  # clicks are short
    assert silent.min() > 0.85
    assert (tone.abs() < 0.01).float().mean(1).max() < 0.2
    third = torch.stft(chirp, 512, window=torch.hann_window(512), return_complex=True).abs()
    assert (third.argmax(1).diff(dim=1) > 0).float().mean() > 0.5  # most of the time it rises


def test_unknown_sounds_and_lengths_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown sound 'dog'; known: tone, noise, clicks, chirp"):
        synthetic_sound("dog", 1.0, seeded())
    with pytest.raises(ValueError, match=r"a sound must last at least 0\.1 s, got 0\.01 s"):
        synthetic_sound("tone", 0.01, seeded())
    with pytest.raises(ValueError, match="mixtures need at least 2 sounds, got num=1"):
        prepare_synthetic(tmp_path / "out", num=1)


def test_the_folder_trains_with_the_shipped_text_encoder(tmp_path):
    out = prepare_synthetic(tmp_path / "out", num=5, seconds=0.3)
    sounds = PreparedSounds(out)
    assert [len(sounds.rows(split)) for split in ("train", "valid", "test")] == [5, 2, 0]
    assert set(sounds.table["caption"]) == {caption for _, caption in KINDS.values()}
    assert sounds.texts.width == 384
    assert all(caption in sounds.texts for caption in sounds.table["caption"])
    assert (tmp_path / "out_sounds" / "metadata.csv").is_file()
