"""Figures show what they are given and need no display."""

import io
import sys

import numpy as np
import pytest
import torch
from rectiflow_audio.frontend import LogMel, MelConfig
from rectiflow_audio.plots import log_mel_picture, separation_figure

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def tone():
    """One second of 1 kHz."""
    return 0.3 * torch.sin(2 * torch.pi * 1000 * torch.arange(16_000) / 16_000)


def assert_draws(figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_log_mel_picture_has_time_across_and_low_bands_below(tone):
    log_mel = LogMel()(tone)
    figure = log_mel_picture(log_mel, title="a tone")
    axes = figure.axes[0]
    (image,) = axes.images
    np.testing.assert_array_equal(np.asarray(image.get_array()), log_mel.T)
    assert image.origin == "lower"
    assert image.get_extent()[:2] == pytest.approx((-0.005, 1.005))  # frames centred on their time
    assert axes.get_title() == "a tone"
    names = [label.get_text() for label in axes.get_yticklabels()]
    ticks = dict(zip(names, axes.get_yticks(), strict=True))
    assert ticks["1k"] == pytest.approx(float(log_mel.mean(0).argmax()), abs=1)
    assert_draws(figure)


def test_log_mel_picture_of_another_front_end():
    config = MelConfig(n_mels=16, fmax=4000)
    figure = log_mel_picture(torch.zeros(5, 16), config)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["250", "1k", "2k"]  # no band is centred as high as 4 kHz
    assert_draws(figure)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(frames, 64\), got \(1, 10, 64\)"):
        log_mel_picture(torch.zeros(1, 10, 64))
    with pytest.raises(ValueError, match=r"got \(10, 32\)"):
        log_mel_picture(torch.zeros(10, 32))


def test_separation_figure_has_one_scale_for_all_rows(tone):
    noise = 0.05 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    figure = separation_figure(tone + noise, 0.9 * tone, tone, query="a tone")
    rows = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in rows] == ["mixture", "estimate", "target"]
    assert len({axes.images[0].get_clim() for axes in rows}) == 1
    shown = np.asarray(rows[1].images[0].get_array())
    np.testing.assert_allclose(shown, LogMel()(0.9 * tone).T, atol=1e-6)
    assert figure.get_suptitle() == "a tone"
    assert_draws(figure)
    rows = [axes for axes in separation_figure(tone, tone).axes if axes.images]
    assert [axes.get_title(loc="left") for axes in rows] == ["mixture", "estimate"]


def test_pyplot_is_not_touched(tone):
    before = "matplotlib.pyplot" in sys.modules
    separation_figure(tone, tone)
    assert ("matplotlib.pyplot" in sys.modules) == before
