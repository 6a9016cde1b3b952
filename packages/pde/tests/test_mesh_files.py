"""Meshes as people bring them: read whole, with what was done said, or refused."""

from __future__ import annotations

from pathlib import Path

import meshio
import numpy as np
import pytest
from rectiflow.storage.faults import FileError
from rectiflow_pde.io import Boundaries, read_mesh
from rectiflow_pde.io.boundary import infer_kinds, kind_of
from rectiflow_pde.io.cells import RawMesh, clean
from rectiflow_pde.io.gmsh import read_msh4
from rectiflow_pde.mesh import NodeType, boundary_edges

INFER = Boundaries(infer=True)


def raw(points, *cells) -> RawMesh:
    blank = [np.full(len(c), "", dtype=object) for _, c in cells]
    return RawMesh(Path("a.msh"), np.asarray(points), cells, blank)


def of(mesh) -> RawMesh:
    return raw(mesh.points, ("triangle", mesh.triangles))


def test_clockwise_triangles_are_turned_and_counted(mesh):
    found = clean(raw(mesh.points, ("triangle", mesh.triangles[:, ::-1])))
    assert found.notes == [f"{len(mesh.triangles)} clockwise triangles are turned round"]
    assert boundary_edges(found.triangles).shape == mesh.edges.shape


def test_unused_nodes_are_dropped_wherever_they_stand(mesh):
    points = np.insert(mesh.points, [0, 7], (99.0, 99.0), axis=0)
    triangles = mesh.triangles + 1 + (mesh.triangles >= 7)
    found = clean(raw(points, ("triangle", triangles)))
    assert found.notes == ["2 unused nodes, which no triangle has, are dropped"]
    assert np.array_equal(points[found.source], mesh.points)
    assert np.array_equal(found.triangles, mesh.triangles)


def test_nodes_twice_along_a_seam_are_merged(mesh):
    """Unmerged, the seam is a wall across the channel."""
    right = mesh.points[mesh.triangles].mean(1)[:, 0] > 0.8
    shared = np.intersect1d(mesh.triangles[right], mesh.triangles[~right])
    place = np.arange(mesh.n_nodes)
    place[shared] = mesh.n_nodes + np.arange(len(shared))
    triangles = np.where(right[:, None], place[mesh.triangles], mesh.triangles)
    points = np.concatenate([mesh.points, mesh.points[shared]])
    assert len(boundary_edges(triangles)) > len(mesh.edges)
    found = clean(raw(points, ("triangle", triangles)))
    assert f"{len(shared)} duplicate nodes" in found.notes[0]
    assert len(found.points) == mesh.n_nodes
    assert len(boundary_edges(found.triangles)) == len(mesh.edges)


def test_quadrilaterals_are_split_and_know_their_cell(mesh):
    square = np.array([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1.0]])
    found = clean(raw(square, ("triangle", np.array([[0, 1, 3], [1, 4, 3]])), ("quad", QUAD)))
    assert found.notes == ["1 quadrilaterals are split into triangles along a diagonal"]
    assert found.parent.tolist() == [0, 1, 2, 2]
    assert len(boundary_edges(found.triangles)) == 6


QUAD = np.array([[1, 2, 5, 4]])


def test_second_order_cells_are_reduced_to_their_corners(mesh):
    """The middles of edges are no unused nodes."""
    edges = np.sort(mesh.triangles[:, [[0, 1], [1, 2], [2, 0]]], -1).reshape(-1, 2)
    own, which = np.unique(edges, axis=0, return_inverse=True)
    six = np.column_stack([mesh.triangles, mesh.n_nodes + which.reshape(-1, 3)])
    points = np.concatenate([mesh.points, mesh.points[own].mean(1)])
    found = clean(raw(points, ("triangle6", six)))
    assert found.notes == [f"{len(six)} second-order cells are reduced to their corners"]
    assert len(found.points) == mesh.n_nodes


def test_cells_without_area_are_dropped(mesh):
    triangles = np.concatenate([mesh.triangles, [[3, 3, 4], [5, 6, 6]]])
    found = clean(raw(mesh.points, ("triangle", triangles)))
    assert found.notes == ["2 degenerate triangles of zero area are dropped"]
    assert len(found.triangles) == len(mesh.triangles)


