"""Tables of metrics, of separations whose scores are known."""

import csv
import json
import math

import pytest
import torch
from rectiflow_audio.data.lists import MixtureRow
from rectiflow_audio.evaluation import Example, evaluate, ideal_mask_estimate, read_examples
from rectiflow_audio.frontend import LogMel
from rectiflow_audio.metrics import mel_statistics, si_sdr

N = 8000


def randn(seed):
    return 0.1 * torch.randn(N, generator=torch.Generator().manual_seed(seed))


def tone(hertz):
    return 0.3 * torch.sin(2 * math.pi * hertz * torch.arange(N) / 16_000)


@pytest.fixture
def examples():
    made = [
        ("dog", tone(500), randn(0)),
        ("dog", tone(700), randn(1)),
        ("cat", tone(900), randn(2)),
    ]
    return [
        Example(target + noise, target, f"a {label}", label, f"{label}{i}")
        for i, (label, target, noise) in enumerate(made)
    ]


def half_noise(examples):
    """Return a separator that halves the noise: 6.02 dB better than nothing."""
    targets = {example.mixture: example.target for example in examples}
    return lambda mixture, query: targets[mixture] + 0.5 * (mixture - targets[mixture])


def coarse(wave):
    return wave + 0.01 * torch.sign(wave)


def test_rows_and_both_references(examples):
    seen = []
    found = evaluate(half_noise(examples), iter(examples), codec=coarse, progress=seen.append)
    assert seen == [1, 2, 3]
    assert len(found.rows) == 9
    assert [row["system"] for row in found.rows[:3]] == ["estimate", "mixture", "codec"]
    estimate, mixture, codec = found.rows[:3]
    assert (estimate["name"], estimate["query"], estimate["label"]) == ("dog0", "a dog", "dog")
    assert estimate["sdri"] == pytest.approx(20 * math.log10(2), abs=1e-3)
    assert estimate["si_sdri"] == pytest.approx(6, abs=0.1)
    assert mixture["sdri"] == mixture["si_sdri"] == 0
    assert codec["sdr"] > estimate["sdr"] > mixture["sdr"]
    assert codec["mel_lsd"] < mixture["mel_lsd"]
    power = 10 * math.log10(float(examples[0].target.square().mean() / randn(0).square().mean()))
    assert mixture["sdr"] == pytest.approx(power, abs=1e-3)


def test_perfection_and_the_codec_alone(examples):
    targets = {example.mixture: example.target for example in examples}
    found = evaluate(lambda mixture, query: targets[mixture], examples, codec=lambda wave: wave)
    mean = found.summary["systems"]["estimate"]["mean"]
    assert mean["mel_lsd"] == mean["lsd"] == 0
    assert mean == found.summary["systems"]["codec"]["mean"]
    assert mean["sdr"] > 80


def test_means_over_examples_and_over_classes(examples):
    found = evaluate(half_noise(examples), examples, codec=coarse)
    summary = found.summary["systems"]["mixture"]
    dogs, cats = summary["classes"]["dog"], summary["classes"]["cat"]
    rows = [row["sdr"] for row in found.rows if row["system"] == "mixture"]
    assert (found.summary["count"], dogs["count"], cats["count"]) == (3, 2, 1)
    assert summary["mean"]["sdr"] == pytest.approx(sum(rows) / 3)
    assert dogs["sdr"] == pytest.approx(sum(rows[:2]) / 2)
    assert summary["class_mean"]["sdr"] == pytest.approx((dogs["sdr"] + cats["sdr"]) / 2)
    assert summary["class_median"]["sdr"] == pytest.approx(summary["class_mean"]["sdr"])


def test_medians_within_classes():
    noisy = [Example(tone(500) + k * randn(0), tone(500), "q", "dog") for k in (1, 1, 10)]
    found = evaluate(lambda mixture, query: mixture, noisy, codec=coarse)
    summary = found.summary["systems"]["mixture"]
    assert summary["class_median"]["sdr"] == pytest.approx(found.rows[1]["sdr"])
    assert summary["class_mean"]["sdr"] < summary["class_median"]["sdr"] - 5


def test_ideal_mask_beats_nothing_and_is_the_ceiling_of_masks(examples):
    found = evaluate(half_noise(examples), examples, codec=coarse, ideal_mask=True)
    means = {name: each["mean"] for name, each in found.summary["systems"].items()}
    assert means["ideal mask"]["si_sdri"] > 10
    mixture, target = examples[0].mixture, examples[0].target
    estimate = ideal_mask_estimate(mixture, target, LogMel())
    assert si_sdr(estimate, target) > si_sdr(mixture, target) + 10
    torch.testing.assert_close(
        ideal_mask_estimate(target, target, LogMel()), target, atol=1e-5, rtol=0
    )


def test_files_and_text(examples, tmp_path):
    found = evaluate(half_noise(examples), examples, codec=coarse, embed=mel_statistics)
    table, summary = found.save(tmp_path)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert float(rows[0]["sdri"]) == found.rows[0]["sdri"]
    assert json.loads(summary.read_text()) == found.summary
    assert [path.name for path in tmp_path.glob(".*")] == [".rectiflow"]
    lines = found.table().splitlines()
    assert lines[0].split()[:5] == ["system", "sdr", "↑", "sdri", "↑"]
    assert "mel_lsd ↓" in lines[0]
    assert "fad ↓" in lines[0]
    assert [line.split()[0] for line in lines[1:4]] == ["estimate", "mixture", "codec"]
    assert lines[1].split()[2] == "6.021"
    assert [line.split()[:2] for line in lines[6:]] == [["dog", "2"], ["cat", "1"]]


