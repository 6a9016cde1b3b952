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


def shown(image) -> np.ndarray:
    """Return the numbers that a mesh shows, low bands first."""
    height, width = (size - 1 for size in image.get_coordinates().shape[:2])
    return np.asarray(image.get_array()).reshape(height, width)


def test_log_mel_picture_has_time_across_and_low_bands_below(tone):
    log_mel = LogMel()(tone)
    figure = log_mel_picture(log_mel, title="a tone")
    axes = figure.axes[0]
    (image,) = axes.collections
    np.testing.assert_array_equal(shown(image), log_mel.T)
    assert axes.get_xlim() == pytest.approx((-0.005, 1.005))  # frames centred on their time
    assert axes.get_ylim()[0] < 100 < 7500 < axes.get_ylim()[1]  # Hz, low ones below
    assert axes.get_title() == "a tone"
    bands = image.get_coordinates()[:, 0, 1]
    loudest = int(log_mel.mean(0).argmax())
    assert bands[loudest] < 1000 < bands[loudest + 1]
    assert_draws(figure)


def test_log_mel_picture_of_another_front_end():
    config = MelConfig(n_mels=16, fmax=4000)
    figure = log_mel_picture(torch.zeros(5, 16), config)
    assert 3000 < figure.axes[0].get_ylim()[1] < 4500
    assert_draws(figure)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"shape \(frames, 64\), got \(1, 10, 64\)"):
        log_mel_picture(torch.zeros(1, 10, 64))
    with pytest.raises(ValueError, match=r"got \(10, 32\)"):
        log_mel_picture(torch.zeros(10, 32))


def test_separation_figure_has_one_scale_for_all_rows(tone):
    noise = 0.05 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    figure = separation_figure(tone + noise, 0.9 * tone, tone, query="a tone")
    rows = [axes for axes in figure.axes if axes.get_ylabel() == "Hz"]
    assert [axes.get_title(loc="left") for axes in rows] == ["mixture", "estimate", "target"]
    assert len({axes.collections[0].get_clim() for axes in rows}) == 1
    found = shown(rows[1].collections[0])
    np.testing.assert_allclose(found, LogMel()(0.9 * tone).T, atol=1e-6)
    assert figure.get_suptitle() == "a tone"
    assert_draws(figure)
    rows = [axes for axes in separation_figure(tone, tone).axes if axes.get_ylabel() == "Hz"]
    assert [axes.get_title(loc="left") for axes in rows] == ["mixture", "estimate"]


def test_pyplot_is_not_touched(tone):
    before = "matplotlib.pyplot" in sys.modules
    separation_figure(tone, tone)
    assert ("matplotlib.pyplot" in sys.modules) == before
