"""Discriminators: sizes, names, folding, and what they see."""

import pytest
import torch
from rectiflow_audio.networks.discriminators import (
    RESOLUTIONS,
    PatchDiscriminator,
    PeriodDiscriminator,
    ResolutionDiscriminator,
    WaveDiscriminator,
)


def small_judge():
    return WaveDiscriminator((2, 3), ((64, 16, 48),), (4, 8), 4)


def test_patch_discriminator_has_the_official_tensors():
    state = PatchDiscriminator().state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert {name.split(".")[1] for name in shapes} == set(["0", "2", "3", "5", "6", "8", "9", "11"])
    convolutions = {
        "main.0.weight": (64, 1, 4, 4),
        "main.2.weight": (128, 64, 4, 4),
        "main.5.weight": (256, 128, 4, 4),
        "main.8.weight": (512, 256, 4, 4),
        "main.11.weight": (1, 512, 4, 4),
    }
    assert {name: shapes[name] for name in convolutions} == convolutions
    biased = [name for name in shapes if name.endswith(".bias") and len(shapes[name]) == 1]
    assert sorted(biased) == [f"main.{i}.bias" for i in (0, 11, 3, 6, 9)]
    assert shapes["main.9.running_var"] == (512,)


def test_patches_are_seventy_wide():
    """One score depends on 70 x 70 values of the spectrogram, and no more."""
    judge = PatchDiscriminator(4).eval()
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    scores = judge(x)
    assert scores.shape == (1, 1, 14, 14)
    scores[0, 0, 7, 7].backward()
    seen = x.grad[0, 0].nonzero()
    assert (seen.max(0).values - seen.min(0).values + 1).tolist() == [70, 70]


def test_patch_weights_start_as_the_authors_do():
    torch.manual_seed(0)
    judge = PatchDiscriminator()
    assert judge.main[8].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert judge.main[9].weight.mean().item() == pytest.approx(1.0, abs=0.01)
    assert not judge.main[9].bias.any()


def test_waves_are_folded_into_rows_of_a_period():
    wave = torch.arange(8.0)[None]
    folded = PeriodDiscriminator(3, (4,)).fold(wave)
    assert folded.tolist() == [[[[0, 1, 2], [3, 4, 5], [6, 7, 6]]]]
    assert PeriodDiscriminator(4, (4,)).fold(wave).tolist() == [[[[0, 1, 2, 3], [4, 5, 6, 7]]]]


def test_columns_of_a_period_do_not_mix():
    """A change in one phase changes the scores of that phase only."""
    judge = PeriodDiscriminator(3, (4, 4)).eval()
    wave = torch.randn(1, 90)
    changed = wave.clone()
    changed[:, 1::3] += 1.0
    first, second = (judge(each).score.view(-1, 3) for each in (wave, changed))
    differs = (first - second).abs().amax(0) > 0
    assert differs.tolist() == [False, True, False]


def test_resolution_discriminator_sees_magnitudes():
    """A steady tone fills its own bin, and its sign is not seen."""
    judge = ResolutionDiscriminator(512, 50, 240, 4)
    wave = torch.cos(2 * torch.pi * 64 / 512 * torch.arange(4096))[None]
    magnitude = judge.magnitude(wave)
    assert magnitude.shape == (1, 257, 81)
    assert (magnitude[0, :, 10:-10].argmax(0) == 64).all()
    assert magnitude[0, 64, 40].item() == pytest.approx(120, rel=0.02)  # half the window
    torch.testing.assert_close(judge(wave).score, judge(-wave).score)


def test_released_discriminators():
    judge = WaveDiscriminator()
    assert [each.period for each in judge.discriminators[:5]] == [2, 3, 5, 7, 11]
    found = [(d.n_fft, d.hop, len(d.window)) for d in judge.discriminators[5:]]
    assert tuple(found) == RESOLUTIONS
    # By hand from the channels of HiFi-GAN: convolutions, and the lengths of weight norm.
    expected = 5 * (8_218_433 + 2_721)
    assert sum(p.numel() for p in judge.discriminators[:5].parameters()) == expected
    assert "window" not in "".join(judge.state_dict())


def test_judgements_hold_each_layer_and_a_score_per_sample():
    found = small_judge()(torch.randn(3, 200))
    assert [len(each.features) for each in found] == [3, 3, 6]
    assert all(len(each.score) == 3 and each.score.ndim == 2 for each in found)
    assert all(torch.equal(each.features[-1].flatten(1), each.score) for each in found)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchDiscriminator(0), "channels and layers must be at least 1, got 0 and 3"),
        (lambda: PatchDiscriminator(layers=0), "got 64 and 0"),
        (lambda: PeriodDiscriminator(0), "period must be at least 1, got 0"),
        (lambda: ResolutionDiscriminator(64, 96, 80), "needs hop <= window <= n_fft"),
    ],
)
def test_bad_sizes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
