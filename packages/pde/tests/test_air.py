"""AirPhyNet: tables of stations, transport that conserves, plumes, and forecasts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rectiflow_pde.air import AirObjective, AirPipeline, AirSettings
from rectiflow_pde.data.air import AirData, plumes, read_folder, write_plumes
from rectiflow_pde.io.stations import read_series, read_stations, write_series
from rectiflow_pde.networks.air import KMH, AirNetwork, Transport

STATIONS = "station,latitude,longitude\na,40.0,116.0\nb,40.1,116.0\nc,40.0,116.2\n"
HEAD = "time,station,value,wind_speed,wind_direction\n"


@pytest.fixture
def tables(tmp_path):
    """Write tables, and return what reads them again."""

    def read(readings, stations=STATIONS):
        (tmp_path / "stations.csv").write_text(stations)
        (tmp_path / "readings.csv").write_text(readings)
        return read_folder(tmp_path)

    return read


def test_tables_with_gaps(tables):
    series = tables(
        HEAD + "2024-01-01T00:00,a,10,2,270\n2024-01-01T00:00,b,20,,\n"
        "2024-01-01T03:00,a,,3,0\n2024-01-01T01:00,c,5,,\n"
    )
    assert series.step == pytest.approx(1.0)
    assert series.values.shape == (4, 3)
    assert np.isnan(series.values).sum() == 9
    assert series.wind[0, 0] == pytest.approx([2, 0])  # from the west, to the east
    assert series.wind[2, 0] == pytest.approx([2, 0])  # held
    assert series.wind[3, 0] == pytest.approx([0, -3])  # from the north
    assert series.wind[3, 2] == pytest.approx([0, -3])  # c never measured: as the others
    assert "75 % of the values are gaps" in series.notes
    assert [series.time(i) for i in (0, 3)] == ["2024-01-01T00:00:00", "2024-01-01T03:00:00"]
    east, north = series.stations.places[2] - series.stations.places[0]
    assert (east, north) == pytest.approx((0.2 * 111.19 * np.cos(np.radians(40.033)), 0), rel=1e-3)


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        (HEAD + "2024-01-01T00:00,d,10,2,270\n", "is of station 'd'; expected one of the 3"),
        (HEAD + "2024-01-01T00:00,a,-1,2,270\n", "value -1; expected none below 0"),
        (HEAD + "2024-01-01T00:00,a,x,2,270\n", "line 2 has 'x'; expected a number"),
        (HEAD + "noon,a,1,2,270\n", "the time 'noon'"),
        (HEAD + "2024-01-01T00:00,a,1,300,270\n", "a wind of 300 m/s"),
        (HEAD + "2024-01-01T00:00,a,1,2,270\n" * 2, "it has one time"),
        (HEAD + "2024-01-01T00:00,a,1,2,270\n2024-01-01T01:00,a,1,2,270\n" * 2, "a time twice"),
        (
            HEAD + "".join(f"2024-01-01T{t},a,1,2,270\n" for t in ("00:00", "01:00", "02:30")),
            "whole multiples",
        ),
        (HEAD + "2024-01-01T00:00,a,1,,\n2024-01-01T01:00,a,1,,\n", "no wind was measured"),
        (HEAD + "2024-01-01T00:00,a,,1,1\n2024-01-01T01:00,a,,1,1\n", "no value was measured"),
        ("time,station,value\n2024-01-01T00:00,a,1\n", "it has no wind"),
        (HEAD, "it has no row"),
        (HEAD + "2024-01-01T00:00,a,1,2,270\n2024-01-01T01:00,a,1,2,1\n2034-01-01T00:00,a,1,2,1\n",
         "fewer gaps"),
    ],
)  # fmt: skip
def test_tables_that_are_refused(tables, readings, said):
    with pytest.raises(ValueError, match=said):
        tables(readings)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("a,40,116\n", "it has 1 stations"),
        ("a,40,116\na,41,116\n", "1 of different names"),
        ("a,40,116\nb,140,116\n", "latitude '140'"),
        ("a,40,116\nb,,116\n", "latitude ''"),
        ("a,40,116\nb,40,116\n", "a and b stand at one place"),
    ],
)
def test_stations_that_are_refused(tmp_path, rows, said):
    (tmp_path / "s.csv").write_text("station,latitude,longitude\n" + rows)
    with pytest.raises(ValueError, match=said):
        read_stations(tmp_path / "s.csv")


def test_tables_are_read_as_they_were_written(tmp_path):
    made = plumes(stations=5, hours=30, gaps=0.2)
    write_series(made, tmp_path)
    again = read_series(tmp_path / "readings.csv", read_stations(tmp_path / "stations.csv"))
    assert np.allclose(again.values, made.values, rtol=1e-5, equal_nan=True)
    assert np.allclose(again.wind, made.wind, rtol=1e-5, atol=1e-5)
    assert again.time(3) == made.time(3) == "2024-01-01T03:00:00+00:00"
    assert np.allclose(again.stations.places, made.stations.places, atol=1e-3)


def test_transport_conserves_and_goes_with_the_wind():
    torch.manual_seed(0)
    transport = Transport(neighbours=3).double().requires_grad_(False)
    places = torch.randn(9, 2, dtype=torch.float64) * 10
    wind = torch.randn(2, 9, 2, dtype=torch.float64) * 5
    x = torch.rand(2, 9, 4, dtype=torch.float64)
    rates = transport.rates(places, wind)
    change = Transport.change(rates, x)
    assert change.abs().max() > 0.01
    assert change.sum(1).abs().max() < 1e-13
    assert (rates >= 0).all()
    east = torch.tensor([[0.0, 0.0], [10.0, 0.0]]).double()
    west_wind = torch.tensor([[3.0, 0.0], [3.0, 0.0]]).double()
    there, back = transport.rates(east, west_wind)[0, 1], transport.rates(east, west_wind)[1, 0]
    spread = torch.nn.functional.softplus(transport.diffusion) / 100
    share = torch.nn.functional.softplus(transport.advection)
    assert float(there - back) == pytest.approx(float(share) * 3 * KMH / 10)
    assert float(back) == pytest.approx(float(spread))


def test_a_forecast_without_remainder_keeps_the_sum_and_the_sign():
    network = AirNetwork(units=8).double()  # its corrections begin as zero
    history = torch.rand(2, 6, 7, dtype=torch.float64)
    wind, places = torch.randn(2, 7, 2).double() * 8, torch.randn(7, 2).double() * 8
    found = network(history, wind, places, 5)
    assert found.shape == (2, 5, 7)
    assert torch.allclose(found.sum(-1), history[:, -1:].sum(-1).expand(2, 5), rtol=1e-12)
    assert (found > 0).all()
    assert not torch.allclose(found[:, -1], history[:, -1])


def test_samples_do_not_leak_into_each_other():
    network = AirNetwork(units=8)
    torch.nn.init.normal_(network.begin[-1].weight)
    torch.nn.init.normal_(network.remainder[-1].weight, std=0.1)
    history, wind, places = torch.rand(2, 6, 5), torch.randn(2, 5, 2), 9 * torch.randn(5, 2)
    both = network(history, wind, places, 3)
    alone = network(history[:1], wind[:1], places, 3)
    assert torch.allclose(both[:1], alone, atol=1e-4)


def test_gaps_are_held():
    nan = torch.nan
    history = torch.tensor([[[nan, 1.0], [2.0, nan], [nan, nan]]])
    held, known = AirNetwork.held(history)
    assert held.tolist() == [[[0.0, 1.0], [2.0, 1.0], [2.0, 1.0]]]
    assert known.sum() == 2


def test_physics_beats_the_same_network_without_it(tmp_path):
    """On plumes with a known wind, after the same few steps."""
    data = AirData(write_plumes(tmp_path), 16, history=6, horizon=6)
    windows, held = data.dataset, list(data.validation)
    found = {}
    for physics in (True, False):
        torch.manual_seed(0)
        objective = AirObjective(AirNetwork(units=16, physics=physics))
        optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
        draw = torch.Generator().manual_seed(0)
        for _ in range(60):
            rows = torch.randint(len(windows), (16,), generator=draw).tolist()
            batch = torch.utils.data.default_collate([windows[row] for row in rows])
            optimizer.zero_grad()
            objective(batch, draw)["loss"].backward()
            optimizer.step()
        with torch.no_grad():
            told = [objective(batch, draw) for batch in held]
        found[physics] = float(torch.stack([each["loss"] for each in told]).mean())
        persistence = float(torch.stack([each["persistence"] for each in told]).mean())
    assert found[True] < 0.9 * found[False], found
    assert found[True] < 0.8 * persistence


def test_forecasts(tmp_path):
    series = plumes(stations=5, hours=30)
    pipe = AirPipeline(AirNetwork(units=8), settings=AirSettings(3.0, history=6, horizon=4))
    made = pipe(series)
    assert made.values.shape == (4, 5)
    assert made.values.sum(1) == pytest.approx([series.values[-1].sum()] * 4, rel=1e-4)
    made.save(tmp_path / "out")
    again = AirPipeline.from_pretrained
    pipe.save_pretrained(tmp_path / "weights")
    assert np.array_equal(again(tmp_path / "weights")(series).values, made.values)
    head, first, *rest = (tmp_path / "out" / "forecast.csv").read_text().splitlines()
    assert head == "time,station,value"
    assert first.startswith("2024-01-02T06:00:00+00:00,S00,")
    assert len(rest) == 19
    with pytest.raises(ValueError, match="needs 6 times before it"):
        pipe(plumes(stations=5, hours=4))
    slow = AirPipeline(pipe.network, settings=AirSettings(3.0, history=6, step=3.0))
    with pytest.raises(ValueError, match="1 h apart, the weights know 3 h"):
        slow(series)


def test_short_tables_cannot_be_trained_on(tmp_path):
    with pytest.raises(ValueError, match="at least 48 there"):
        AirData(write_plumes(tmp_path, hours=40))
