"""Mixing: the ratio asked for, one factor for both, and which clips may meet."""

from __future__ import annotations

import pytest
import torch
from rectiflow_audio.data.mixtures import PEAK, MixtureRules, labels_of, mix


def waves(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def snr_of(target: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    rest = mixture - target
    return 10 * (target.square().mean(-1) / rest.square().mean(-1)).log10()


@pytest.mark.parametrize("snr", [-15.0, -3.3, 0.0, 15.0])
def test_the_ratio_is_that_asked_for_and_the_target_stays_a_part(snr):
    target, interferer = waves(0, 4000), 30 * waves(1, 4000)
    made = mix(target, interferer, snr)
    assert snr_of(made.target, made.mixture) == pytest.approx(snr, abs=1e-3)
    assert made.mixture.abs().max() == pytest.approx(PEAK, abs=1e-6)
    # One factor: what is left is the interferer, and the target only changed its level.
    for part, source in ((made.target, target), (made.mixture - made.target, interferer)):
        assert torch.allclose(part, source * (part @ source) / (source @ source), atol=1e-5)


def test_rows_of_a_batch_have_their_own_ratio_and_factor():
    target, interferer = waves(0, 2, 1000), waves(1, 2, 1000) * torch.tensor([[1.0], [9.0]])
    snr = torch.tensor([-10.0, 5.0])
    made = mix(target, interferer, snr)
    assert torch.allclose(snr_of(made.target, made.mixture), snr, atol=1e-3)
    for row in range(2):
        alone = mix(target[row], interferer[row], float(snr[row]))
        assert torch.allclose(alone.mixture, made.mixture[row], atol=1e-6)


def test_the_authors_rescale_the_mixture_alone_and_only_when_it_is_too_loud():
    target, interferer = waves(0, 1000), waves(1, 1000)
    loud = mix(target, interferer, 0.0, official=True)
    assert torch.equal(loud.target, target)
    assert loud.mixture.abs().max() == pytest.approx(0.9, abs=1e-6)
    quiet = mix(target / 100, interferer, 0.0, official=True)
    assert torch.equal(quiet.target, target / 100)
    assert snr_of(quiet.target, quiet.mixture) == pytest.approx(0.0, abs=1e-3)
    assert quiet.mixture.abs().max() < 0.2


def test_a_silent_wave_and_unequal_lengths_are_refused():
    with pytest.raises(ValueError, match="a silent wave has no signal-to-noise ratio"):
        mix(torch.zeros(10), torch.ones(10), 0.0)
    with pytest.raises(ValueError, match=r"must have one shape, got \(10,\) and \(11,\)"):
        mix(torch.ones(10), torch.ones(11), 0.0)


def draws(rules: MixtureRules, n: int = 4000) -> list[float]:
    generator = torch.Generator().manual_seed(0)
    return [rules.draw_snr(generator) for _ in range(n)]


def test_ratios_are_uniform_over_the_range():
    found = draws(MixtureRules((-5.0, 5.0)))
    assert min(found) == pytest.approx(-5, abs=0.05)
    assert max(found) == pytest.approx(5, abs=0.05)
    assert sum(found) / len(found) == pytest.approx(0, abs=0.2)
    assert set(draws(MixtureRules((3.0, 3.0)), 5)) == {3.0}


def test_the_authors_ratios_are_whole_numbers_without_the_upper_end():
    assert set(draws(MixtureRules(official=True))) == set(map(float, range(-15, 15)))


def test_an_inverted_range_is_refused():
    with pytest.raises(ValueError, match=r"snr_db must be a range \(low, high\), got \(5, -5\)"):
        MixtureRules((5, -5))


def test_labels_must_be_disjoint_and_not_ambiguous():
    rules = MixtureRules(ambiguous={"drum_loop": ["snare_drum", "tabla"]})
    loop, snare, dog = ({name} for name in ("drum_loop", "snare_drum", "dog"))
    cases = [
        (loop, snare, False),
        (snare, loop, False),  # in either role
        (snare, {"tabla"}, True),  # what is ambiguous with a third is not so with another
        (loop, dog, True),
        (dog, dog, False),
        ({"dog", "rain"}, {"rain", "speech"}, False),
        ({"dog", "tabla"}, loop, False),
    ]
    for a, b, expected in cases:
        assert rules.compatible(frozenset(a), frozenset(b)) is expected, (a, b)
    assert MixtureRules(official=True).compatible(frozenset(dog), frozenset(dog))


def test_a_caption_stands_in_for_missing_labels():
    assert labels_of(" a, b ,", "x") == {"a", "b"}
    assert labels_of("", " A dog Barks") == labels_of(" ,", "a dog barks")
