"""Distances of sets, and the networks behind them: random ones of the same classes."""

import math

import numpy as np
import pytest
import torch
from rectiflow.storage.tensor_files import CheckpointError
from rectiflow_audio.metrics import (
    Clap,
    Gaussian,
    Vggish,
    clap_score,
    frechet_audio_distance,
    frechet_distance,
    mel_statistics,
)
from rectiflow_audio.metrics.clap import evenly_spread
from rectiflow_audio.metrics.vggish import mel_filters
from safetensors.torch import save_file

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- Fréchet distance


def test_frechet_distance_of_diagonal_gaussians_has_a_closed_form():
    a = Gaussian(torch.tensor([0.0, 1.0]), torch.diag(torch.tensor([1.0, 4.0])))
    b = Gaussian(torch.tensor([2.0, 1.0]), torch.diag(torch.tensor([9.0, 4.0])))
    assert frechet_distance(a, b) == pytest.approx(4 + (3 - 1) ** 2)
    assert frechet_distance(b, a) == pytest.approx(8)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_agrees_with_the_matrix_root():
    linalg = pytest.importorskip("scipy.linalg")
    a, b = Gaussian.of(randn(50, 6)), Gaussian.of(2 * randn(40, 6, seed=1) + 0.3)
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    expected = (a.mean - b.mean).square().sum() + np.trace(
        a.covariance.numpy() + b.covariance.numpy() - 2 * root
    )
    assert frechet_distance(a, b) == pytest.approx(float(expected), rel=1e-8)


def test_gaussian_is_that_of_numpy():
    x = randn(30, 4)
    found = Gaussian.of(x)
    np.testing.assert_allclose(found.covariance, np.cov(x.double().numpy(), rowvar=False))
    np.testing.assert_allclose(found.mean, x.double().numpy().mean(0))


def test_singular_covariances_are_no_trouble():
    """Three sounds in 16 dimensions: rank 2, and the distance to itself is still nothing."""
    few = Gaussian.of(randn(3, 16))
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    moved = Gaussian(few.mean + 1, few.covariance)
    assert frechet_distance(few, moved) == pytest.approx(16, rel=1e-6)


def test_too_few_embeddings_and_other_widths_are_refused():
    with pytest.raises(ValueError, match=r"at least two embeddings, got shape \(1, 4\)"):
        Gaussian.of(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="must have one width, got 4 and 3"):
        frechet_distance(Gaussian.of(randn(5, 4)), Gaussian.of(randn(5, 3)))
    with pytest.raises(ValueError, match="at least two embeddings"):
        frechet_audio_distance([], [randn(8000)], mel_statistics)


def test_audio_distance_pools_all_windows_of_a_set():
    """With a fake embedding the distance is that of the pooled rows."""
    estimates, references = [randn(4, 3), randn(2, 3, seed=1)], [randn(5, 3, seed=2) + 1]
    found = frechet_audio_distance(estimates, references, lambda wave: wave)
    pooled = Gaussian.of(torch.cat(estimates)), Gaussian.of(references[0])
    assert found == pytest.approx(frechet_distance(*pooled))


def test_mel_statistics_tell_noise_from_tones():
    t = torch.arange(16_000) / 16_000
    tones = [0.3 * torch.sin(2 * math.pi * f * t) for f in (300, 500, 700, 900)]
    noises = [0.1 * randn(16_000, seed=s) for s in range(8)]
    assert mel_statistics(torch.cat(tones[:2])).shape == (2, 128)
    assert torch.isfinite(mel_statistics(randn(16_100))).all()
    near = frechet_audio_distance(noises[:4], noises[4:], mel_statistics)
    far = frechet_audio_distance(tones, noises[4:], mel_statistics)
    assert near < 0.1 * far


# ---- VGGish


def tiny_vggish():
    torch.manual_seed(3)
    return Vggish((2, 3, 4, 5), hidden=6, width=7)


def test_vggish_embeds_whole_windows():
    net = tiny_vggish()
    per_window = {15_600 - 1: 1, 15_600: 1, 15_600 + 96 * 160: 2, 163_840: 10, 500: 1}
    for samples, windows in per_window.items():
        assert net(randn(samples)).shape == (windows, 7)
    wave = randn(40_000)
    torch.testing.assert_close(net(wave)[:1], net(wave[:15_600]))
    assert not net.training
    assert not net(wave).requires_grad


