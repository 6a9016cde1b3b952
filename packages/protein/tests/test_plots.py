"""Figures show what they are given and need no display."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from rectiflow_protein.metrics import torsions
from rectiflow_protein.plots import (
    ca_ca_histogram,
    distance_matrix,
    largest_distance,
    ramachandran,
)

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def backbones():
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(n, 4, 3, generator=generator) for n in (6, 9)]


def assert_draws(figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    assert buffer.getvalue().startswith(b"\x89PNG")


def test_ramachandran_shows_every_torsion_in_degrees(backbones):
    figure = ramachandran(backbones, title="two chains")
    (axes,) = figure.axes
    shown = np.asarray(axes.collections[0].get_offsets())
    assert len(shown) == 6 + 9
    phi = torch.rad2deg(torsions(backbones[0]).phi).numpy()
    assert np.allclose(np.ma.filled(shown[:6, 0], np.nan), phi, atol=1e-3, equal_nan=True)
    assert axes.get_title() == "two chains"
    assert_draws(figure)
    assert_draws(ramachandran([]))


def test_histogram_counts_every_pair_and_says_what_lies_outside(backbones):
    figure = ca_ca_histogram(backbones)
    (axes,) = figure.axes
    assert sum(bar.get_height() for bar in axes.patches) == 5 + 8
    apart = torch.cat([(x[1:, 1] - x[:-1, 1]).norm(dim=-1) for x in backbones])
    outside = int(((apart < 2.6) | (apart > 5.0)).sum())
    assert outside
    assert axes.get_title() == f"Consecutive CA ({outside} outside the range)"
    assert axes.patches[0].get_x() == pytest.approx(2.6)
    assert axes.patches[-1].get_x() + axes.patches[-1].get_width() == pytest.approx(5.0)
    assert_draws(figure)
    assert_draws(ca_ca_histogram([]))


def test_distance_matrix_is_one(backbones):
    ca = backbones[0][:, 1]
    figure = distance_matrix(ca)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(image, torch.cdist(ca, ca), atol=1e-4)
    assert_draws(figure)
    assert figure.axes[0].images[0].get_extent() == [0.5, 6.5, 0.5, 6.5]  # counted from 1
    top = largest_distance([x[:, 1] for x in backbones])
    for x in backbones:
        ends = distance_matrix(x[:, 1], top=top).axes[0].images[0].get_clim()
        assert ends == (0, pytest.approx(top))
    with pytest.raises(ValueError, match=r"ca must have shape \(n, 3\), got \(6, 4, 3\)"):
        distance_matrix(backbones[0])


def test_pyplot_is_not_touched(backbones):
    before = "matplotlib.pyplot" in sys.modules
    distance_matrix(backbones[0][:, 1])
    assert ("matplotlib.pyplot" in sys.modules) == before
