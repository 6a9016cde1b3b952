"""The pipeline on small random networks: shapes, levels, lengths, options and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.conditioning import TextEmbedding
from rectiflow.solvers import Heun
from rectiflow.storage.tensor_files import CheckpointError
from rectiflow_audio import (
    GriffinLim,
    Masking,
    Mean,
    SeparationPipeline,
    SeparationSettings,
    SeparationUNet,
    SpectrogramVae,
    UNetConfig,
    VaeConfig,
    Vocoding,
)
from rectiflow_audio.candidates import Best, Medoid
from rectiflow_audio.data import mix
from rectiflow_audio.examples import KICK_DRUM, RAIN
from rectiflow_audio.io import AudioFileError, AudioWriter, read_audio, sound_info, write_audio
from rectiflow_audio.metrics import si_sdr
from rectiflow_audio.result import file_names
from rectiflow_audio.separator import Separator, one_place
from rectiflow_audio.windows import Windows

RATE = 16_000


class Words:
    """Embeds texts by their bytes; longer than 50 is too long."""

    def encode(self, texts):
        if any(len(text) > 50 for text in texts):
            raise ValueError(f"the text has {len(texts[0])} tokens; expected at most 50.")
        rows = [
            torch.randn(1, 12, generator=torch.Generator().manual_seed(hash_of(t))) for t in texts
        ]
        return TextEmbedding(torch.stack(rows), torch.ones(len(texts), 1))

    def null(self, batch):
        return TextEmbedding(torch.zeros(batch, 1, 12), torch.ones(batch, 1))


def hash_of(text: str) -> int:
    return int.from_bytes(text.encode()[:6].ljust(6, b"\0"), "big") % 2**31


@pytest.fixture(scope="module")
def pipe() -> SeparationPipeline:
    torch.manual_seed(0)
    sizes = UNetConfig(4, 4, 16, (1, 2), (False, True), 1, 8, 12, groups=4)
    unet = SeparationUNet(sizes)
    vae = SpectrogramVae(
        VaeConfig(channels=8, multipliers=(1, 1, 2), blocks=1, latent_channels=4, groups=4), 0.5
    )
    settings = SeparationSettings("words", 0.64, 2, posterior_sample=False, has_vocoder=False)
    return SeparationPipeline(unet, vae, text=Words(), settings=settings)  # type: ignore[arg-type]


@pytest.fixture
def mixture() -> np.ndarray:
    generator = np.random.default_rng(0)
    return (0.2 * generator.standard_normal((2, 30_011))).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_estimates_have_the_mixtures_channels_and_length(pipe, mixture, rate):
    result = pipe(mixture, rate, ["a dog barks", "rain"], residual=True)
    assert [e.samples.shape for e in result.estimates] == [mixture.shape] * 2
    assert result.residual.shape == mixture.shape
    assert result.settings["nfe"] == 2


def test_estimates_and_residual_sum_to_the_mixture(pipe, mixture):
    result = pipe(mixture, RATE, ["a dog barks", "rain"], residual=True)
    total = sum(e.samples for e in result.estimates) + result.residual
    np.testing.assert_allclose(total, mixture, atol=1e-5)


def test_consistent_estimates_sum_to_the_mixture(pipe, mixture):
    asked = ["a dog barks", "rain"]
    loose = sum(e.samples for e in pipe(mixture, RATE, asked).estimates)
    firm = sum(e.samples for e in pipe(mixture, RATE, asked, consistent=True).estimates)
    assert np.abs(loose - mixture).max() > 1e-3
    np.testing.assert_allclose(firm, mixture, atol=1e-5)


def test_level_of_the_mixture_is_remembered(pipe, mixture):
    quiet = pipe(0.01 * mixture, RATE, "rain").estimates[0].samples
    loud = pipe(mixture, RATE, "rain").estimates[0].samples
    np.testing.assert_allclose(100 * quiet, loud, atol=2e-3 * np.abs(loud).max())


def test_an_offset_changes_nothing_but_the_residual(pipe, mixture):
    plain = pipe(mixture[:, :9000], RATE, "rain", residual=True)
    shifted = pipe(mixture[:, :9000] + 0.1, RATE, "rain", residual=True)
    np.testing.assert_allclose(shifted.estimates[0].samples, plain.estimates[0].samples, atol=1e-3)
    np.testing.assert_allclose(shifted.residual, plain.residual + 0.1, atol=1e-3)


def test_silence_gives_silence(pipe):
    result = pipe(np.zeros((2, 20_000), np.float32), RATE, "rain", residual=True)
    assert not result.estimates[0].samples.any()
    assert not result.residual.any()
    assert result.estimates[0].energy == 0


def test_a_silent_channel_stays_silent(pipe, mixture):
    half = mixture.copy()
    half[1] = 0
    found = pipe(half, RATE, "rain").estimates[0].samples
    assert found[0].any()
    assert not found[1].any()


def test_the_mean_channels_mask_serves_every_channel(pipe, mixture):
    one = pipe(mixture[:1].repeat(2, 0), RATE, "rain", channels="mid").estimates[0].samples
    np.testing.assert_allclose(one[0], one[1], atol=1e-7)
    each = pipe(mixture[:1], RATE, "rain").estimates[0].samples
    np.testing.assert_allclose(one[0], each[0], atol=1e-5)


def test_one_place_keeps_levels_between_channels(pipe, mixture):
    panned = np.concatenate([mixture[:1], 0.25 * mixture[:1]])
    left, right = pipe(panned, RATE, "rain").estimates[0].samples
    np.testing.assert_allclose(right, 0.25 * left, atol=1e-5)
    alone = pipe(mixture[:1], RATE, "rain").estimates[0].samples
    np.testing.assert_allclose(left, alone[0], atol=1e-5)


def test_one_place_follows_the_louder_channel():
    steady = torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None].log()  # frames, one band
    wild = torch.tensor([0.4, 0.1, 0.2, 0.3])[:, None].log()
    gain = torch.tensor([[1.0], [2.0]])
    mels = torch.stack([steady, wild + gain[1].log()])[:, None]
    placed = (one_place(mels, gain, 2) - gain.log()[:, None, :, None])[:, 0, :, 0]
    difference = (placed[1] - placed[0]).exp()
    torch.testing.assert_close(difference, difference[:1].expand(4))
    torch.testing.assert_close(difference[0], (0.3 / 30.0) ** torch.tensor(0.5))
    torch.testing.assert_close(placed[0].exp(), steady[:, 0].exp(), rtol=0.05, atol=0)


def test_results_are_a_function_of_the_seed(pipe, mixture):
    found = [pipe(mixture, RATE, "rain", seed=s).estimates[0].samples for s in (3, 3, 4)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 1e-4


def test_queries_do_not_depend_on_each_other(pipe, mixture):
    alone = pipe(mixture, RATE, "rain").estimates[0].samples
    second = pipe(mixture, RATE, ["a dog barks", "rain"]).estimates[1].samples
    np.testing.assert_allclose(second, alone, atol=1e-5)


def test_guidance_and_negative_queries_change_the_estimate(pipe, mixture):
    wave = mixture[:, :9000]
    plain = pipe(wave, RATE, "rain").estimates[0].samples
    guided = pipe(wave, RATE, "rain", guidance=3.0)
    against = pipe(wave, RATE, "rain", guidance=3.0, negative="wind").estimates[0].samples
    assert guided.settings["nfe"] == 4
    assert np.abs(guided.estimates[0].samples - plain).max() > 1e-4
    assert np.abs(against - guided.estimates[0].samples).max() > 1e-4


def test_guidance_is_the_checkpoints_own_unless_told(pipe, mixture, monkeypatch):
    wave = mixture[:, :9000]
    guided = pipe(wave, RATE, "rain", guidance=3.0)
    plain = pipe(wave, RATE, "rain")
    monkeypatch.setattr(pipe, "settings", replace(pipe.settings, guidance=3.0))
    own = pipe(wave, RATE, "rain")
    np.testing.assert_array_equal(own.estimates[0].samples, guided.estimates[0].samples)
    assert (own.settings["guidance"], plain.settings["guidance"]) == (3.0, 1.0)
    pipe(wave, RATE, "rain", negative="wind")  # acts without more words
    with pytest.raises(ValueError, match="acts through guidance"):
        pipe(wave, RATE, "rain", negative="wind", guidance=1.0)


def test_other_solvers_serve(pipe, mixture):
    result = pipe(mixture[:, :9000], RATE, "rain", solver=Heun())
    assert result.settings["nfe"] == 4


def test_bfloat16_is_near_float32(pipe, mixture, monkeypatch):
    wave = mixture[:, :9000]
    full = pipe(wave, RATE, "rain").estimates[0].samples
    monkeypatch.setattr(pipe, "dtype", torch.bfloat16)
    result = pipe(wave, RATE, "rain")
    low = result.estimates[0].samples
    assert result.settings["dtype"] == "bfloat16"
    assert 0 < np.abs(full - low).max() < 0.05


@pytest.mark.parametrize("pick", [Medoid(), Mean(), Best(lambda wave, query: float(wave.std()))])
def test_one_of_several_candidates_is_picked(pipe, mixture, pick):
    result = pipe(mixture[:, :9000], RATE, "rain", n_candidates=3, pick=pick)
    assert result.settings["candidates"] == 3
    assert np.isfinite(result.estimates[0].samples).all()


def test_best_takes_the_largest_score():
    mels = torch.tensor([[[0.0]], [[2.0]], [[1.0]]])
    assert Best(lambda wave, query: float(wave.sum()))(mels, "q", lambda mel: mel).item() == 2.0
    assert Best(lambda wave, query: -float(wave.sum()))(mels, "q", lambda mel: mel).item() == 0.0


def test_the_medoid_is_nearest_to_the_others_and_the_mean_is_of_magnitudes():
    mels = torch.tensor([0.0, 1.0, 5.0]).log1p().view(3, 1, 1)
    assert Medoid()(mels, "q", lambda mel: mel).exp().item() == pytest.approx(2.0)
    assert Mean()(mels, "q", lambda mel: mel).exp().item() == pytest.approx(3.0)


def test_griffin_lim_needs_no_vocoder_and_still_gives_a_residual(pipe, mixture):
    result = pipe(
        mixture[:1, :9000], RATE, "rain", waveform=GriffinLim(iterations=2), residual=True
    )
    assert result.estimates[0].samples.shape == (1, 9000)
    assert np.square(result.residual).sum() <= np.square(mixture[:1, :9000]).sum() * 1.01


def test_long_sounds_are_the_same_piece_by_piece(pipe, mixture):
    request = pipe.request("rain", seed=1)
    wave = torch.from_numpy(mixture)
    whole = torch.cat(list(pipe.stream([wave], RATE, request)), -1)
    parts = torch.cat(list(pipe.stream(wave.split(7001, -1), RATE, request)), -1)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=0)
    assert len(pipe.windows(RATE).starts(mixture.shape[1])) > 3


def test_weights_say_how_their_waves_are_made(pipe, monkeypatch):
    told = replace(pipe.settings, mask_exponent=0.7, mask_headroom=0.25)
    monkeypatch.setattr(pipe, "settings", told)
    assert pipe.request("rain").waveform == Masking(0.7, 0.25)
    assert pipe.request("rain", waveform=Masking(2.0)).waveform == Masking(2.0)
    with pytest.raises(ValueError, match=r"mask_exponent must lie in 0\.01 to 100, got 0"):
        replace(told, mask_exponent=0.0)


def test_seams_leave_neither_click_nor_dip(pipe):
    # A mask of ones must give the sound back but for each window's mean, whatever its level.
    wave = torch.sin(2 * torch.pi * 440 * torch.arange(40_000) / RATE)[None] * torch.linspace(
        0.05, 0.9, 40_000
    )
    open_mask = Masking(exponent=1.0, headroom=100.0)
    request = pipe.request("rain", waveform=open_mask)
    found = torch.cat(list(pipe.stream([wave], RATE, request)), -1)[0]
    torch.testing.assert_close(found, wave, atol=2e-3, rtol=0)


def test_files_of_any_length_are_streamed(pipe, mixture, tmp_path):
    write_audio(tmp_path / "in.wav", mixture, RATE, subtype="FLOAT")
    calls = []
    summary = pipe.separate_file(
        tmp_path / "in.wav",
        pipe.request(["rain", "a dog barks"], residual=True),
        [tmp_path / name for name in ("rain.wav", "dog.flac", "rest.wav")],
        progress=lambda done, total: calls.append((done, total)),
    )
    found = pipe(mixture, RATE, ["rain", "a dog barks"], residual=True)
    written = read_audio(tmp_path / "rain.wav").samples
    np.testing.assert_allclose(written, found.estimates[0].samples, atol=1e-4)
    assert read_audio(tmp_path / "dog.flac").samples.shape == mixture.shape
    assert calls[-1][0] == calls[-1][1] == len(calls)
    assert read_audio(tmp_path / "rest.wav").samples.any()
    assert summary["energy"]["rain"] == pytest.approx(found.estimates[0].energy, rel=1e-2)


def test_a_failure_leaves_no_file(pipe, tmp_path):
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    with pytest.raises(AudioFileError, match=r"no\.wav"):
        pipe.separate_file(tmp_path / "no.wav", pipe.request("rain"), [tmp_path / "out.wav"])
    assert [p.name for p in tmp_path.iterdir()] == ["no.wav"]


def test_results_are_saved_under_their_queries(pipe, mixture, tmp_path):
    result = pipe(mixture[:, :9000], RATE, ["A dog barks!", "a dog barks"], residual=True)
    files = result.save(tmp_path / "out")
    assert [f.name for f in files] == ["a_dog_barks.wav", "a_dog_barks_2.wav", "residual.wav"]
    summary = json.loads((tmp_path / "out" / "result.json").read_text())
    assert summary["settings"]["queries"] == ["A dog barks!", "a dog barks"]
    assert len(summary["settings"]["weights_hash"]) == 64
    assert summary["samples"][0]["files"] == [path.name for path in files]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_saved_pipelines_come_back(pipe, mixture, tmp_path, dtype):
    pipe.save_pretrained(tmp_path / "ckpt", dtype=dtype, data="none")
    again = SeparationPipeline.from_pretrained(tmp_path / "ckpt", text=Words())
    assert again.settings == pipe.settings
    wave = mixture[:, :9000]
    a, b = (p(wave, RATE, "rain").estimates[0].samples for p in (pipe, again))
    np.testing.assert_allclose(a, b, atol=0 if dtype == torch.float32 else 5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queries": ""}, "a query is empty"),
        ({"queries": ["rain", "  "]}, "a query is empty"),
        ({"queries": []}, "no query was given"),
        ({"queries": "x" * 51}, "at most 50"),
        ({"negative": "wind"}, "acts through guidance"),
        ({"steps": 0}, "at least 1"),
        ({"n_candidates": 0}, "at least 1"),
        ({"guidance": -1.0}, "guidance must be at least 0"),
        ({"channels": "left"}, "'image', 'each' or 'mid'"),
        ({"waveform": Vocoding()}, "no vocoder"),
        ({"waveform": GriffinLim(), "consistent": True}, "sum to the mixture"),
        ({"waveform": GriffinLim(), "channels": "mid"}, "makes no mask"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_requests_are_told_plainly(pipe, mixture, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(mixture, RATE, **{"queries": "rain", **options})


def test_bad_mixtures_are_told_plainly(pipe, mixture):
    with pytest.raises(ValueError, match="too short"):
        pipe(mixture[:, :1000], RATE, "rain")
    broken = mixture.copy()
    broken[1, 777] = np.nan
    with pytest.raises(ValueError, match="the first at sample 777"):
        pipe(broken, RATE, "rain")
    with pytest.raises(ValueError, match=r"\(channels, n\)"):
        pipe(mixture[None], RATE, "rain")


def test_unknown_weights_list_what_ships():
    with pytest.raises(FileNotFoundError, match="shipped checkpoints"):
        SeparationPipeline.from_pretrained("no_such_weights")


def test_folders_of_something_else_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        SeparationPipeline.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"class": "ReQFlowNetwork"}')
    with pytest.raises(ValueError, match="ReQFlowNetwork"):
        SeparationPipeline.from_pretrained(tmp_path)


def test_windows_follow_the_sample_rate(pipe):
    assert pipe.windows(RATE) == Windows(length=10_240, margin=640, fade=640)


def test_shipped_checkpoints_have_the_settings_of_their_card_and_fit_the_limit():
    small, patches = (
        SeparationPipeline.from_pretrained(name, text=Words()).settings
        for name in ("small", "small_patches")
    )
    assert (small.steps, small.guidance) == (2, 2.0)
    assert (patches.steps, patches.guidance, patches.posterior_sample) == (2, 1.25, False)
    files = [path for path in SeparationPipeline.shipped.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 16 * 2**20


def test_the_small_checkpoint_separates_sounds_it_knows():
    rain, kick = (torch.from_numpy(read_audio(path).mono()) for path in (RAIN, KICK_DRUM))
    target, mixture = mix(rain, kick, 0.0)
    pipe = SeparationPipeline.from_pretrained("small")
    found = pipe(mixture, RATE, "rain is falling").estimates[0].samples[0]
    gain = si_sdr(torch.from_numpy(found), target) - si_sdr(mixture, target)
    assert gain > 5


def tone(samples: int = 16_000) -> np.ndarray:
    return (0.2 * np.random.default_rng(1).standard_normal((1, samples))).astype(np.float32)


def test_channels_that_cancel_are_told_of(pipe, tmp_path):
    wave = tone()
    stereo = np.concatenate([wave, -wave])
    message = r"the channels cancel, their mean holds \S+ of their power; .* channels='each'"
    with pytest.raises(ValueError, match=message):
        pipe(stereo, RATE, "rain", channels="mid")
    write_audio(tmp_path / "in.wav", stereo, RATE)
    request = pipe.request("rain", channels="mid")
    with pytest.raises(AudioFileError, match=r"in\.wav: " + message):
        pipe.separate_file(tmp_path / "in.wav", request, [tmp_path / "out.wav"])
    assert not (tmp_path / "out.wav").exists()
    assert not pipe(0 * stereo, RATE, "rain", channels="mid").estimates[0].samples.any()


@pytest.mark.parametrize("samples", [9000, 16_000])
def test_channels_with_offsets_of_their_own_give_what_they_give_without(pipe, samples):
    wave = np.concatenate([tone(samples), 0.5 * tone(samples)])
    offsets = np.array([[0.3], [-0.3]], np.float32)
    plain = pipe(wave, RATE, "rain", channels="mid").estimates[0].samples
    shifted = pipe(wave + offsets, RATE, "rain", channels="mid").estimates[0].samples
    np.testing.assert_allclose(shifted, plain, atol=2e-3 * np.abs(plain).max())


def test_two_wordings_of_one_sound_leave_no_inverted_residual(pipe, mixture):
    """The same query twice: the masks are equal, and together at most 1."""
    result = pipe(mixture, RATE, ["rain", "rain", "rain!"], residual=True)
    gain = (result.residual * mixture).sum() / np.square(mixture).sum()
    assert -1e-3 < gain < 1
    total = sum(e.samples for e in result.estimates) + result.residual
    np.testing.assert_allclose(total, mixture, atol=1e-5)
    np.testing.assert_array_equal(result.estimates[0].samples, result.estimates[1].samples)


def test_consistency_needs_two_sources_of_which_the_residual_is_one(pipe, mixture):
    with pytest.raises(ValueError, match="one estimate that sums to the mixture is the mixture"):
        pipe(mixture, RATE, "rain", consistent=True)
    plain = pipe(mixture, RATE, "rain", residual=True)
    firm = pipe(mixture, RATE, "rain", residual=True, consistent=True)
    np.testing.assert_array_equal(firm.estimates[0].samples, plain.estimates[0].samples)
    assert firm.residual.any()


def test_arrays_of_another_kind_are_told_of(pipe, mixture):
    with pytest.raises(ValueError, match=r"must hold floats, got int16; .* by 32768"):
        pipe((mixture * 32_768).astype(np.int16), RATE, "rain")
    with pytest.raises(ValueError, match=r"got \(30011, 2\)\. Channels come first: .* mixture\.T"):
        pipe(mixture.T, RATE, "rain")
    with pytest.raises(ValueError, match=r"a query is no text, .* in the encoding of the terminal"):
        pipe(mixture, RATE, "caf\udce9")
    doubled = pipe(mixture.astype(np.float64), RATE, "rain").estimates[0].samples
    np.testing.assert_array_equal(doubled, pipe(mixture, RATE, "rain").estimates[0].samples)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("window_seconds", 1e12),
        ("window_seconds", float("nan")),
        ("window_seconds", "10"),
        ("steps", 0),
        ("steps", True),
        ("steps", 2.5),
        ("guidance", -1),
        ("has_vocoder", 1),
        ("text_encoder", None),
        ("colour", "red"),
    ],
)
def test_settings_of_a_checkpoint_are_checked(pipe, tmp_path, name, value):
    pipe.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    described["settings"][name] = value
    (tmp_path / "config.json").write_text(json.dumps(described))
    with pytest.raises(CheckpointError, match=rf"config\.json: is damaged.*{name}"):
        SeparationPipeline.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: is damaged"):
        SeparationPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("level", [1e-4, 0.1, 3.0])
def test_files_have_the_depth_of_the_recording(pipe, tmp_path, subtype, level):
    if level > 1 and subtype != "FLOAT":
        pytest.skip("beyond full scale only floats")
    wave = level * tone() / np.abs(tone()).max()
    write_audio(tmp_path / "in.wav", wave, RATE, subtype=subtype)
    parts = [tmp_path / "rain.wav", tmp_path / "rest.wav"]
    pipe.separate_file(tmp_path / "in.wav", pipe.request("rain", residual=True), parts)
    assert {sound_info(path).subtype for path in parts} == {subtype}
    step = {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 1e-6 * level}[subtype]
    total = sum(read_audio(path).samples for path in parts)
    np.testing.assert_allclose(total, read_audio(tmp_path / "in.wav").samples, atol=1.1 * step)


def test_file_names_of_queries_never_clash():
    queries = ["rain", "Rain!", "rain 2", "residual", "Шум дождя", "?", "é" * 200]
    names = [name.removesuffix(".wav") for name in file_names(queries)]
    assert names[:6] == ["rain", "rain_2", "rain_2_2", "residual_2", "шум_дождя", "estimate"]
    assert len(set(names)) == len(names)
    assert max(len(name.encode()) for name in names) <= 120


def resident() -> float:
    """Return this process's resident memory in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [told] = (line for line in lines if line.startswith("VmRSS:"))
    return int(told.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux to tell memory")
def test_memory_does_not_grow_with_the_length(pipe, tmp_path, monkeypatch):
    """Ten minutes of stereo, 202 MiB as floats, through all but the networks.

    The long form, an hour with networks, is ``benchmarks/audio_memory.py``.
    """
    sizes, memory = set(), []

    def halves(self, waves, real=None):
        sizes.add(len(waves))
        return torch.stack([0.25 * waves, 0.75 * waves], 1)

    monkeypatch.setattr(Separator, "separate", halves)
    monkeypatch.setattr(pipe, "settings", replace(pipe.settings, window_seconds=10.24))
    with AudioWriter(tmp_path / "in.wav", 44_100, 2) as writer:
        for _ in range(60):
            writer.write(np.full((2, 441_000), 0.1, np.float32))
    files = tmp_path / "part.wav", tmp_path / "rest.wav"
    pipe.separate_file(
        tmp_path / "in.wav",
        pipe.request("rain", residual=True),
        files,
        progress=lambda done, total: memory.append(resident()),
    )
    assert {sound_info(path).samples for path in files} == {26_460_000}
    assert max(sizes) == 4  # of two channels each: eight latents on a CPU
    early = len(memory) // 4
    assert max(memory[early:]) - max(memory[:early]) < 48
