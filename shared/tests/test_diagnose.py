"""``diagnose`` on a flow that is known: a Gaussian on a plane, straight and turned."""

from __future__ import annotations

import json

import pytest
import torch
from rectiflow.analytic import GaussianMixtureFlow
from rectiflow.commands import Batch, Tune
from rectiflow.commands.diagnose import Diagnose, diagnosed
from rectiflow.pipeline import Pipeline


class Plane(Tune):
    """Knows the field of a normal law on a plane in four dimensions."""

    domain, turn, parts = "plane", 0.0, False

    def own_flags(self, parser):
        parser.add_argument("--turn", type=float, default=0.0)

    def load(self, args):
        return Pipeline

    def batch(self, args, pipe):
        cov = torch.diag(torch.tensor([1.0, 1.0, 1e-8, 1e-8], dtype=torch.float64))
        flow = GaussianMixtureFlow(torch.ones(1).double(), torch.zeros(1, 4).double(), cov[None])
        skew = torch.zeros(4, 4, dtype=torch.float64)
        skew[0, 1], skew[1, 0] = -args.turn, args.turn

        def field(x, t):
            return flow.velocity(x, t) + x @ skew.T

        draw = torch.Generator().manual_seed(args.seed)
        x0 = torch.randn(args.num, 4, generator=draw, dtype=torch.float64)
        return Batch(None if self.parts else field, None if self.parts else x0)


def test_a_known_flow(capsys):
    words = ["--times", "0.5", "0.98", "--probes", "16", "--num", "8", "--steps", "20", "--json"]
    assert Diagnose(Plane())(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["dimensions"] == 4
    first, last = told["times"]
    assert first["asymmetry"] < 1e-6
    assert last["dimension"] == pytest.approx(2, abs=0.1)
    assert first["dimension"] == pytest.approx(4 - 2 - 2 * 0.5, abs=1.5)
    assert Diagnose(Plane())([*words, "--turn", "2"]) == 0
    turned = json.loads(capsys.readouterr().out)["times"]
    assert turned[0]["asymmetry"] > 1
    assert Diagnose(Plane())(words[:-1]) == 0
    assert "the state has 4 dimensions" in capsys.readouterr().out


def test_a_gauge_is_found_where_there_is_one():
    cov = torch.diag(torch.tensor([1.0, 0.3], dtype=torch.float64))
    flow = GaussianMixtureFlow(torch.ones(1).double(), torch.zeros(1, 2).double(), cov[None])
    skew = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    x0 = torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    told = {"steps": 20, "probes": 64}
    [plain] = diagnosed(flow.velocity, x0, [0.5], **told)
    [turned] = diagnosed(lambda x, t: flow.velocity(x, t) + x @ skew.T, x0, [0.5], **told)
    assert plain["gauge"] < 0.2 * turned["gauge"]


def test_flows_of_parts_and_times_that_are_none_are_refused():
    parts = Plane()
    parts.parts = True
    with pytest.raises(ValueError, match="the flow of plane has no field of one tensor"):
        Diagnose(parts)([])
    with pytest.raises(ValueError, match="argument --times: invalid _time value: '1'"):
        Diagnose(Plane())(["--times", "1"])
