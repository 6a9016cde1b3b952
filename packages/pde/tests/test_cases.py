"""The shared cases: what people bring, and the right outcome of each. Skipped where absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from rectiflow.storage.faults import FileError
from rectiflow_pde.io import Boundaries, read_mesh, read_series, read_trajectories, trajectory_of
from rectiflow_pde.io.first_frame import read_first_frame
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.metrics.boundary import flux, forces
from rectiflow_pde.metrics.ensembles import calibration, crps
from rectiflow_pde.metrics.errors import correlation, relative_l2, vrmse
from rectiflow_pde.metrics.interpolation import interpolation
from rectiflow_pde.metrics.mesh_fields import divergence, kinetic_energy, vorticity
from rectiflow_pde.metrics.shedding import shedding
from rectiflow_pde.metrics.spectra import energy_spectrum
from rectiflow_pde.prompts import outside, parse_prompt
from rectiflow_pde.solvers.draws import CylinderRanges
from rectiflow_pde.units import Units

REPOSITORY = Path(__file__).resolve().parents[3]
SHARED = Path(os.environ.get("RECTIFLOW_SHARED", REPOSITORY.parent / "shared")) / "cases" / "pde"
CASES = {}
if (SHARED / "expected.json").is_file():
    told = json.loads((SHARED / "expected.json").read_text())
    CASES = {case["id"]: case for case in told["cases"]}
pytestmark = pytest.mark.skipif(not CASES, reason="no shared cases; set RECTIFLOW_SHARED")

TOLD = Units(viscosity=1e-3, density=1.0)
INFER = Boundaries(infer=True)
KINDS = {
    "inlet": NodeType.INFLOW,
    "outlet": NodeType.OUTFLOW,
    "wall": NodeType.WALL,
    "cylinder": NodeType.OBSTACLE,
}
WHEN_TOLD = {"d11": Units(1e-3, 1.0, time_step=0.01), "d14": Units(1e-3, 1.0, time_step=0.05)}
WHEN_TOLD["d08"] = Units(1e-3, 1000.0)


def of(first: str, *others: str) -> list[str]:
    """Return cases whose number is in a range or a list."""
    low, _, high = first.partition("-")
    return [c for c in CASES if low <= c <= (high or low)] + list(others) * bool(CASES)


def says(text: str, lists: list[list[str]]) -> bool:
    return all(any(word.lower() in text.lower() for word in words) for words in lists)


def require_refusal(error: Exception, case) -> None:
    assert "refuse" in case["right"]
    assert says(str(error), case["message"])


def require_geometry(mesh, case) -> None:
    assert (mesh.n_nodes, len(mesh.triangles)) == (case["nodes"], case["cells"])
    if "area" in case:
        assert mesh.areas.sum() == pytest.approx(case["area"], rel=1e-5)
    for name, length in case.get("boundary_length", {}).items():
        assert mesh.length_of(KINDS[name]) == pytest.approx(length, rel=1e-5)
        assert len(mesh.edges_of(KINDS[name])) == case["boundary_edges"][name]


def require_samples(points, times, velocity, pressure, case) -> None:
    for sample in case.get("samples", []):
        node = np.hypot(*(points - [sample["x"], sample["y"]]).T).argmin()
        frame = sample.get("frame", 0)
        found = [*velocity[frame, node], pressure[frame, node]]
        assert found == pytest.approx([sample[key] for key in "uvp"], abs=1e-5)
        if "t" in sample:
            assert times[frame] == pytest.approx(sample["t"])


@pytest.mark.parametrize("name", of("m01-m99"))
def test_meshes(name):
    case = CASES[name]
    try:
        found = read_mesh(SHARED / case["files"][0], boundaries=INFER)
    except FileError as error:
        require_refusal(error, case)
        return
    assert "read" in case["right"]
    require_geometry(found.mesh, case)
    assert says(" ".join(found.notes), case.get("note", []))


@pytest.mark.parametrize("name", of("d01-d13"))
def test_fields_and_series(name):
    case = CASES[name]
    try:
        raw = read_series(SHARED / case["files"][0], TOLD, boundaries=INFER)
        flow, notes = trajectory_of(raw, TOLD, every=0.1)
    except FileError as error:
        require_refusal(error, case)
        if name in WHEN_TOLD:
            raw = read_series(SHARED / case["files"][0], WHEN_TOLD[name], boundaries=INFER)
            assert raw.times.tolist() == pytest.approx(case["when_told"]["times"])
            require_samples(raw.mesh.points, raw.times, raw.velocity, raw.pressure, case)
        return
    if name == "d08":  # read when told, refused when not
        with pytest.raises(FileError, match="density"):
            trajectory_of(raw, Units())
        flow, _ = trajectory_of(raw, WHEN_TOLD[name])
        enters = flow.mesh.nodes_of(NodeType.INFLOW)
        wanted = case["when_told"]["kinematic_pressure_at_inlet"]
        assert flow.fields["p"][0, enters] == pytest.approx(wanted, rel=1e-4)
        return
    assert "read" in case["right"]
    require_geometry(flow.mesh, case)
    require_samples(raw.mesh.points, raw.times, raw.velocity, raw.pressure, case)
    assert says(" ".join(notes), case.get("note", []))
    if "times" in case:
        assert raw.times.tolist() == pytest.approx(case["times"])
    for sample in case.get("node_values_between", []):
        node = np.hypot(*(flow.mesh.points - [sample["x"], sample["y"]]).T).argmin()
        assert sample["u_min"] <= flow.fields["u"][0, node] <= sample["u_max"]


@pytest.mark.parametrize("name", of("d14-d19"))
def test_trajectory_files(name):
    case = CASES[name]
    path = SHARED / case["files"][0]
    units = WHEN_TOLD.get(name, TOLD)
    case = case | case.get("when_told", {})
    prepared, refused = [], []
    try:
        for raw in read_trajectories(path):
            try:
                if isinstance(raw, FileError):
                    raise raw
                with pytest.raises(FileError, match=r"viscosity|index|finite"):
                    trajectory_of(raw, Units())
                prepared.append(trajectory_of(raw, units)[0])
            except FileError as error:
                refused.append(error)
    except FileError as error:
        refused.append(error)
    several = case.get("trajectories", int("nodes" in case))
    assert len(prepared) == case.get("prepared", several)
    assert len(refused) == case.get("rejected", int("nodes" not in case))
    assert all(says(str(error), case["message"]) for error in refused)
    for i, flow in enumerate(prepared):
        require_geometry(flow.mesh, case)
        assert len(flow.times) == case["frames"]
        velocity = flow.stacked[..., :2] / (
            1 + i if several > 1 else 1
        )  # each is faster than the last
        kinds = np.array([0, 4, 5, 6, 6])[flow.mesh.node_type].tolist()
        assert {str(k): kinds.count(k) for k in set(kinds)} == case["node_types"]
        require_samples(flow.mesh.points, flow.times, velocity, flow.fields["p"], case)


@pytest.mark.parametrize("name", of("d20-d23"))
def test_first_frames(name):
    case = CASES[name]
    mesh = read_mesh(SHARED / case["files"][0], boundaries=INFER).mesh
    try:
        frame, notes = read_first_frame(SHARED / case["files"][1], mesh)
    except FileError as error:
        require_refusal(error, case)
        return
    told = " ".join(notes)
    assert says(told, case.get("note", case.get("message", [])))
    require_samples(mesh.points, [0], frame[None, :, :2], frame[None, :, 2], case)


@pytest.mark.parametrize("name", of("p01-p99"))
def test_prompts(name):
    case = CASES[name]
    text = case["text"]
    text = (SHARED / text[1:]).read_text() if text.startswith("@") else text
    try:
        found = parse_prompt(text)
    except ValueError as error:
        require_refusal(error, case)
        return
    for key in ("radius", "u_mean", "reynolds", "viscosity"):
        wanted = case[key]
        assert getattr(found, key) == (wanted if wanted is None else pytest.approx(wanted))
    assert (list(found.centre) if found.centre else None) == case["center"]
    told = found.completed()
    for key, value in case.get("derived", {}).items():
        assert told[key] == pytest.approx(value)
    if case["right"] != "ok or refuse":
        assert says(" ".join([*found.notes, *outside(told, CylinderRanges())]), case["message"])


@pytest.fixture(scope="module")
def arrays():
    with np.load(SHARED / "numbers" / "arrays.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def grouped():
    return read_mesh(SHARED / "mesh" / "gmsh22_ascii_groups.msh").mesh


def close(name, **found):
    """Compare numbers with those of a case; None is none."""
    right = CASES[name]["right"]
    for key, value in found.items():
        wanted = right[key]
        if isinstance(wanted, list):
            assert [w is None for w in wanted] == [v is None for v in value], key
            pairs = zip(value, wanted, strict=True)
            value, wanted = zip(*[(v, w) for v, w in pairs if w is not None], strict=True)
        assert value == pytest.approx(wanted, rel=right.get("relative_tolerance", 1e-4)), key


@pytest.mark.parametrize("name", of("n01-n03"))
def test_relative_errors(name, arrays):
    found = relative_l2(arrays[f"{name}_pred"], arrays[f"{name}_true"])
    close(name, total=found.total, per_channel=found.per_channel)


def test_errors_of_parts(arrays):
    found = relative_l2(arrays["n04_pred"], arrays["n04_true"], given_frames=1)
    close("n04", excluded=found.without_given, included=found.total)
    found = relative_l2(arrays["n05_pred"], arrays["n05_true"], mask=arrays["n05_mask"] > 0)
    close("n05", total=found.total)
    free = np.isin(arrays["n06_node_type"], (0, 5))
    found = relative_l2(arrays["n06_pred"][..., None], arrays["n06_true"][..., None], free=free)
    close("n06", all_nodes=found.total, free_nodes=found.free_nodes)
    close("n09", sine=vrmse(arrays["n09_sine_pred"], arrays["n09_sine_true"]))
    close("n09", constant=vrmse(arrays["n09_constant_pred"], arrays["n09_constant_true"]))


@pytest.mark.parametrize("name", of("n10-n15"))
def test_strouhal(name, arrays):
    t, v, diameter, speed = (arrays[f"{name}_{key}"] for key in "tvDU")
    found = shedding(t, v, scale=float(speed))
    wanted = CASES[name]["right"]["strouhal"]
    assert (found.frequency is None) == (wanted is None)
    if wanted is not None:
        close(name, strouhal=found.strouhal(float(diameter), float(speed)))
    assert found.regime == CASES[name]["right"].get("regime", found.regime)


def test_spectra(arrays):
    found = energy_spectrum(arrays["n16_u"], arrays["n16_v"])
    close("n16", shell=int(found.argmax()), energy=found.max(), total=found.sum())
    found = energy_spectrum(arrays["n17_u"], arrays["n17_v"])
    close("n17", total=found.sum())
    k = np.arange(2, 16)
    slope = np.polyfit(np.log(k), np.log(found[k]), 1)[0]
    assert slope == pytest.approx(CASES["n17"]["right"]["slope"], abs=1e-3)
    for key, value in CASES["n17"]["right"]["E"].items():
        assert found[int(key)] == pytest.approx(value, rel=1e-4)


def test_fields_on_a_mesh(grouped):
    x, y = grouped.points.T
    zero = np.zeros(len(x))
    found = divergence(grouped, x, 0.5 * y)
    weak = float(np.abs(found.weak).max())
    close("n18", ratio=found.ratio, l2=found.l2, weak_sum=found.weak.sum(), weak_max_abs=weak)
    assert divergence(grouped, -y, x).ratio < 1e-6
    assert np.allclose(vorticity(grouped, -y, x), CASES["n19"]["right"]["vorticity"])
    assert divergence(grouped, zero, zero).ratio == 0
    close("n21", constant=kinetic_energy(grouped, zero + 1, zero))
    close("n21", linear=kinetic_energy(grouped, x, zero))
    drag, lift = forces(grouped, zero, zero, -x, 1e-3)
    close("n22", fx=drag)
    assert abs(lift) < 1e-9
    assert np.abs(forces(grouped, zero, zero, zero + 101_325.0, 1e-3)).max() < 1e-6
    angle = np.arctan2(y - 0.2, x - 0.3)
    around = -2 * np.sin(angle) + 0.5 / (2 * np.pi * 0.05)
    close("n24", fy_polygon=forces(grouped, zero, zero, (1 - around**2) / 2, 1e-3)[1])
    u = 4 * 1.2 * y * (0.41 - y) / 0.41**2
    close("n26", trapezoid_inlet=-flux(grouped, u, zero, NodeType.INFLOW))
    close("n26", trapezoid_outlet=flux(grouped, u, zero, NodeType.OUTFLOW))
    points = CASES["n33"]["points"]
    at = interpolation(grouped, [*points["inside"], points["in_cylinder"], points["beyond_outlet"]])
    found = at(1 + 2 * x - 3 * y)
    close("n33", inside=found[:3].tolist())
    assert np.isnan(found[3:]).all()


def test_correlation_and_ensembles(arrays):
    found = correlation(arrays["n27_pred"], arrays["n27_true"], arrays["n27_t"])
    close("n27", first_frame_below=found.first_below(), at_0_9=found.first_below(0.9))
    assert found.time() == pytest.approx(CASES["n27"]["right"]["interpolated"], abs=0.02)
    found = correlation(arrays["n28_pred"], arrays["n28_true"], arrays["n28_t"])
    assert found.per_frame[CASES["n28"]["right"]["frame"]] is None
    assert found.time() is None
    plain, fair = crps(arrays["n29_members"], arrays["n29_truth"])
    close("n29", crps=plain, fair=fair)
    told = calibration(arrays["n30_members"], arrays["n30_truth"])
    close("n30", spread=told.spread, skill=told.skill, ratio_corrected=told.corrected)