def test_vggish_front_end():
    """A tone at the centre of a band is strongest there; silence is the log of the offset."""
    net = tiny_vggish()
    mel = 1127 * math.log1p(1000 / 700)
    low, high = (1127 * math.log1p(f / 700) for f in (125, 7500))
    t = torch.arange(16_000) / 16_000
    spectrum = net.log_mel(torch.sin(2 * math.pi * 1000 * t))
    assert spectrum.shape == (1 + (16_000 - 400) // 160, 64)
    assert int(spectrum.mean(0).argmax()) == round((mel - low) / (high - low) * 65) - 1
    assert torch.allclose(net.log_mel(torch.zeros(800)), torch.tensor(math.log(0.01)))


def test_vggish_filters_are_triangles_over_the_mel_scale():
    """Between the first and the last centre, neighbours add up to one at every frequency."""
    filters = mel_filters()
    assert filters.shape == (64, 257)
    mel = 1127 * np.log1p(np.linspace(0, 8000, 257) / 700)
    edges = np.linspace(1127 * np.log1p(125 / 700), 1127 * np.log1p(7500 / 700), 66)
    inside = (mel > edges[1]) & (mel < edges[-2])
    np.testing.assert_allclose(filters[:, torch.from_numpy(inside)].sum(0), 1, atol=1e-5)
    assert filters[:, 0].sum() == 0


def test_vggish_flattens_channels_last():
    net = tiny_vggish()
    wave = randn(15_600)
    features = net.features(net.log_mel(wave)[None, None, :96])[0]
    by_hand = [features[c, h, w] for h in range(6) for w in range(4) for c in range(5)]
    torch.testing.assert_close(net.embeddings(torch.stack(by_hand)[None]), net(wave))


@pytest.mark.parametrize("prefix", ["embeddings.", "embedding."])
def test_vggish_reads_both_published_layouts(tmp_path, prefix):
    net = tiny_vggish()
    state = {k.replace("embeddings.", prefix): v for k, v in net.state_dict().items()}
    wave = randn(16_000)
    torch.save({**state, "pproc.pca_means": torch.zeros(7, 1)}, tmp_path / "vggish.pth")
    torch.testing.assert_close(Vggish.load(tmp_path / "vggish.pth")(wave), net(wave))
    save_file(state, tmp_path / "vggish.safetensors")
    torch.testing.assert_close(Vggish.load(tmp_path / "vggish.safetensors")(wave), net(wave))


def test_vggish_sizes_are_the_published_ones():
    assert sum(p.numel() for p in Vggish().parameters()) == 72_141_184


def test_vggish_refuses_other_files(tmp_path):
    save_file({"features.0.weight": torch.zeros(2, 1, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"is not VGGish, it lacks features.3.weight"):
        Vggish.load(tmp_path / "other.safetensors")
    state = tiny_vggish().state_dict()
    del state["features.8.bias"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(CheckpointError, match=r"features\.8\.bias"):
        Vggish.load(tmp_path / "part.safetensors")


# ---- CLAP


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    """A random CLAP of the published class with a tokeniser of letters."""
    transformers = pytest.importorskip("transformers")
    vocab = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *LETTERS, "Ġ"])}
    tokenizer = transformers.RobertaTokenizer(vocab=vocab, merges=[], model_max_length=20)
    extractor = transformers.ClapFeatureExtractor(
        feature_size=64, max_length_s=1, truncation="rand_trunc", frequency_max=14_000
    )
    text = {"vocab_size": len(vocab), "hidden_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 40}
    audio = {"patch_embeds_hidden_size": 8, "hidden_size": 32, "depths": [1, 1, 1]}
    audio |= {"num_attention_heads": [1, 1, 1], "spec_size": 128, "window_size": 4}
    audio |= {"num_mel_bins": 64, "num_hidden_layers": 3}
    torch.manual_seed(5)
    config = transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=12)
    folder = tmp_path_factory.mktemp("clap")
    transformers.ClapModel(config).save_pretrained(folder)
    transformers.ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(clap_folder):
    return Clap.load(clap_folder)


def test_clap_embeds_texts_and_sounds_in_one_space(clap):
    texts = clap.text(["a dog barks", "rain"])
    sounds = clap.audio([randn(8000), randn(40_000, seed=1)])
    assert texts.shape == sounds.shape == (2, 12)
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(sounds.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(clap.text(["rain"])[0], texts[1], atol=1e-5, rtol=0)
    score = clap_score(texts, sounds)
    torch.testing.assert_close(score, (texts * sounds).sum(-1))
    torch.testing.assert_close(clap_score(sounds, sounds), torch.ones(2))


def test_clap_equals_transformers(clap):
    """A sound of exactly one window, already at the model's rate."""
    wave, rate = randn(48_000) * 0.1, 48_000
    extract = clap.processor.feature_extractor
    inputs = extract([wave.numpy()], sampling_rate=rate, return_tensors="pt")
    with torch.no_grad():
        expected = clap.model.get_audio_features(
            input_features=inputs["input_features"].float()
        ).pooler_output
    torch.testing.assert_close(clap.audio([wave], rate), expected, atol=1e-5, rtol=1e-4)


def test_clap_draws_nothing(clap):
    """Sounds longer than the window give the same numbers whatever numpy's generator holds."""
    wave = randn(3 * 16_000 + 5000)
    np.random.seed(1)  # noqa: NPY002 - it is this generator that transformers draws from
    first = clap.audio([wave])
    np.random.seed(2)  # noqa: NPY002
    assert torch.equal(clap.audio([wave]), first)


def test_long_sounds_are_cut_into_windows_from_end_to_end():
    wave = torch.arange(100)
    assert [int(w[0]) for w in evenly_spread(wave, 30)] == [0, 35, 70]
    assert [int(w[0]) for w in evenly_spread(wave, 98)] == [1]
    assert all(len(w) == 30 for w in evenly_spread(wave, 30))
    assert evenly_spread(wave, 100)[0].equal(wave)
    assert evenly_spread(wave, 200)[0].equal(wave)


def test_clap_without_a_model_and_with_a_fusing_one(clap, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="no CLAP model at 'someone/none'"):
        Clap.load("someone/none")
    monkeypatch.setattr(clap.model.config.audio_config, "enable_fusion", True)
    with pytest.raises(ValueError, match="the CLAP model fuses random crops"):
        Clap(clap.model, clap.processor)


def test_clap_can_be_the_embedding_of_a_frechet_distance(clap):
    sounds = [randn(8000, seed=s) for s in range(4)]

    def embed(wave):
        return clap.audio([wave])

    assert frechet_audio_distance(sounds, sounds, embed) == pytest.approx(0, abs=1e-6)
