"""Examples: pure functions of (seed, index), with the mixtures the rules allow."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from rectiflow_audio.data import (
    Augment,
    Blend,
    Clips,
    MixtureDataset,
    MixtureRules,
    WaveformDataset,
    Wordings,
    mix,
)
from rectiflow_audio.data.mixtures import NOTHING_PHRASES
from rectiflow_audio.data.texts import Context

WINDOW = 0.2
N = 3200
LABELS = ("dog", "rain", "drum")


class Lengths(dict):
    """Embeds a text as its number of letters."""

    def __missing__(self, text: str) -> Context:
        return Context(torch.full((1, 2), float(len(text))), torch.ones(1))

    def __contains__(self, text: object) -> bool:
        return True


def clips(n: int = 9) -> Clips:
    """Clips whose label can be read off their pitch, longer and shorter than the window."""
    waves = []
    for i in range(n):
        length = (N // 2, N, 2 * N)[i // 3 % 3]
        waves.append(torch.sin(torch.arange(length) * (0.05, 0.4, 1.5)[i % 3]) * (i + 1))
    labels = [LABELS[i % 3] for i in range(n)]
    return Clips(waves, [f"a {label}" for label in labels], labels)


def label_heard(wave: torch.Tensor) -> str:
    place = float(torch.fft.rfft(wave).abs().argmax()) * 2 * torch.pi / len(wave)
    return LABELS[min(range(3), key=lambda i: abs((0.05, 0.4, 1.5)[i] - place))]


def equal(a: dict, b: dict) -> bool:
    return all(
        torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a
    )


def test_an_item_depends_on_seed_and_index_alone():
    made = MixtureDataset(clips(), Lengths(), WINDOW, augment=Augment(), seed=4)
    again = MixtureDataset(clips(), Lengths(), WINDOW, augment=Augment(), seed=4)
    later = [made[i, 2] for i in range(9)]
    assert all(equal(again[i, 2], later[i]) for i in reversed(range(9)))
    assert equal(made[5], made[5, 0])
    assert not equal(made[5, 0], made[5, 1])
    other = MixtureDataset(clips(), Lengths(), WINDOW, augment=Augment(), seed=5)
    assert not equal(made[5], other[5])


def test_an_item_is_a_mixture_of_its_clip_with_another_class():
    data = MixtureDataset(clips(), Lengths(), WINDOW, rules=MixtureRules((-3, 3)))
    heard = Counter()
    for i in range(9):
        for draw in range(6):
            item = data[i, draw]
            assert item["target"].shape == item["mixture"].shape == (N,)
            rest = item["mixture"] - item["target"]
            ratio = 10 * (item["target"].square().mean() / rest.square().mean()).log10()
            assert ratio == pytest.approx(float(item["snr"]), abs=1e-2)
            assert -3 <= item["snr"] <= 3
            assert item["mixture"].abs().max() == pytest.approx(0.5, abs=1e-5)
            assert abs(float(item["mixture"].mean())) < 1e-5
            target, interferer = label_heard(item["target"]), label_heard(rest)
            assert target == LABELS[i % 3] != interferer
            assert item["caption"] == f"a {target}"
            assert torch.equal(item["context"], Lengths()[item["caption"]].states)
            heard[interferer] += 1
    assert min(heard[label] for label in LABELS) > 8


def test_ambiguous_labels_do_not_meet():
    rules = MixtureRules(ambiguous={"drum": ["dog"]})
    data = MixtureDataset(clips(), Lengths(), WINDOW, rules=rules)
    items = [data[i, draw] for i in range(9) for draw in range(4)]
    pairs = {(label_heard(x["target"]), label_heard(x["mixture"] - x["target"])) for x in items}
    assert pairs == {("dog", "rain"), ("drum", "rain"), ("rain", "dog"), ("rain", "drum")}


def test_clips_of_one_class_cannot_be_mixed():
    alike = Clips([torch.randn(N)] * 3, ["a", "b", "c"], ["dog", "dog", "dog"])
    with pytest.raises(ValueError, match=r"clip 0 \(dog\) can be mixed with none of the 3 clips"):
        MixtureDataset(alike, Lengths(), WINDOW)
    MixtureDataset(alike, Lengths(), WINDOW, rules=MixtureRules(official=True))


def test_a_rare_partner_is_found():
    """One partner among two hundred: the draws give up, and the list is looked through."""
    labels = ["dog"] * 200 + ["rain"]
    data = MixtureDataset(
        Clips(
            [torch.sin(torch.arange(N) * 0.4)] * 200 + [torch.sin(torch.arange(N) * 1.5)],
            labels,
            labels,
        ),
        Lengths(),
        WINDOW,
    )
    for i in range(3):
        item = data[i]
        assert label_heard(item["mixture"] - item["target"]) == "drum"  # 1.5 a sample


def test_wordings_stand_in_for_captions():
    wordings = Wordings({"dog": ["a hairy animal", "woof"]}, share=0.5)
    data = MixtureDataset(clips(), Lengths(), WINDOW, wordings=wordings)
    drawn = Counter(data[0, draw]["caption"] for draw in range(200))
    assert set(drawn) == {"a dog", "a hairy animal", "woof"}
    assert 70 < drawn["a dog"] < 130
    assert {data[1, draw]["caption"] for draw in range(20)} == {"a rain"}
    assert data.captions == ["a dog", "a drum", "a hairy animal", "a rain", "woof"]


def test_a_caption_without_embedding_is_told_at_the_start():
    texts = {"a dog": None, "": None}
    with pytest.raises(ValueError, match="2 captions have no embedding, the first is 'a drum'"):
        MixtureDataset(clips(), texts, WINDOW)


def test_target_or_interferer_may_be_missing():
    data = MixtureDataset(clips(), Lengths(), WINDOW, absent=0.3, alone=0.3)
    kinds = Counter()
    for draw in range(100):
        item = data[0, draw]
        assert item["mixture"].abs().max() == pytest.approx(0.5, abs=1e-5)
        if not item["target"].any():
            kinds["absent"] += 1
            assert label_heard(item["mixture"]) != "dog"
        elif torch.equal(item["target"], item["mixture"]):
            kinds["alone"] += 1
            assert label_heard(item["mixture"]) == "dog"
    assert 15 < kinds["absent"] < 45
    assert 15 < kinds["alone"] < 45
    with pytest.raises(ValueError, match=r"loop, absent, alone and crowd are probabilities"):
        MixtureDataset(clips(), Lengths(), WINDOW, absent=0.6, alone=0.6)


def test_balanced_draws_give_every_label_its_share():
    labels = ["dog"] * 20 + ["rain", "drum"]
    waves = [
        torch.sin(torch.arange(N) * {"dog": 0.05, "rain": 0.4, "drum": 1.5}[label])
        for label in labels
    ]
    data = MixtureDataset(Clips(waves, labels, labels), Lengths(), WINDOW, balanced=True)
    drawn = Counter(data[i % 22, i // 22]["caption"] for i in range(1000))
    assert all(280 < drawn[label] < 390 for label in LABELS)


def test_the_authors_rules():
    """Level before padding, zeros at the end, whole decibels, mixture alone rescaled."""
    data = MixtureDataset(clips(), Lengths(), WINDOW, rules=MixtureRules(official=True))
    seen = set()
    for draw in range(30):
        item = data[0, draw]  # shorter than the window
        assert item["target"].abs().max() == pytest.approx(0.5, abs=1e-5)
        assert not item["target"][N // 2 :].any()
        assert float(item["snr"]) == int(item["snr"])
        seen.add(label_heard(item["mixture"] - item["target"]) if item["snr"] < -5 else "")
    assert "dog" in seen  # no check of labels
    assert not any(data[0, draw]["nothing"] for draw in range(30))


def test_the_authors_ask_for_nothing_now_and_then(monkeypatch):
    monkeypatch.setattr("rectiflow_audio.data.dataset.NOTHING_PROBABILITY", 1.0)
    data = MixtureDataset(clips(), Lengths(), WINDOW, rules=MixtureRules(official=True))
    items = [data[i, draw] for i in range(9) for draw in range(8)]
    assert all(item["nothing"] and not item["target"].any() for item in items)
    assert all(item["mixture"].any() for item in items)
    assert {item["caption"] for item in items} == set(NOTHING_PHRASES)
    assert set(NOTHING_PHRASES) <= set(data.captions)
    ours = MixtureDataset(clips(), Lengths(), WINDOW)
    assert not any(ours[i]["nothing"] for i in range(9))


def test_single_clips_have_their_peak_or_less():
    data = WaveformDataset(clips(), WINDOW)
    for i in range(9):
        wave = data[i]["target"]
        assert wave.shape == (N,)
        assert wave.abs().max() == pytest.approx(0.5, abs=1e-5)
    quiet = WaveformDataset(clips(), WINDOW, quietest_db=-20.0, seed=1)
    peaks = torch.stack([quiet[0, draw]["target"].abs().max() for draw in range(200)])
    assert 0.05 - 1e-4 <= peaks.min() < 0.06
    assert 0.45 < peaks.max() <= 0.5 + 1e-4
    assert torch.equal(quiet[3, 7]["target"], quiet[3, 7]["target"])
    with pytest.raises(ValueError, match="quietest_db must be at most 0, got 3"):
        WaveformDataset(clips(), WINDOW, quietest_db=3)


def test_clips_must_be_described_and_windows_long_enough():
    with pytest.raises(ValueError, match="got 1 waves, 2 captions and 1 labels"):
        Clips([torch.ones(3)], ["a", "b"], [""])
    with pytest.raises(ValueError, match=r"a window must be longer than 0\.1 s, got 0\.1 s"):
        WaveformDataset(clips(), 0.1)


def test_a_mixture_is_made_by_the_public_rule():
    """With clips of exactly one window nothing is drawn but ratio and order."""
    a, b = (torch.sin(torch.arange(N) * k) for k in (0.05, 0.4))
    data = MixtureDataset(Clips([a, b], ["a", "b"], ["a", "b"]), Lengths(), WINDOW)
    item = data[0]
    expected = mix(a - a.mean(), b - b.mean(), float(item["snr"]))
    assert torch.allclose(item["target"], expected.target, atol=1e-6)
    assert torch.allclose(item["mixture"], expected.mixture, atol=1e-6)


def test_both_sounds_of_a_mixture_are_told():
    data = MixtureDataset(clips(), Lengths(), WINDOW, ask_both=True)
    for row in range(9):
        item = data[row]
        assert data.clips.labels[data.partner(row)] == label_heard(item["other"])
        torch.testing.assert_close(
            item["target"] + item["other"], item["mixture"], atol=1e-5, rtol=0
        )
        told = len("a ") + len(label_heard(item["other"]))
        assert float(item["other_context"][0, 0]) == told


def test_a_crowd_holds_a_third_sound_that_nobody_asks_for():
    data = MixtureDataset(clips(), Lengths(), WINDOW, crowd=1.0, ask_both=True)
    for row in range(9):
        item = data[row]
        third = item["mixture"] - item["target"] - item["other"]
        heard = [label_heard(wave) for wave in (item["target"], item["other"], third)]
        assert sorted(heard) == sorted(LABELS)
    lone = MixtureDataset(clips(), Lengths(), WINDOW, crowd=1.0, absent=1.0, ask_both=True)[4]
    assert not lone["target"].any()
    assert float(lone["mixture"].abs().max()) == pytest.approx(0.5, rel=1e-4)
    assert lone["other"].any()


def test_a_blend_takes_the_place_of_a_clip_of_its_label():
    blend = Blend({"drum": ["dog", "rain"]}, probability=1.0, level_db=0.0)
    rules = MixtureRules(ambiguous={"drum": ["dog"]})
    data = MixtureDataset(clips(), Lengths(), WINDOW, rules=rules, blend=blend, loop=1.0)
    for draw in range(4):
        item = data[2, draw]
        assert item["caption"] == "a drum"
        spectrum = torch.fft.rfft(item["target"]).abs()
        places = [round(k * N / (2 * torch.pi)) for k in (0.05, 0.4, 1.5)]
        dog, rain, drum = (spectrum[place - 3 : place + 4].max() for place in places)
        assert 1 / 5 < dog / rain < 5  # one or two of each, of one power
        assert drum < 0.05 * min(dog, rain)
        assert label_heard(data[0, draw]["target"]) == "dog"


def test_blends_are_drawn_and_levelled():
    blend = Blend({"choir": ["low", "high"], "rain": ["rain"]}, probability=0.5, level_db=6.0)
    generator = torch.Generator().manual_seed(0)
    drawn = [blend.drawn("choir", generator) for _ in range(400)]
    assert 150 < sum(not parts for parts in drawn) < 250
    assert {len(parts) for parts in drawn} == {0, 2, 3}
    assert all(set(parts) == {"low", "high"} for parts in drawn if parts)
    assert {tuple(blend.drawn("rain", generator)) for _ in range(50)} == {
        (),
        ("rain", "rain"),
        ("rain", "rain", "rain"),
    }
    low, high = torch.tensor([1.0, -1.0]).repeat(50), 7 * torch.tensor([1.0, 1.0]).repeat(50)
    for _ in range(20):
        found = blend.sum("choir", [low, high], generator)
        shares = torch.stack([found @ low, found @ high / 7]) / 100
        assert ((20 * shares.log10()).abs() <= 6.001).all()


def test_the_parts_of_a_rhythm_are_struck_on_one_beat_bar_after_bar():
    blend = Blend({"loop": ["kick", "hat"]}, level_db=0.0, rhythmic=["loop"])
    kick, hat = torch.zeros(2, 40_000)
    kick[0], hat[1] = 1.0, -1.0
    for seed in range(8):
        found = blend.sum("loop", [kick, hat], torch.Generator().manual_seed(seed))
        kicks, hats = (found > 0.05).nonzero()[:, 0], (found < -0.05).nonzero()[:, 0] - 1
        assert kicks[0] == hats[0] == 0
        beat = math.gcd(*kicks.tolist(), *hats.tolist())
        assert beat >= 16_000 * 0.09
        if 8 * beat < 40_000:
            torch.testing.assert_close(found[8 * beat :], found[: -8 * beat], atol=1e-4, rtol=0)
        assert float(found[kicks].norm() / found[hats + 1].norm()) == pytest.approx(1, rel=1e-3)
    plain = blend.sum("other", [kick, hat], torch.Generator().manual_seed(0))
    assert plain.nonzero()[:, 0].tolist() == [0, 1]


def test_blends_of_nothing_are_refused():
    with pytest.raises(ValueError, match="got no parts of 'drum'"):
        Blend({"drum": []})
    with pytest.raises(ValueError, match=r"probability must lie in \[0, 1\], got 2"):
        Blend({}, probability=2)
    with pytest.raises(ValueError, match="got none of cat; expected labels among dog, drum, rain"):
        MixtureDataset(clips(), Lengths(), WINDOW, blend=Blend({"dog": ["cat", "dog"]}))