def test_frechet_distance_of_each_system(examples):
    found = evaluate(half_noise(examples), examples, codec=lambda wave: wave, embed=mel_statistics)
    fads = {name: each["fad"] for name, each in found.summary["systems"].items()}
    assert fads["codec"] == pytest.approx(0, abs=1e-6)
    assert fads["mixture"] > fads["estimate"] > 0


class FakeClap:
    """Sounds and queries as directions: loud is (1, 0), the query is too."""

    def text(self, texts):
        return torch.tensor([[1.0, 0.0]] * len(texts))

    def audio(self, waves):
        return torch.stack([torch.stack([w.abs().max(), 1 - w.abs().max()]) for w in waves])


def test_clap_scores_with_and_without_a_reference(examples):
    wave = torch.zeros(N)
    wave[0] = 0.6
    unreferenced = Example(wave, None, "a dog")
    found = evaluate(lambda mixture, query: mixture, [unreferenced], codec=coarse, clap=FakeClap())
    assert [row["system"] for row in found.rows] == ["estimate", "mixture"]
    assert set(found.rows[0]) == {"name", "system", "query", "label", "clap_score"}
    assert found.rows[0]["clap_score"] == pytest.approx(0.6 / math.hypot(0.6, 0.4), abs=1e-5)
    found = evaluate(half_noise(examples), examples, codec=lambda wave: wave, clap=FakeClap())
    assert found.rows[2]["clap_score_audio"] == pytest.approx(1)
    with pytest.raises(ValueError, match="example_1 has no target and there is no CLAP"):
        evaluate(lambda mixture, query: mixture, [unreferenced], codec=coarse)


def test_results_that_cannot_be_compared_are_refused(examples):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(half_noise(examples), [], codec=coarse)
    with pytest.raises(ValueError, match=r"the estimate of dog0 does not fit.*got shape \(8032,\)"):
        evaluate(lambda mixture, query: torch.zeros(N + 32), examples, codec=coarse)
    with pytest.raises(ValueError, match="the estimate of dog0 holds NaN"):
        evaluate(lambda mixture, query: mixture / 0, examples, codec=coarse)
    with pytest.raises(ValueError, match=r"codec's output for dog0 does not fit.*got shape \(1, "):
        evaluate(half_noise(examples), examples, codec=lambda wave: wave[None])


# ---- reading lists


def write(path, wave, rate=16_000):
    import soundfile

    soundfile.write(path, wave.numpy(), rate, subtype="FLOAT")
    return path


def test_clips_are_mixed_at_the_ratio_of_the_list(tmp_path):
    target = write(tmp_path / "target.wav", tone(500))
    others = write(tmp_path / "a.wav", randn(0)[:5000]), write(tmp_path / "b.wav", randn(1))
    rows = [
        MixtureRow(target, others, "a tone", -6.0, ("tone",)),
        MixtureRow(target, others[:1], "a tone"),
    ]
    first, second = read_examples(rows, snr=3.0)
    for example, snr in ((first, -6.0), (second, 3.0)):
        noise = example.mixture - example.target
        ratio = 10 * torch.log10(example.target.square().mean() / noise.square().mean())
        assert ratio == pytest.approx(snr, abs=1e-3)
        assert example.mixture.abs().max() == pytest.approx(0.5, abs=1e-5)
        assert len(example.mixture) == len(example.target) == N
        assert si_sdr(example.target, tone(500)) > 60
    assert (first.label, first.name, first.query) == ("tone", "target", "a tone")
    assert (second.mixture - second.target)[5000:].abs().max() < 1e-6  # a short clip ends


def test_mixtures_that_are_files_keep_their_target_in_step(tmp_path):
    mixture = write(tmp_path / "mixture-3.wav", tone(500) + randn(0))
    target = write(tmp_path / "segment-3.wav", tone(500))
    row = MixtureRow(target, (), "a tone", mixture=mixture)
    (example,) = read_examples([row])
    assert example.mixture.abs().max() == pytest.approx(0.5, abs=1e-5)
    scale = example.mixture[100] / (tone(500) + randn(0))[100]
    torch.testing.assert_close(example.target, scale * tone(500), atol=1e-5, rtol=1e-4)
    (alone,) = read_examples([MixtureRow(None, (), "a tone", mixture=mixture)])
    assert alone.target is None


def test_sounds_of_another_rate_are_resampled(tmp_path):
    t = torch.arange(48_000) / 48_000
    target = write(tmp_path / "t.wav", 0.3 * torch.sin(2 * math.pi * 500 * t), 48_000)
    other = write(tmp_path / "o.wav", randn(0))
    (example,) = read_examples([MixtureRow(target, (other,), "a tone")])
    assert len(example.mixture) == 16_000


def test_a_row_with_nothing_to_mix_is_refused(tmp_path):
    target = write(tmp_path / "target.wav", tone(500))
    with pytest.raises(ValueError, match="the row of query 'a tone' has nothing to mix"):
        list(read_examples([MixtureRow(target, (), "a tone")]))
