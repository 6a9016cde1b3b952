"""Series, trajectories and their units: told, or refused with the flag to give."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from rectiflow.storage.faults import FileError
from rectiflow_pde.io import (
    Boundaries,
    FieldNames,
    read_series,
    read_trajectories,
    trajectory_of,
    write_trajectory,
)
from rectiflow_pde.mesh import NodeType
from rectiflow_pde.units import Units

INFER = Boundaries(infer=True)
SI = Units(viscosity=1e-3, density=1.0)


def series(path, units=SI, **more):
    return read_series(path, units, boundaries=INFER, **more)


def pvd(folder, entries):
    lines = "".join(f'<DataSet timestep="{t}" file="{name}"/>' for t, name in entries)
    (folder / "a.pvd").write_text(f"<VTKFile><Collection>{lines}</Collection></VTKFile>")
    return folder / "a.pvd"


@pytest.fixture
def frames(tmp_path, flow, vtu):
    for i in range(6):
        vtu(tmp_path / f"f_{i}.vtu", flow, i)
    return tmp_path


def test_written_flows_are_read_again(tmp_path, flow):
    for name in ("a.pvd", "a.xdmf"):
        files = write_trajectory(flow, tmp_path / name)
        assert all(file.is_file() for file in files)
        found, _ = trajectory_of(series(tmp_path / name), SI)
        assert np.allclose(found.times, flow.times)
        assert np.array_equal(found.mesh.node_type, flow.mesh.node_type)
        assert np.allclose(found.stacked, flow.stacked, atol=1e-7)
    suffixes = [".h5", ".pvd", *6 * [".vtu"], ".xdmf"]
    assert sorted(path.suffix for path in tmp_path.iterdir()) == suffixes
    with pytest.raises(ValueError, match=r"unknown suffix '\.png'"):
        write_trajectory(flow, tmp_path / "a.png")


def test_a_series_is_read_in_the_order_of_time(frames, flow):
    order = [(0.05 * i, f"f_{i}.vtu") for i in (3, 0, 5, 1, 4, 2)]
    found, notes = trajectory_of(series(pvd(frames, order)), SI)
    assert np.allclose(found.stacked, flow.stacked, atol=1e-7)
    assert found.parameters["u_mean"] == pytest.approx(0.8, rel=1e-6)
    assert found.parameters["reynolds"] == pytest.approx(80, rel=1e-3)
    assert "Reynolds number is 80" in found.caption
    assert any("inferred from geometry" in note for note in notes)


def test_uneven_times_are_said_and_resampled_only_when_asked(frames, flow):
    listed = pvd(frames, [(0.0, "f_0.vtu"), (0.05, "f_1.vtu"), (0.15, "f_3.vtu")])
    raw = series(listed)
    assert "0.05 to 0.15 s (step 0.1)" in raw.notes[-1]
    with pytest.raises(FileError, match=r"times are irregular.*--resample 0\.075"):
        trajectory_of(raw, SI)
    found, notes = trajectory_of(raw, SI, every=0.05)
    assert np.allclose(found.times, [0, 0.05, 0.1, 0.15])
    between = (flow.fields["v"][1] + flow.fields["v"][3]) / 2
    assert np.allclose(found.fields["v"][2], between, atol=1e-6)
    assert "resampled to every 0.05 s" in notes[-1]


def test_series_of_paraview_and_missing_files(frames):
    files = [{"name": f"f_{i}.vtu", "time": 0.1 * i} for i in (0, 1, 3)]
    (frames / "a.vtu.series").write_text(json.dumps({"files": files}))
    assert "0.1 to 0.3 s (step 0.2)" in series(frames / "a.vtu.series").notes[-1]
    with pytest.raises(FileError, match=r"gone\.vtu is listed but not there"):
        series(pvd(frames, [(0.0, "f_0.vtu"), (0.1, "gone.vtu")]))
    with pytest.raises(FileError, match="2 files have 1 times: it is partitioned"):
        series(pvd(frames, [(0.0, "f_0.vtu"), (0.0, "f_1.vtu")]))
    with pytest.raises(FileError, match="no PVD"):
        series(pvd(frames, [("soon", "f_0.vtu")]))


def test_numbered_files_need_a_time_step_and_count_as_numbers(tmp_path, flow, vtu):
    for i, number in enumerate((0, 5, 10, 100)):
        vtu(tmp_path / f"flow_{number}.vtu", flow, i)
    with pytest.raises(FileError, match=r"numbered 0 to 100 and have no times.*--time-step"):
        series(tmp_path)
    found = series(tmp_path, Units(viscosity=1e-3, density=1, time_step=0.01))
    assert np.allclose(found.times, [0, 0.05, 0.1, 1.0])
    assert np.allclose(found.velocity[..., 1], flow.fields["v"][:4], atol=1e-7)


def test_xdmf_without_its_values_names_them(tmp_path, flow):
    write_trajectory(flow, tmp_path / "a.xdmf")
    (tmp_path / "a.h5").rename(tmp_path / "b.h5")
    with pytest.raises(FileError, match=r"values are in a\.h5, which is not beside it"):
        series(tmp_path / "a.xdmf")


def test_a_mesh_that_changes_is_refused(frames, flow, vtu, mesh):
    import meshio

    points = np.column_stack([mesh.points * 0.9, np.zeros(mesh.n_nodes)])
    old = meshio.read(frames / "f_1.vtu")
    meshio.Mesh(points, old.cells, point_data=old.point_data).write(frames / "f_1.vtu")
    with pytest.raises(FileError, match=r"f_1\.vtu: its mesh is another"):
        series(pvd(frames, [(0.0, "f_0.vtu"), (0.1, "f_1.vtu")]))


def test_fields_are_taken_by_usual_names_or_asked_for(tmp_path, flow, vtu, mesh):
    u = np.ones((mesh.n_nodes, 3))
    p = np.ones(mesh.n_nodes)
    found = series(vtu(tmp_path / "a.vtu", flow, 0, UMean=u, p_rgh=p))
    assert np.allclose(found.velocity[0, :, 0], flow.fields["u"][0], atol=1e-7)
    both = vtu(tmp_path / "b.vtu", flow, 0, velocity=u)
    with pytest.raises(FileError, match=r"several fields could be the velocity: U, velocity"):
        series(both)
    assert series(both, names=FieldNames("velocity")).velocity.max() == 1
    with pytest.raises(FileError, match=r"no pressure under a usual name .*got U"):
        series(vtu(tmp_path / "c.vtu", flow, 0, p=None))
    with pytest.raises(FileError, match="no pressure named 'q', got U, p"):
        series(vtu(tmp_path / "d.vtu", flow), names=FieldNames(pressure="q"))


def test_values_of_cells_are_averaged_to_nodes(tmp_path, mesh):
    import meshio

    points = np.column_stack([mesh.points, np.zeros(mesh.n_nodes)])
    middle = mesh.points[mesh.triangles].mean(1)
    data = {"U": [np.column_stack([middle, 0 * middle[:, :1]])], "p": [middle[:, 0]]}
    cells = [("triangle", mesh.triangles)]
    meshio.Mesh(points, cells, cell_data=data).write(tmp_path / "a.vtu")
    found = series(tmp_path / "a.vtu")
    assert "U, p of cells are averaged to the nodes: walls may slip" in found.notes
    inner = mesh.node_type == NodeType.FLUID
    assert np.abs(found.pressure[0] - mesh.points[:, 0])[inner].max() < 0.02


def test_units_are_told_or_refused(tmp_path, arrays, flow):
    bare = {key: value for key, value in arrays.items() if key not in ("viscosity", "density")}
    np.savez(tmp_path / "a.npz", **bare)
    [raw] = read_trajectories(tmp_path / "a.npz")
    with pytest.raises(FileError, match=r"viscosity, density and unit.*--viscosity.*--density"):
        trajectory_of(raw, Units())
    with pytest.raises(FileError, match="--density RHO, or --pressure-unit"):
        trajectory_of(raw, Units(viscosity=1e-3))
    found, _ = trajectory_of(raw, Units(viscosity=1e-3, density=1000.0))
    assert np.allclose(found.fields["p"], flow.fields["p"] / 1000)
    found, _ = trajectory_of(raw, Units(viscosity=1e-3, pressure="m2/s2"))
    assert np.allclose(found.fields["p"], flow.fields["p"])
    with pytest.raises(ValueError, match="density must be positive, got 0"):
        Units(density=0)
    with pytest.raises(ValueError, match="unknown unit 'inch'"):
        Units(length="inch")


def test_a_large_gauge_is_removed_before_float32(tmp_path, arrays, flow):
    high = arrays["pressure"].astype(np.float64) + 101_325
    np.savez(tmp_path / "a.npz", **arrays | {"pressure": high})
    [raw] = read_trajectories(tmp_path / "a.npz")
    found, notes = trajectory_of(raw, Units())
    assert np.allclose(found.fields["p"], flow.fields["p"], atol=1e-6)
    assert "gauge 101325" in notes[-1]


def test_meshgraphnets_arrays_repeated_along_time(tmp_path, arrays, flow, mesh):
    repeated = {
        key: np.repeat(arrays[key][None], 6, 0) for key in ("mesh_pos", "cells", "node_type")
    }
    repeated["node_type"] = repeated["node_type"][..., None]
    dynamic = {"velocity": arrays["velocity"], "pressure": arrays["pressure"][..., None]}
    np.savez(tmp_path / "a.npz", **repeated, **dynamic)
    [raw] = read_trajectories(tmp_path / "a.npz")
    with pytest.raises(FileError, match=r"6 frames have no times.*--time-step"):
        trajectory_of(raw, SI)
    found, _ = trajectory_of(raw, Units(viscosity=1e-3, density=1.0, time_step=0.05))
    assert np.array_equal(found.mesh.node_type, mesh.node_type)  # the cylinder told from walls
    assert np.allclose(found.times, flow.times)
    repeated["mesh_pos"][3] += 1
    np.savez(tmp_path / "b.npz", **repeated, **dynamic)
    [wrong] = read_trajectories(tmp_path / "b.npz")
    assert "mesh changes over time" in str(wrong)


def test_one_bad_group_does_not_end_the_others(tmp_path, arrays):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("0", "1", "10", "2"):
            group = file.create_group(name)
            for key in ("mesh_pos", "cells", "node_type", "pressure"):
                group[key] = arrays[key]
            u = arrays["velocity"][..., 0].copy()
            u[3, :3] = np.nan if name == "1" else u[3, :3]
            group["u"], group["v"] = u, arrays["velocity"][..., 1]
            group["metadata/t_end"], group["metadata/radius"] = 0.25, 0.05
    flows = list(read_trajectories(tmp_path / "a.h5"))
    assert [flow.name for flow in flows] == ["0", "1", "2", "10"]
    found, _ = trajectory_of(flows[0], SI)
    assert np.allclose(found.times, 0.05 * np.arange(6))
    with pytest.raises(FileError, match="trajectory 1: values of 3 nodes in frame 3 are not fin"):
        trajectory_of(flows[1], SI)


def test_a_masked_solid_is_named(tmp_path, arrays, mesh):
    velocity = arrays["velocity"].copy()
    velocity[:, mesh.nodes_of(NodeType.OBSTACLE)] = np.nan
    np.savez(tmp_path / "a.npz", **arrays | {"velocity": velocity})
    [raw] = read_trajectories(tmp_path / "a.npz")
    with pytest.raises(FileError, match=r"16 nodes in 6 frames .*boundary.*obstacle.*velocity of"):
        trajectory_of(raw, Units())


BAD = {
    "cells": (lambda a: a["cells"] + 1, r"nodes 1 to (\d+) of \1; expected an index"),
    "node_type": (lambda a: a["node_type"] + 1, r"unknown kinds \[1, 7\]|unknown kinds"),
    "pressure": (lambda a: a["pressure"][:, :-1], "do not fit"),
    "time": (lambda a: a["time"][[0, 1, 1, 3, 4, 5]], "0.05 s is followed by 0.05 s"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_do_not_fit_are_told(tmp_path, arrays, name):
    change, words = BAD[name]
    np.savez(tmp_path / "a.npz", **arrays | {name: change(arrays)})
    with pytest.raises(FileError, match=words):
        trajectory_of(first(tmp_path / "a.npz"), Units())


def first(path):
    """Return the first flow of a file, or raise what is wrong with it."""
    found = next(iter(read_trajectories(path)))
    if isinstance(found, FileError):
        raise found
    return found


def test_files_that_are_none_are_told(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    content = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) * 6 // 10])
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90))
    objects = np.empty(2, object)
    objects[:] = [np.zeros(2), np.zeros(3)]
    np.savez(tmp_path / "object.npz", cells=objects)
    np.savez(tmp_path / "few.npz", mesh_pos=arrays["mesh_pos"])
    words = {
        "cut.npz": r"cut\.npz: it is cut short",
        "cut.h5": "cut short",
        "object.npz": "objects, which need pickle.*offsets",
        "few.npz": "lacks cells, node_type, velocity",
    }
    for name, said in words.items():
        with pytest.raises(FileError, match=said):
            first(tmp_path / name)
