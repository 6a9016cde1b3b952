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
    ramachandran,
    training_curve,
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


def test_histogram_counts_every_pair(backbones):
    figure = ca_ca_histogram(backbones)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 5 + 8
    assert_draws(figure)
    assert_draws(ca_ca_histogram([]))


def test_distance_matrix_is_one(backbones):
    ca = backbones[0][:, 1]
    figure = distance_matrix(ca)
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert np.allclose(image, torch.cdist(ca, ca), atol=1e-4)
    assert_draws(figure)
    with pytest.raises(ValueError, match=r"ca must have shape \(n, 3\), got \(6, 4, 3\)"):
        distance_matrix(backbones[0])


def test_training_curve_reads_the_metrics_of_a_run(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,train/loss,train/lr,val/loss\n10,2.0,1e-4,\n20,1.0,1e-4,1.5\n30,nan,1e-4,1.2\n"
    )
    figure = training_curve(path)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines == {
        "train/loss": [[10, 2.0], [20, 1.0]],
        "val/loss": [[20, 1.5], [30, 1.2]],
    }
    assert figure.axes[0].get_yscale() == "log"
    assert_draws(figure)


def test_training_curve_of_values_that_may_be_negative():
    figure = training_curve({"advantage": ([1, 2], [-1.0, 3.0])})
    assert figure.axes[0].get_yscale() == "linear"
    assert_draws(figure)


def test_a_file_without_a_loss_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,accuracy\n1,0.5\n")
    with pytest.raises(ValueError, match="has no loss to plot, got columns"):
        training_curve(path)


def test_pyplot_is_not_touched(backbones):
    before = "matplotlib.pyplot" in sys.modules
    distance_matrix(backbones[0][:, 1])
    assert ("matplotlib.pyplot" in sys.modules) == before