@pytest.mark.parametrize("plane", [(0, 1, 2), (0, 2, 1), (2, 0, 1)])
def test_flat_files_of_three_axes_are_read(mesh, plane):
    points = np.column_stack([mesh.points, np.full(mesh.n_nodes, 0.005)])[:, plane]
    assert np.ptp(clean(raw(points, ("triangle", mesh.triangles))).points, axis=0) == pytest.approx(
        np.ptp(mesh.points, axis=0)
    )


def test_millimetres_are_scaled_when_told(mesh):
    found = clean(raw(1000 * mesh.points, ("triangle", mesh.triangles)), 0.001)
    assert np.allclose(found.points, mesh.points)


def folded(mesh):
    points = mesh.points.copy()
    inner = int(np.flatnonzero(mesh.node_type == NodeType.FLUID)[0])
    around = mesh.triangles[(mesh.triangles == inner).any(1)]
    far = around[0][around[0] != inner]
    points[inner] = 2.5 * points[far].mean(0) - 1.5 * points[inner]
    return raw(points, ("triangle", mesh.triangles))


def hanging(mesh):
    edge = mesh.triangles[0, :2]
    points = np.concatenate([mesh.points, mesh.points[edge].mean(0)[None]])
    a, b, c = mesh.triangles[0].tolist()
    split = [[a, mesh.n_nodes, c], [mesh.n_nodes, b, c]]
    return raw(points, ("triangle", np.concatenate([mesh.triangles[1:], split])))


def pieces(mesh):
    points = np.concatenate([mesh.points, np.add(mesh.points, (0, 5))])
    both = np.concatenate([mesh.triangles, mesh.triangles + mesh.n_nodes])
    return raw(points, ("triangle", both))


def bent(mesh):
    points = np.column_stack([mesh.points, mesh.points[:, 0] ** 2])
    return raw(points, ("triangle", mesh.triangles))


WRONG = {
    folded: "inverted or folded over neighbours, their areas add up",
    hanging: "1 hanging nodes in the middle of an edge",
    pieces: "in 2 pieces that are not connected",
    bent: "it is not flat",
    lambda m: raw(m.points, ("line", m.edges)): "no triangles, only .* lines.*physical group",
    lambda m: raw(m.points, ("triangle", m.triangles + 1)): "nodes 1 to .*one-based",
    lambda m: raw(m.points * np.nan, ("triangle", m.triangles)): "not finite",
}


@pytest.mark.parametrize("make", WRONG, ids=range(len(WRONG)))
def test_what_has_no_right_reading_is_refused(make, mesh):
    with pytest.raises(FileError, match=WRONG[make]):
        clean(make(mesh))


def test_kinds_are_inferred_from_geometry(mesh):
    assert np.array_equal(infer_kinds(mesh.points, mesh.edges), mesh.edge_type)
    assert [kind_of(name) for name in ("Inlet", "OUTFLOW", "bottom wall", "Cylinder", "a")] == [
        NodeType.INFLOW,
        NodeType.OUTFLOW,
        None,
        NodeType.OBSTACLE,
        None,
    ]


NAMES = {NodeType.INFLOW: "inlet", NodeType.OUTFLOW: "outlet", NodeType.OBSTACLE: "cylinder"}


def write_groups(path, mesh, names, format="gmsh22"):
    """Write edges with groups; kinds without a name have none."""
    kinds = mesh.edge_type
    keep = np.isin(kinds, list(names))
    cells = [("line", mesh.edges[keep]), ("triangle", mesh.triangles)]
    tags = [10 + kinds[keep], np.full(len(mesh.triangles), 9)]
    tags = [each.astype(np.int32) for each in tags]
    data = {"gmsh:physical": tags, "gmsh:geometrical": tags}
    named = {name: np.array([10 + kind, 1]) for kind, name in names.items() if name}
    points = np.column_stack([mesh.points, np.zeros(mesh.n_nodes)])
    made = meshio.Mesh(points, cells, cell_data=data, field_data=named)
    made.write(path, file_format=format, binary=False)
    return path


