"""The audio commands on sounds that they make themselves."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow.rectify import PairStore
from rectiflow_audio.examples import CLOCK_TICK, RAIN
from rectiflow_audio.io import read_audio, sound_info, write_audio
from rectiflow_audio.networks import SpectrogramVae
from rectiflow_audio.networks.vocoder import BigVgan
from rectiflow_audio.pipeline import SeparationPipeline
from rectiflow_audio.separator import Separator
from rectiflow_cli.main import main

FAST = ["trainer.max_steps=1", "trainer.validate_every=1", "trainer.checkpoint_every=1"]


pytestmark = pytest.mark.usefixtures("in_work")


@pytest.fixture(scope="module")
def trained(work):
    """A run of the debug flow."""
    words = ["debug=tiny", *FAST, f"hydra.run.dir={work / 'flow'}"]
    assert main(["audio", "train", *words]) == 0
    return work / "flow"


@pytest.fixture(scope="module")
def weights(trained):
    return ["--weights", str(trained / "export"), "--steps", "1", "--device", "cpu"]


def separate(*words: object) -> int:
    return main(["audio", "separate", *map(str, words)])


def test_a_run_leaves_a_checkpoint_a_picture_and_sounds(trained):
    for name in ("config.yaml", "metrics.csv", "losses.png", "checkpoints/last.ckpt"):
        assert (trained / name).is_file()
    assert (trained / "samples" / "step_0000001" / "00_estimate.wav").is_file()
    pipe = SeparationPipeline.from_pretrained(trained / "export")
    assert pipe.settings.window_seconds == 0.64
    assert pipe.settings.text_encoder == "minilm"
    assert not pipe.settings.has_vocoder
    assert float(pipe.vae.scale_factor) != 1  # latents were brought to unit spread
    card = json.loads((trained / "export" / "config.json").read_text())["card"]
    assert (card["step"], card["trained_with"]) == (1, "rectiflow audio")


def test_the_other_stages_and_a_flow_that_uses_them(trained, work, capsys):
    for stage in ("vae", "vocoder"):
        run = f"hydra.run.dir={work / stage}"
        words = [f"experiment=small_{stage}", f"debug=tiny_{stage}", *FAST, run, "--json"]
        words.append(f"data.dir={trained / 'data'}")
        assert main(["audio", "train", *words]) == 0
        assert json.loads(capsys.readouterr().out)["step"] == 1
    vae = SpectrogramVae.from_pretrained(work / "vae" / "export")
    vocoder = BigVgan.from_pretrained(work / "vocoder" / "export")
    assert not any("parametrizations" in name for name in vocoder.state_dict())
    words = ["debug=tiny", f"data.dir={trained / 'data'}", *FAST, "validation=none"]
    words += ["vae=pretrained", f"vae.weights={work / 'vae' / 'export'}"]
    words += [f"vocoder.weights={work / 'vocoder' / 'export'}"]
    assert main(["audio", "train", *words, f"hydra.run.dir={work / 'whole'}"]) == 0
    pipe = SeparationPipeline.from_pretrained(work / "whole" / "export")
    mine, whole = vae.state_dict(), pipe.vae.state_dict()
    assert all(torch.equal(mine[n], whole[n]) for n in mine if n != "scale_factor")
    assert pipe.vocoder is not None
    assert torch.equal(pipe.vocoder.conv_pre.weight, vocoder.conv_pre.weight)
    words = ["--query", "a tone", "--weights", work / "whole" / "export", "--steps", 1]
    assert separate(RAIN, *words, "-o", "anew.wav") == 0
    assert json.loads(Path("anew.json").read_text())["settings"]["waveform"] == "Vocoding()"


def test_pairs_reflow_and_distillation(trained, weights, work, capsys):
    made = ["audio", "pairs", str(trained / "data"), "--num", "4", "--batch", "2", *weights]
    for part in ("0/2", "1/2"):
        assert main([*made, "--shard", part, "-o", "pairs"]) == 0
    assert main([*made, "-o", "whole_pairs"]) == 0
    parts, whole = PairStore("pairs"), PairStore("whole_pairs")
    assert (len(parts), parts.is_complete) == (4, True)
    for i in range(4):
        assert torch.equal(parts[i].x0, whole[i].x0)
        assert torch.allclose(parts[i].x1, whole[i].x1, atol=1e-4)
    assert main([*made, "--real", "-o", "real"]) == 0
    given = ["data.dir=pairs", f"weights={trained}", "trainer=cpu", *FAST]
    given += ["data.module.hold_out_every=2", "data.module.batch_size=2"]
    assert main(["audio", "reflow", *given, f"hydra.run.dir={work / 'reflow'}"]) == 0
    old = SeparationPipeline.from_pretrained(trained / "export")
    new = SeparationPipeline.from_pretrained(work / "reflow" / "export")
    assert new.settings == old.settings
    assert all(map(torch.equal, old.vae.state_dict().values(), new.vae.state_dict().values()))
    run = [f"hydra.run.dir={work / 'distilled'}", *FAST, "--json"]
    capsys.readouterr()
    assert main(["audio", "reflow", "experiment=small_distill", "debug=tiny_pairs", *run]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 1


def test_one_sound_goes_into_one_file(weights, capsys):
    assert separate(RAIN, "--query", "rain", "-o", "rain.wav", *weights) == 0
    assert "1 recording(s) separated" in capsys.readouterr().out
    estimate, mixture = read_audio("rain.wav"), read_audio(RAIN)
    assert estimate.samples.shape == mixture.samples.shape
    told = json.loads(Path("rain.json").read_text())
    shaped = told["settings"]
    assert (shaped["queries"], shaped["seed"], shaped["steps"]) == (["rain"], 0, 1)
    assert 0 < told["samples"][0]["energy"]["rain"] < 1
    assert separate(RAIN, "--query", "rain", "-o", "rain.wav", *weights) == 0
    assert "0 recording(s) separated, 1 were there already" in capsys.readouterr().out
    assert separate(RAIN, "--query", "rain", "-o", "rain.wav", *weights, "--steps", 2) == 0
    assert json.loads(Path("rain.json").read_text())["settings"]["steps"] == 2
    assert separate(RAIN, "--query", "rain", "-o", "rain.wav", *weights) == 0
    estimate = read_audio("rain.wav")
    again = SeparationPipeline.from_pretrained(weights[1])(mixture.samples, 16_000, "rain", steps=1)
    np.testing.assert_allclose(estimate.samples, again.estimates[0].samples, atol=1e-4)


def test_several_sounds_of_several_recordings_go_into_folders(weights, capsys):
    shutil.copytree(RAIN.parent, "in", dirs_exist_ok=True)
    Path("in/broken.wav").write_bytes(b"RIFF")
    words = ["in", "--query", "rain", "--query", "a clock", "--residual", "--consistent"]
    for part in ("0/2", "1/2"):
        assert separate(*words, "--shard", part, "-o", "out", *weights) == 0
    assert "passed over: in/broken.wav" in capsys.readouterr().err
    for stem in ("rain", "clock_tick", "kick_drum"):
        sounds = [f"out/{stem}/{name}.wav" for name in ("rain", "a_clock", "residual")]
        rain, clock, rest = (read_audio(path).samples for path in sounds)
        mixture = read_audio(f"in/{stem}.flac").samples
        np.testing.assert_allclose(rain + clock + rest, mixture, atol=1e-3)
    assert separate(*words, "-o", "out", *weights, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["made"], told["kept"], list(told["failed"])) == (0, 3, ["broken"])
    assert separate(*words, "-o", "out", *weights, "--seed", 1) == 2
    assert "holds results made with other settings (seed 0, now 1)" in capsys.readouterr().err
    shutil.copy(CLOCK_TICK, "in/rain.flac")  # another recording under an old name
    assert separate(*words, "-o", "out", *weights, "--json") == 0
    assert json.loads(capsys.readouterr().out)["made"] == 1


def test_options_reach_the_pipeline(weights):
    write_audio("stereo.wav", np.stack([read_audio(RAIN).samples[0], np.zeros(64_000)]), 16_000)
    words = ["stereo.wav", "--query", "rain", "--not", "a clock", "--channels", "mid"]
    more = ["--candidates", 2, "--pick", "mean", "--solver", "midpoint", "--posterior", "sample"]
    assert separate(*words, *more, "--waveform", "mask", "-o", "not.flac", *weights) == 0
    told = json.loads(Path("not.json").read_text())["settings"]
    assert (told["guidance"], told["nfe"], told["candidates"]) == (2.0, 4, 2)
    assert told["negative"] == "a clock"
    assert read_audio("not.flac").samples.shape == (2, 64_000)


def test_what_this_command_did_not_make_is_never_written_over(weights, capsys):
    shutil.copytree(RAIN.parent, "own", dirs_exist_ok=True)
    write_audio("own/rain.wav", read_audio(RAIN).samples, 16_000)
    before = Path("own/rain.wav").read_bytes()
    assert separate("own/rain.wav", "--query", "rain", "-o", "own", *weights) == 2
    assert "own/rain.wav would be replaced and is the input" in capsys.readouterr().err
    assert separate(CLOCK_TICK, "--query", "rain", "-o", "own", *weights) == 2
    assert "rain.wav" in capsys.readouterr().err
    assert Path("own/rain.wav").read_bytes() == before
    Path("ann.json").write_text("{}")
    assert separate(CLOCK_TICK, "--query", "rain", "-o", "ann.wav", *weights) == 2
    assert Path("ann.json").read_text() == "{}"
    assert not Path("ann.wav").exists()
    words = ["--query", "rain", "-o", "ann.wav", *weights]
    assert separate(CLOCK_TICK, *words, "--overwrite", "--depth", "24") == 0
    assert sound_info("ann.wav").subtype == "PCM_24"
    # What it made itself it makes anew when asked for something else.
    assert separate(CLOCK_TICK, *words, "--seed", 1) == 0
    assert sound_info("ann.wav").subtype == "PCM_16"


def test_results_are_told_from_stale_ones_by_content(weights, capsys):
    shutil.copy(CLOCK_TICK, "again.flac")
    words = ["again.flac", "--query", "rain", "-o", "again.wav", "--json", *weights]
    for expected in ((1, 0), (0, 1)):
        assert separate(*words) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["made"], told["kept"]) == expected
    write_audio("again.flac", read_audio(CLOCK_TICK).samples[:, ::-1].copy(), 16_000)
    os.utime("again.flac", (0, 0))  # older than the result
    assert separate(*words) == 0
    assert json.loads(capsys.readouterr().out)["made"] == 1


def test_odd_names_and_odd_queries(weights, capsys):
    odd = Path(os.fsdecode(b"odd/caf\xe9.flac"))
    odd.parent.mkdir()
    shutil.copy(CLOCK_TICK, odd)
    shutil.copy(CLOCK_TICK, "odd/other.aiff.flac")
    Path("odd/phone.m4a").write_bytes(b"no sound")
    queries = ["rain", "Rain!", "residual", "дождь"]
    words = [word for query in queries for word in ("--query", query)]
    assert separate("odd", *words, "--residual", "-o", "odd-out", *weights) == 0
    captured = capsys.readouterr()
    assert "passed over: odd/phone.m4a" in captured.err
    assert "2 recording(s) separated" in captured.out
    names = sorted(path.name for path in Path("odd-out/other.aiff").iterdir())
    expected = ["rain.wav", "rain_2.wav", "residual.wav", "residual_2.wav"]
    assert names == [*expected, "дождь.wav"]


def test_a_folder_of_which_nothing_can_be_read_is_an_error(weights, capsys):
    Path("bad").mkdir()
    for name in ("a.wav", "b.m4a"):
        Path("bad", name).write_bytes(b"no sound at all")
    assert separate("bad", "--query", "rain", "-o", "bad-out", *weights) == 2
    assert "none of 2 inputs can be used" in capsys.readouterr().err


def test_an_interrupted_separation_leaves_nothing(weights, monkeypatch):
    def stop(self, *args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Separator, "separate", stop)
    assert separate(RAIN, "--query", "rain", "-o", "stopped/rain.wav", *weights) == 130
    assert list(Path("stopped").iterdir()) == []


def test_evaluation_stands_between_the_mixture_and_the_codec(trained, weights, capsys):
    words = [str(trained / "data"), "--split", "valid", "--seconds", "0.64", "--num", "3"]
    assert main(["audio", "eval", *words, "-o", "measured", *weights, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"]["count"] == 3
    systems = told["summary"]["systems"]
    assert set(systems) == {"estimate", "mixture", "codec"}
    assert systems["mixture"]["mean"]["si_sdri"] == 0
    assert (Path("measured") / "metrics.csv").is_file()
    Path("list.csv").write_text("idx,caption,src_wav,noise_wav\n0,rain,rain.flac,clock_tick.flac\n")
    words = ["list.csv", "--form", "esc50", "--folder", str(RAIN.parent), *weights]
    assert main(["audio", "eval", *words]) == 0
    assert "estimate" in capsys.readouterr().out


def test_prepare_tells_what_it_took_and_why_not(work, capsys):
    shutil.copytree(RAIN.parent, "sounds", ignore=shutil.ignore_patterns("*.py", "__*"))
    rows = ["file,caption,label", "rain.flac,rain falls,rain", "clock_tick.flac,a clock,clock"]
    Path("sounds/metadata.csv").write_text("\n".join([*rows, "absent.wav,nothing,none\n"]))
    words = ["audio", "prepare", "sounds", "-o", "shards", "--wordings", "paraphrases"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "accepted 2 clips" in text
    assert "there is no such file" in text
    assert "experiment=small_vae" in text
    from rectiflow_audio.data import PreparedSounds

    assert "a ticking clock" in PreparedSounds("shards").texts


def test_checkpoints_go_to_the_authors_form_and_back(work, trained, capsys):
    from rectiflow_audio.networks import SeparationUNet, UNetConfig, VaeConfig
    from rectiflow_audio.networks.vocoder import VocoderConfig

    unet = SeparationUNet(UNetConfig(8, 8, 32, (1, 2), (False, True), 1, 32, 32))
    vae = SpectrogramVae(VaeConfig(32, (1, 2, 4), 1, 8), 0.5)
    vocoder = BigVgan(VocoderConfig(channels=32))
    SeparationPipeline(unet, vae, vocoder).save_pretrained("ours")
    assert main(["audio", "convert", "ours", "--to", "official", "-o", "theirs"]) == 0
    assert main(["audio", "convert", "theirs/flowsep.ckpt", "-o", "back", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))
    assert set(told["networks"]) == {"unet", "vae", "vocoder"}
    back = SeparationPipeline.from_pretrained("back")
    for old, new in ((unet, back.unet), (vae, back.vae), (vocoder, back.vocoder)):
        read = new.state_dict()
        assert all(torch.equal(read[name], value) for name, value in old.state_dict().items())
    part = ["--part", "vae", "-o", "codec"]
    assert main(["audio", "convert", "theirs/flowsep.ckpt", *part]) == 0
    assert float(SpectrogramVae.from_pretrained("codec").scale_factor) == 0.5
    assert main(["audio", "convert", "ours", "-o", "x"]) == 2
    assert main(["audio", "convert", str(trained / "export"), "--to", "official", "-o", "x"]) == 2
    assert "has no vocoder, which the authors' checkpoint holds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--query", " ", "-o", "x.wav"], "a query is empty, got ' '"),
        (["--query", "rain " * 60, "-o", "x.wav"], "the text has 62 tokens"),
        (["--query", "a", "--query", "b", "-o", "x.wav"], "one file cannot hold several sounds"),
        (["--query", "a", "--waveform", "vocoder", "-o", "x.wav"], "these weights have no vocoder"),
        (["--query", "a", "--not", "b", "--guidance", "1", "-o", "x.wav"], "acts through guidance"),
        (["--query", "a", "--pick", "mean", "-o", "x.wav"], "got --candidates 1"),
        (["--query", "a", "--clap", "m", "-o", "x.wav"], "--clap goes with --pick clap"),
        (["-o", "x.wav"], "the following arguments are required: --query"),
        (["--query", "a", "-o", str(CLOCK_TICK)], "is an input"),
        (["--query", "a", "-o", "x.m4a"], ".m4a cannot be written, got -o x.m4a"),
        (["--query", "a", "--consistent", "-o", "x.wav"], "one estimate that sums to the mixture"),
        (["--query", "a", "-o", "x" * 300 + ".wav"], "the name is too long"),
        (["nowhere.wav", "--query", "a", "-o", "x"], "nowhere.wav: there is no such file"),
    ],
)
def test_what_cannot_be_separated_is_told_in_one_line(words, message, weights, capsys):
    assert separate(CLOCK_TICK, *words, *weights) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""
    assert not Path("x.wav").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train data.dir=nowhere", "rectiflow audio prepare FOLDER -o SHARDS"),
        ("train data.dir={data}", "vae.weights is not given; expected the autoencoder"),
        ("train data.dir={data} vae.weights=nowhere", "no weights at 'nowhere'"),
        ("train debug=tiny foo=1", "unknown key 'foo'; expected one of the config."),
        (
            "train data.wordings=a experiment=small_refiner data.dir={data}",
            "unknown key 'data.wordings'; expected one of the config. Did you mean 'data.dir'? "
            "`rectiflow audio train experiment=small_refiner --cfg job` shows them all.",
        ),
        ("train debug=tiny data.wordings=nowhere", "there is no nowhere; expected a CSV"),
        (
            "train debug=tiny data.dir={data} network.sizes.context_channels=32",
            "queries have 384 channels, got a network for 32",
        ),
        ("reflow data.dir=nowhere", "rectiflow audio pairs SHARDS --weights TEACHER -o PAIRS"),
        (
            "eval nowhere --weights small",
            "there is no nowhere; expected a prepared folder or a list",
        ),
        ("eval nowhere", "files are measured against references, got 1 file(s), 0 --reference"),
        (
            "eval {data} --weights small --form esc50",
            "is a prepared folder, got --form or --folder",
        ),
        (
            "eval {data} --weights small --ambiguous x",
            "--ambiguous is unclear, got 'x'; expected LABEL:A,B",
        ),
        ("prepare nowhere -o y", "there is no folder"),
        ("pairs {data} --real --solver heun -o y", "--real inverts by Euler's method"),
        ("convert nowhere -o x", "nowhere"),
    ],
)
def test_every_error_is_one_line_and_exit_code_2(words, message, trained, capsys):
    argv = words.format(data=trained / "data").split()
    if argv[0] == "pairs":
        argv += ["--weights", str(trained / "export")]
    assert main(["audio", *argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_the_demo_separates_its_own_mixture(trained, work):
    from rectiflow_cli import demo

    words = ["--domain", "audio", "--weights", str(trained / "export"), "--steps", "1"]
    assert demo.main(["-o", "page", *words, "--device", "cpu", "--json"]) == 0
    told = json.loads(Path("page/result.json").read_text())["domains"]["audio"]
    assert [e["query"] for e in told["estimates"]] == ["a dog barks", "rain is falling"]
    mixture = read_audio("page/sounds/mixture.wav").samples
    parts = [read_audio(f"page/{e['file']}").samples for e in told["estimates"]]
    rest = read_audio("page/sounds/residual.wav").samples
    np.testing.assert_allclose(sum(parts) + rest, mixture, atol=1e-3)
    assert abs(told["estimates"][0]["si_sdr_mixture"]) < 0.5  # as loud as the rain
    text = Path("page/index.html").read_text()
    assert text.count("<audio controls") == 6
    for src in ("sounds/reference_1.wav", "sounds/0_a_dog_barks.wav"):
        assert f'src="{src}"' in text
        assert Path("page", src).is_file()
    assert "media-src 'self' file:" in text
    mine = ["--input", str(CLOCK_TICK), "--query", "a clock"]
    assert demo.main(["-o", "own", *mine, *words, "--device", "cpu"]) == 0
    [estimate] = json.loads(Path("own/result.json").read_text())["domains"]["audio"]["estimates"]
    assert set(estimate) == {"file", "query", "energy"}


def test_a_checkpoint_is_tuned_and_used_by_name(trained, work, capsys):
    tune = ["audio", "tune", str(trained / "data"), "--weights", str(trained / "export")]
    tune += ["--device", "cpu", "--num", "2", "--steps", "2", "--pool", "5", "--epochs", "2"]
    tune += ["--population", "4", "--statistics", "--points", "8", "-o", "tuned", "--json"]
    assert main(tune) == 0
    told = json.loads(capsys.readouterr().out)
    [row] = told["grids"]
    assert 0 < row["distance"] <= row["equal_steps"]
    assert main(tune) == 0  # goes on, with nothing left to do
    assert json.loads(capsys.readouterr().out) == told
    given = ["--query", "rain", "--weights", "tuned", "--device", "cpu", "--steps", 2]
    assert separate(RAIN, *given, "--grid", "searched", "-o", "searched.wav") == 0
    assert separate(RAIN, *given, "--solver", "dpm-v3:2", "-o", "v3.wav") == 0
    shaped = [json.loads(Path(f"{n}.json").read_text())["settings"] for n in ("searched", "v3")]
    assert (shaped[0]["grid"], shaped[0]["nfe"]) == ("searched(2)", 2)
    assert shaped[1]["solver"].startswith("DPMSolverV3(statistics=EmpiricalStatistics(9 points, ")
    capsys.readouterr()
    assert main(["rerun", "searched.json"]) == 0
    assert "equal" in capsys.readouterr().out
    assert separate(RAIN, *given, "--steps", 3, "--grid", "searched", "-o", "no.wav") == 2
    assert "no grid of 3 steps was searched" in capsys.readouterr().err
    other = ["--query", "rain", "--weights", trained / "export", "--solver", "flowturbo"]
    assert separate(RAIN, *other, "-o", "no.wav") == 2
    assert "no refiner lies beside these weights" in capsys.readouterr().err


def test_a_refiner_is_trained_and_used(trained, weights, work, capsys):
    made = ["audio", "pairs", str(trained / "data"), "--num", "4", "--batch", "2", *weights]
    assert main([*made, "-o", "turbo_pairs"]) == 0
    given = ["data.dir=turbo_pairs", f"weights={trained}", "trainer=cpu", *FAST]
    given += ["data.module.hold_out_every=2", "data.module.batch_size=2"]
    given += ["experiment=small_refiner", "validation=none"]
    run = work / "refiner"
    assert main(["audio", "reflow", *given, f"hydra.run.dir={run}"]) == 0
    assert "--solver flowturbo:1:3" in capsys.readouterr().out
    words = ["--weights", run / "export", "--device", "cpu", "--steps", 3]
    words += ["--query", "rain", "--solver", "flowturbo:1:1", "--guidance", 1]
    assert separate(RAIN, *words, "-o", "turbo.wav") == 0
    told = json.loads(Path("turbo.json").read_text())["settings"]
    assert told["nfe"] == 3  # Heun's two, one pseudo-corrector, and the refiner's for nothing


def test_guidance_rules_and_noise_go_into_the_listing(weights):
    words = ["--query", "rain", *weights, "--guidance", 2]
    assert separate(RAIN, *words, "--guidance-rule", "rectified-cfg++", "-o", "plus.wav") == 0
    assert separate(RAIN, *words, "--solver", "ancestral", "-o", "noise.wav") == 0
    plus, noise = (json.loads(Path(f"{n}.json").read_text())["settings"] for n in ("plus", "noise"))
    assert (plus["rule"], plus["nfe"]) == ("RectifiedCFG(gamma=0.0)", 3)
    assert noise["solver"].startswith("Ancestral(")


def pcm_of(path):
    sound = read_audio(path)
    return (sound.samples.T * 32767).round().astype("<i2").tobytes(), sound.samples


def test_a_live_sound_is_separated(weights, capsys):
    raw, samples = pcm_of(RAIN)
    Path("live.pcm").write_bytes(raw[:-1])  # half a sample is not there yet
    words = ["audio", "listen", "live.pcm", "--query", "rain", *weights, "--block", "0.25"]
    assert main([*words, "-o", "live.wav", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    count = samples.shape[-1] - 1
    assert told["blocks"] == -(-count // 4000)
    assert told["seconds"] == pytest.approx(count / 16_000)
    assert told["delay"] == pytest.approx(0.28)
    assert 0 < told["latency"]["mean"] <= told["latency"]["longest"]
    assert told["real_time_factor"] > 0
    live = read_audio("live.wav").samples
    assert live.shape[-1] == count
    assert np.abs(live).max() > 1e-3
    for wrong, message in (
        (["--block", "9", "-o", "x.wav"], "a block must last 0.06 to"),
        (["--query", "b", "-o", "x.wav"], "one file cannot hold 2 sounds"),
        (["--query", "b", "-o", "-"], "stdout takes one sound"),
        (["--waveform", "griffin-lim", "-o", "x.wav"], "blocks only fit together"),
    ):
        assert main([*words, *wrong]) == 2
        assert message in capsys.readouterr().err
    assert main(["audio", "listen", "absent.pcm", "--query", "a", "-o", "x.wav"]) == 2


def test_a_file_that_grows_is_followed_to_its_end(weights, capsysbinary):
    raw, _ = pcm_of(RAIN)
    path = Path("growing.pcm")
    path.write_bytes(raw[:5000])

    def grow():
        with path.open("ab") as file:
            for start in range(5000, 40_000, 7000):
                time.sleep(0.05)
                file.write(raw[start : min(start + 7000, 40_000)])
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    words = ["audio", "listen", str(path), "--query", "rain", *weights, "--follow", "1.5"]
    assert main([*words, "-o", "-"]) == 0
    writer.join()
    out, err = capsysbinary.readouterr()
    assert len(out) == 40_000
    assert b"real-time factor" in err


def test_repairs_spans_and_replacements(trained, work, capsys):
    small = ["--weights", str(trained / "export"), "--device", "cpu"]
    wave = read_audio(RAIN)
    loud = wave.samples / np.abs(wave.samples).max()
    write_audio("loud.wav", np.clip(loud, -0.5, 0.5), wave.sample_rate, subtype="FLOAT")
    run = lambda *words: main(["audio", *map(str, words), *small])  # noqa: E731
    told = ["--query", "rain", "--evaluations", 1]
    assert run("repair", "loud.wav", "--declip", *told, "-o", "repaired.wav") == 0
    made, heard = (read_audio(name).samples for name in ("repaired.wav", "loud.wav"))
    known = np.abs(heard) < 0.4999
    assert np.array_equal(made[known], heard[known])
    assert not np.array_equal(made[~known], heard[~known])
    assert run("repair", "loud.wav", "--inpaint", "0.5-0.6", *told, "-o", "filled") == 0
    filled = read_audio("filled/loud.wav").samples
    at = np.arange(heard.shape[1]) / wave.sample_rate
    inside = (at >= 0.5) & (at < 0.6)
    assert np.array_equal(filled[:, ~inside], heard[:, ~inside])
    edit = ["--from", "rain", "--to", "sea waves", "--when", "0.5-0.9", "--steps", 1]
    assert run("replace", "loud.wav", *edit, "--depth", "float", "-o", "edit.wav") == 0
    outside = (at < 0.5) | (at >= 0.9)
    assert np.array_equal(read_audio("edit.wav").samples[:, outside], heard[:, outside])
    words = ["--query", "rain", "--when", "0.5-0.9", "--residual", "--steps", 1]
    assert run("separate", "loud.wav", *words, "-o", "parts") == 0
    rest = read_audio("parts/residual.wav").samples
    assert np.array_equal(rest[:, outside], heard[:, outside])
    capsys.readouterr()
    for words, said in (
        (("repair", "loud.wav", "-o", "x.wav"), "one thing is repaired at a time, got 0"),
        (("repair", "loud.wav", "--inpaint", "9-9.1", "-o", "x.wav"), "outside of the recording"),
        (("repair", "loud.wav", "--bandwidth", 9000, "-o", "x.wav"), "nothing is missing below"),
        (("separate", "loud.wav", "--query", "rain", "--when", "80-90", "-o", "x.wav"), "inside"),
        (("repair", "loud.wav", "--inpaint", "2-1", "-o", "x.wav"), "A below B"),
    ):
        assert run(*words) == 2
        assert said in capsys.readouterr().err
