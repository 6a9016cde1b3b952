"""The picture of a training shows the losses of its metrics file."""

from __future__ import annotations

import io
import sys

import pytest

pytest.importorskip("lightning")

from rectiflow.training.curve import training_curve


def test_losses_of_a_run_over_their_steps(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(
        "step,train/loss,train/lr,val/loss\n10,2.0,1e-4,\n20,1.0,1e-4,1.5\n30,nan,1e-4,1.2\n"
    )
    before = "matplotlib.pyplot" in sys.modules
    figure = training_curve(path)
    lines = {line.get_label(): line.get_xydata().tolist() for line in figure.axes[0].lines}
    assert lines == {
        "train/loss": [[10, 2.0], [20, 1.0]],
        "val/loss": [[20, 1.5], [30, 1.2]],
    }
    assert figure.axes[0].get_yscale() == "log"
    picture = io.BytesIO()
    figure.savefig(picture)
    assert picture.getvalue().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_values_that_may_be_negative_are_not_on_a_logarithmic_axis():
    figure = training_curve({"advantage": ([1, 2], [-1.0, 3.0])})
    assert figure.axes[0].get_yscale() == "linear"


def test_a_file_without_a_loss_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,accuracy\n1,0.5\n")
    with pytest.raises(ValueError, match="has no loss to plot, got columns"):
        training_curve(path)
