"""Any length: the same samples as in one piece, no click at a seam, memory that does not grow."""

from __future__ import annotations

import gc
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_audio.frontend import SAMPLE_RATE, WINDOW_SAMPLES, LogMel
from rectiflow_audio.io import AudioWriter, stream_blocks, write_audio
from rectiflow_audio.masking import apply_mask
from rectiflow_audio.windows import Window, Windows, in_windows, overlap_add, split

SMALL = Windows(length=1000, margin=120, fade=80)


def pieces_of(wave: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    """Cut a sound into consecutive pieces, the sizes repeated as often as needed."""
    cuts, out = 0, []
    while cuts < wave.shape[-1]:
        size = sizes[len(out) % len(sizes)]
        out.append(wave[..., cuts : cuts + size])
        cuts += size
    return out


def joined(process, wave, windows=SMALL, sizes=None) -> torch.Tensor:
    """Process a sound in windows and join it."""
    blocks = [wave] if sizes is None else pieces_of(wave, sizes)
    return torch.cat(list(in_windows(process, blocks, windows)), -1)


@pytest.mark.parametrize(
    "samples", [1, 999, 1000, 1001, 1679, 1680, 1681, 2360, 2361, 5000, 10_000]
)
@pytest.mark.parametrize("sizes", [None, [1000], [7, 300], [5000]])
def test_a_process_that_changes_nothing_returns_the_input_bit_for_bit(samples, sizes):
    wave = torch.randn(2, samples)
    assert torch.equal(joined(lambda w: w, wave, sizes=sizes), wave)


@pytest.mark.parametrize("samples", [1, 700, 1000])
def test_one_window_is_the_process_itself(samples):
    wave = torch.randn(samples)
    padded = torch.nn.functional.pad(wave, (0, 1000 - samples))
    assert torch.equal(joined(lambda w: w.cumsum(-1), wave), padded.cumsum(-1)[:samples])


def test_a_local_process_gives_what_it_gives_on_the_whole():
    """A filter that reaches less far than the margin cannot know where the windows were."""
    kernel = torch.randn(1, 1, 201)

    def smooth(wave: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv1d(wave[:, None], kernel, padding=100)[:, 0]

    wave = torch.randn(2, 7321)
    whole = smooth(wave)
    assert torch.allclose(joined(smooth, wave), whole, atol=2e-5)
    wrong = Windows(length=1000, margin=0, fade=80)
    assert not torch.allclose(joined(smooth, wave, wrong), whole, atol=1e-2)


def test_windows_overlap_and_the_last_ends_with_the_sound():
    wave = torch.arange(3000.0)
    windows = list(split([wave], SMALL))
    assert [w.start for w in windows] == SMALL.starts(3000) == [0, 680, 1360, 2000]
    assert [w.index for w in windows] == [0, 1, 2, 3]
    assert [w.is_last for w in windows] == [False, False, False, True]
    assert all(torch.equal(w.wave, wave[w.start : w.start + 1000]) for w in windows)
    assert SMALL.seams(3000) == [800, 1480, 2160]


def test_seams_are_where_they_are_said_to_be():
    """Each window returns its own number; it must be pure outside the fades and rise in them."""
    count = iter(range(100))
    out = joined(lambda w: torch.full_like(w, next(count)), torch.zeros(3000))
    expected = torch.zeros(3000)
    for seam in SMALL.seams(3000):
        expected[seam + 80 :] += 1
        expected[seam : seam + 80] += torch.arange(1, 81) / 81
    assert torch.allclose(out, expected, atol=1e-6)


def test_a_short_sound_is_padded_and_says_so():
    (window,) = split([torch.ones(2, 10)], SMALL)
    assert (window.samples, window.start, window.is_last) == (10, 0, True)
    assert window.wave.shape == (2, 1000)
    assert window.wave.sum() == 20


def test_nothing_gives_nothing():
    assert not list(split([], SMALL))
    assert not list(split([torch.zeros(2, 0)], SMALL))


def test_a_window_may_come_back_as_several_sources():
    wave = torch.randn(2, 3000)
    out = joined(lambda w: torch.stack([w, -w, 2 * w]), wave)
    assert torch.equal(out, torch.stack([wave, -wave, 2 * wave]))


def test_a_changed_length_is_refused():
    with pytest.raises(ValueError, match=r"another length, got 999 samples; expected 1000"):
        joined(lambda w: w[..., :-1], torch.zeros(3000))


@pytest.mark.parametrize(
    ("length", "margin", "fade"), [(300, 100, 100), (300, -1, 10), (300, 100, 0)]
)
def test_windows_that_cannot_step_are_refused(length, margin, fade):
    with pytest.raises(ValueError, match=f"got length {length}, margin {margin}, fade {fade}"):
        Windows(length, margin, fade)


def test_default_windows_keep_frames_and_latents_aligned():
    """Starts and seams fall on whole columns of the latent, 4 frames of 160 samples."""
    windows = Windows()
    assert windows.length == WINDOW_SAMPLES
    assert {n % 640 for n in (windows.hop, windows.margin, windows.fade)} == {0}


def wobbly_separator(wave: torch.Tensor) -> torch.Tensor:
    """Separate as a network would: a mask that depends on the window, worse near its edges.

    Noise of the mask stands for what a generative model decides anew in each window; the last
    half second at either end is damaged, as a network without context damages it.
    """
    log_mel = LogMel()
    mel = log_mel(wave)
    seed = int(wave.abs().sum() * 1e3) % 2**31
    noise = torch.rand(513, 1, generator=torch.Generator().manual_seed(seed))
    mask = (0.8 + 0.1 * noise).expand(513, mel.shape[0]).clone()
    mask[:, :50] = 0
    mask[:, -50:] = 0
    return apply_mask(wave, mask, log_mel)


@pytest.fixture(scope="module")
def long_sound() -> torch.Tensor:
    """Half a minute of tones and noise at an even level."""
    time = torch.arange(30 * SAMPLE_RATE, dtype=torch.float64) / SAMPLE_RATE
    tones = sum(torch.sin(2 * math.pi * f * time) for f in (110, 331, 740)) / 10
    noise = torch.randn(len(time), generator=torch.Generator().manual_seed(1))
    return (tones.float() + 0.02 * noise).contiguous()


def test_seams_have_no_click_and_keep_the_level(long_sound):
    """Jumps at seams are no larger than elsewhere; the level is within 0.5 dB of neighbours."""
    out = joined(wobbly_separator, long_sound, Windows())
    windows = Windows()
    seams = windows.seams(len(long_sound))
    assert len(seams) >= 2
    jumps = out.diff().abs()
    near = torch.zeros(len(jumps), dtype=torch.bool)
    for seam in seams:
        near[seam - 400 : seam + windows.fade + 400] = True
    inside = slice(SAMPLE_RATE, -SAMPLE_RATE)  # the ends of the sound have no neighbour
    elsewhere = jumps[inside][~near[inside]]
    assert jumps[near].max() <= 1.1 * elsewhere.max()
    for seam in seams:
        for start in range(seam - 3200, seam + windows.fade + 3200, 1600):
            level = 10 * torch.log10(
                out[start : start + 1600].square().mean()
                / (0.85 * long_sound[start : start + 1600]).square().mean()
            )
            assert abs(float(level)) < 0.5


def test_a_hard_cut_would_be_heard_by_the_same_test(long_sound):
    """The measure of clicks is not blind: without margin and fade the edges' damage shows."""
    bare = Windows(margin=0, fade=1)
    out = joined(wobbly_separator, long_sound, bare)
    seam = bare.seams(len(long_sound))[0]
    level = out[seam - 1600 : seam + 1600].square().mean() / long_sound.square().mean()
    assert level < 0.25  # -6 dB


@pytest.mark.parametrize("keep_level", [False, True])
def test_phases_that_differ_dip_by_half_unless_the_level_is_kept(keep_level):
    """A vocoder's windows agree in sound, not in phase: here, independent noise."""
    generator = torch.Generator().manual_seed(0)

    def noise(wave: torch.Tensor) -> torch.Tensor:
        return torch.randn(wave.shape, generator=generator)

    windows = Windows(length=16_000, margin=1000, fade=2000)
    sound = torch.zeros(4, 60_000)
    out = torch.cat(list(in_windows(noise, [sound], windows, keep_level=keep_level)), -1)
    for seam in windows.seams(60_000):
        level = 10 * torch.log10(out[:, seam + 800 : seam + 1200].square().mean())
        assert abs(float(level) - (0 if keep_level else -3)) < 0.5


@pytest.mark.parametrize("amplitude", [0.0, 1e-9, 1.0])
def test_keeping_the_level_changes_nothing_where_windows_agree(amplitude):
    wave = amplitude * torch.randn(2, 5000)
    out = torch.cat(list(in_windows(lambda w: w, [wave], SMALL, keep_level=True)), -1)
    assert torch.equal(out, wave)


def an_hour(block: int) -> Iterator[torch.Tensor]:
    """Yield an hour of silence with a ramp in it, piece by piece."""
    for start in range(0, 3600 * SAMPLE_RATE, block):
        yield torch.full((2, min(block, 3600 * SAMPLE_RATE - start)), float(start % 7))


def storages():
    """Return the bytes of the storages of all tensors that are alive."""
    alive = [t for t in gc.get_objects() if type(t) is torch.Tensor and t.layout == torch.strided]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}


def test_an_hour_runs_in_the_memory_of_a_few_windows():
    """Every new tensor that is alive is counted by its storage: 8 windows of two channels."""
    largest, total = 0, 0
    bound = 8 * 2 * 4 * WINDOW_SAMPLES
    before = storages()
    for step, out in enumerate(in_windows(lambda w: w, an_hour(SAMPLE_RATE * 10))):
        total += out.shape[-1]
        if step % 60 == 0:
            now = storages()
            largest = max(largest, sum(now[place] for place in now.keys() - before.keys()))
    assert total == 3600 * SAMPLE_RATE
    assert 0 < largest < bound


def test_files_stream_through_windows_in_bounded_memory(tmp_path: Path):
    """File to file at another rate: two minutes cost no more numpy memory than half a minute."""
    rate, peaks = 8000, []
    for seconds in (30, 120):
        noise = np.random.default_rng(0).normal(0, 0.1, (1, seconds * rate)).astype(np.float32)
        write_audio(tmp_path / "in.wav", noise, rate, subtype="FLOAT")
        tracemalloc.start()
        blocks = stream_blocks(tmp_path / "in.wav", sample_rate=SAMPLE_RATE, seconds=2.0)
        with AudioWriter(tmp_path / "out.wav", SAMPLE_RATE, subtype="FLOAT") as writer:
            for out in in_windows(lambda w: 0.5 * w, map(torch.from_numpy, blocks)):
                writer.write(out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    whole = np.concatenate(list(stream_blocks(tmp_path / "in.wav", sample_rate=SAMPLE_RATE)), 1)
    result = np.concatenate(list(stream_blocks(tmp_path / "out.wav")), 1)
    assert result.shape == (1, 120 * SAMPLE_RATE)
    np.testing.assert_allclose(result, 0.5 * whole, atol=1e-6)
    assert peaks[1] < 1.5 * peaks[0]


def test_overlap_add_takes_windows_made_elsewhere():
    """A batch of windows may be processed together before they are joined."""
    wave = torch.randn(4321)
    windows = list(split([wave], SMALL))
    batch = 3 * torch.stack([w.wave for w in windows])
    back = [
        Window(row, w.index, w.start, w.samples, w.is_last)
        for row, w in zip(batch, windows, strict=True)
    ]
    assert torch.equal(torch.cat(list(overlap_add(back, SMALL))), 3 * wave)