def test_named_groups_become_kinds(tmp_path, mesh):
    names = NAMES | {NodeType.WALL: "walls"}
    found = read_mesh(write_groups(tmp_path / "a.msh", mesh, names))
    assert np.array_equal(found.mesh.node_type, mesh.node_type)
    assert not found.notes
    content = (tmp_path / "a.msh").read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "crlf.msh").write_bytes(content)
    assert read_mesh(tmp_path / "crlf.msh").mesh.n_nodes == mesh.n_nodes


def test_lost_names_are_inferred_where_asked_and_given_by_number(tmp_path, mesh):
    path = write_groups(tmp_path / "a.msh", mesh, dict.fromkeys(range(1, 5), ""))
    with pytest.raises(FileError, match=r"does not say what .* \(it names 11, 12, 13, 14\)"):
        read_mesh(path)
    found = read_mesh(path, boundaries=INFER)
    assert "named 11, 12, 13, 14, which says nothing" in found.notes[0]
    assert "inferred from geometry" in found.notes[1]
    given = {str(10 + kind): NodeType(kind) for kind in range(1, 5)}
    told = read_mesh(path, boundaries=Boundaries(given))
    for mesh_file in (found, told):
        assert np.array_equal(mesh_file.mesh.node_type, mesh.node_type)
    partly = read_mesh(write_groups(tmp_path / "b.msh", mesh, NAMES), boundaries=INFER)
    count = int((mesh.edge_type == NodeType.WALL).sum())
    assert f"0 inlet, 0 outlet, {count} wall, 0 cylinder" in partly.notes[-1]


MSH4 = """\
$MeshFormat
4.1 0 8
$EndMeshFormat
$PhysicalNames
1
1 7 "inlet"
$EndPhysicalNames
$Entities
0 1 1 0
3 0 0 0 0 1 0 1 7 0
1 0 0 0 1 1 0 0 0
$EndEntities
$Nodes
2 4 1 4
1 3 0 2
4
1
0 0 0
0 1 0
2 1 0 2
3
2
1 1 0
1 0 0
$EndNodes
$Elements
2 3 1 3
1 3 1 1
1 4 1
2 1 2 2
2 4 2 3
3 4 3 1
$EndElements
"""


def test_gmsh_4_is_read_where_only_some_entities_have_groups():
    found = read_msh4(Path("a.msh"), MSH4.encode())
    assert found.points.tolist() == [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]]
    assert [(kind, cells.tolist()) for kind, cells in found.cells] == [
        ("line", [[0, 1]]),
        ("triangle", [[0, 3, 2], [0, 2, 1]]),
    ]
    assert [tags.tolist() for tags in found.tags] == [["inlet"], ["", ""]]
    assert clean(found).edge_tags == {(0, 1): "inlet"}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_gmsh_4_that_ends_early_is_told(share):
    with pytest.raises(FileError, match="cut short or damaged"):
        read_msh4(Path("a.msh"), MSH4.encode()[: int(share * len(MSH4))])


BAD = {
    "page.xdmf": b"<html><body>404</body></html>",
    "page.vtu": b"<html><body>404</body></html>",
    "empty.msh": b"",
    "noise.vtk": bytes(range(256)),
    "cut.msh": b"$MeshFormat\n2.2 0 8\n$EndMeshFormat\n$Nodes\n9\n1 0 0 0\n",
    "none.nothing": b"a",
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_that_meshio_does_ends_the_process(tmp_path, name, capfd):
    (tmp_path / name).write_bytes(BAD[name])
    with pytest.raises(FileError, match=rf"{name}: .*(cut short|no triangles)"):
        read_mesh(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_a_size_that_no_unit_explains_is_asked_for(tmp_path, mesh):
    points = np.column_stack([1000 * mesh.points, np.zeros(mesh.n_nodes)])
    meshio.Mesh(points, [("triangle", mesh.triangles)]).write(tmp_path / "mm.vtu")
    with pytest.raises(FileError, match=r"measures 1600 x 410 .* which unit.*--length-unit mm"):
        read_mesh(tmp_path / "mm.vtu", boundaries=INFER)
    found = read_mesh(tmp_path / "mm.vtu", scale=0.001, boundaries=INFER).mesh
    assert found.areas.sum() == pytest.approx(mesh.areas.sum())
