"""Mesh files: what others write is read right or refused by name; what is written is whole."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from rectiflow_shape.geometry import Mesh, certificate
from rectiflow_shape.geometry.solids import box, joined
from rectiflow_shape.io import SUFFIXES, MeshFileError, read_mesh, write_mesh
from rectiflow_shape.io.polygons import triangulate
from rectiflow_shape.io.write import corner_normals

BRICK = box((0, 0, 0), (1, 2, 3))
F = [(0, 0), (1, 0), (1, 2), (2, 2), (2, 3), (1, 3), (1, 4), (3, 4), (3, 5), (0, 5)]


def letter() -> Mesh:
    """Return a solid F, 5 tall in y, its front at z = 1."""
    n = len(F)
    front = np.array([(x, y, 1.0) for x, y in F])
    caps = triangulate(front, [list(range(n))])
    k = np.arange(n)
    following = (k + 1) % n
    sides = [np.stack([k + n, following + n, k], 1), np.stack([following + n, following, k], 1)]
    return Mesh(
        np.concatenate([front, front - [0, 0, 1]]),
        np.concatenate([caps, caps[:, ::-1] + n, *sides]),
    )


def glb(document: dict, data: bytes) -> bytes:
    document = {"asset": {"version": "2.0"}, "buffers": [{"byteLength": len(data)}], **document}
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = (
        struct.pack("<I4s", len(text), b"JSON")
        + text
        + struct.pack("<I4s", len(data), b"BIN\0")
        + data
    )
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def scene(nodes: list[dict], mesh: Mesh = BRICK, **more) -> bytes:
    """Return a GLB whose positions and normals are interleaved, with one-byte indices."""
    rows = np.concatenate([mesh.vertices, np.ones_like(mesh.vertices)], 1).astype("<f4")
    indices = mesh.faces.astype("u1").tobytes()
    data = rows.tobytes() + indices
    low, high = mesh.bounds.tolist()
    positions = {"componentType": 5126, "count": len(rows), "type": "VEC3"}
    document = {
        "scene": 0,
        "scenes": [{"nodes": [k for k, node in enumerate(nodes) if not node.pop("child", False)]}],
        "nodes": nodes,
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "NORMAL": 1}, "indices": 2}]}],
        "accessors": [
            {"bufferView": 0, "min": low, "max": high, **positions},
            {"bufferView": 0, "byteOffset": 12, **positions},
            {"bufferView": 1, "componentType": 5121, "count": len(indices), "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": rows.nbytes, "byteStride": 24},
            {"buffer": 0, "byteOffset": rows.nbytes, "byteLength": len(indices)},
        ],
        **more,
    }
    return glb(document, data)


def stl(mesh: Mesh, header: bytes = b"solid but binary") -> bytes:
    rows = b"".join(struct.pack("<12fH", *([0.0] * 3), *t.reshape(-1), 0) for t in mesh.triangles)
    return header.ljust(80) + struct.pack("<I", len(mesh.faces)) + rows


def read(tmp_path, name: str, content: bytes | str, **options):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_mesh(path, **options)


VERTICES = "".join("v {} {} {}\n".format(*v) for v in BRICK.vertices.tolist())
QUADS = [(1, 3, 4, 2), (5, 6, 8, 7), (1, 2, 6, 5), (3, 7, 8, 4), (1, 5, 7, 3), (2, 4, 8, 6)]
OBJ = VERTICES + "".join("f {} {} {} {}\n".format(*q) for q in QUADS)
BLOCKS = "".join(
    "".join(f"v {x + 4 * k} {y} {z}\n" for x, y, z in BRICK.vertices.tolist())
    + "".join("f {} {} {} {}\n".format(*(i - 9 for i in q)) for q in QUADS)
    for k in range(2)
)
ODD_OBJ = (
    "mtllib nowhere.mtl\no a\ng side f 1 2 3\ns 1\nusemtl red\nv 20 0 0 1\nl 1 2\np 1\n"
    "cstype bezier\ncurv 0 1 1 2\n"
    + VERTICES.replace("\n", " 0.5 0.5 0.5\n")
    + "".join("f {}/1/1 {}//2 \\\n {}/3 {}\n".format(*(i + 1 for i in q)) for q in QUADS)
)
OFF = (
    "COFF # colours\n\n8 6 0\n"
    + "".join("{} {} {} 255 0 0 255\n".format(*v) for v in BRICK.vertices.tolist())
    + "".join("4 {} {} {} {} 0.1 0.2 0.3\n".format(*(i - 1 for i in q)) for q in QUADS)
)
ASCII_STL = (
    "\r\n\r\n  SOLID x\r\n"
    + "".join(
        "FACET NORMAL 0 0 0\r\n OUTER LOOP\r\n"
        + "".join("  VERTEX {} {} {}\r\n".format(*p) for p in t)
        + " ENDLOOP\r\nENDFACET\r\n"
        for t in BRICK.triangles.tolist()
    )
    + "ENDSOLID\r\n"
)
PLY = (
    b"ply\nformat binary_big_endian 1.0\ncomment odd\nelement vertex 8\nproperty double x\n"
    b"property double y\nproperty uchar red\nproperty double z\nelement edge 1\nproperty int a\n"
    b"element face 12\nproperty list ushort uint vertex_indices\nproperty list uchar float uv\n"
    b"end_header\n"
    + b"".join(struct.pack(">ddBd", x, y, 7, z) for x, y, z in BRICK.vertices.tolist())
    + struct.pack(">i", 3)
    + b"".join(
        struct.pack(">H3IB" + "f" * (k % 2), 3, *f, k % 2, *[0.5] * (k % 2))
        for k, f in enumerate(BRICK.faces.tolist())
    )
)
ASCII_PLY = (
    "ply\nformat ascii 1.0\nelement vertex 8\n"
    "property float x\nproperty float y\nproperty float z\n"
    "element face 6\nproperty list uchar int vertex_index\nend_header\n"
    + "".join("{} {} {}\n".format(*v) for v in BRICK.vertices.tolist())
    + "".join("4 {} {} {} {}\n".format(*(i - 1 for i in q)) for q in QUADS)
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.obj", OBJ),
        ("Köln 模型.OBJ", ODD_OBJ),
        ("a.off", OFF),
        ("a.stl", ASCII_STL),
        ("a.stl", stl(BRICK)),
        ("a.ply", PLY),
        ("a.ply", ASCII_PLY),
    ],
)
def test_a_brick_is_read_from_any_syntax(tmp_path, name, content):
    mesh, report = read(tmp_path, name, content)
    np.testing.assert_allclose(mesh.bounds, BRICK.bounds)
    assert certificate(mesh).passed
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 12)
    assert mesh.volume == pytest.approx(6)
    assert "neither which axis is up nor its unit" in str(report)


def test_negative_indices_count_back_from_their_own_line(tmp_path):
    mesh, _ = read(tmp_path, "a.obj", BLOCKS)
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], [5, 2, 3]])
    assert mesh.volume == pytest.approx(12)


def test_polygons_that_are_not_convex_are_cut_inside(tmp_path):
    lines = [f"v {x} {y} 0" for x, y in F] + [f"v {x} {y} -2" for x, y in F]
    n = len(F)
    front, back = range(1, n + 1), range(2 * n, n, -1)
    sides = [(k + n, (k % n) + n + 1, (k % n) + 1, k) for k in range(1, n + 1)]
    lines += ["f " + " ".join(map(str, polygon)) for polygon in (front, back, *sides)]
    mesh, _ = read(tmp_path, "a.obj", "\n".join(lines))
    assert mesh.volume == pytest.approx(16)
    assert mesh.areas.sum() == pytest.approx(2 * 8 + 2 * 18)
    assert certificate(mesh).passed


@pytest.mark.parametrize("first", range(4))
def test_four_sides_with_a_notch_are_cut_inside(first):
    corners = np.roll([(0, 0, 0), (2, 0, 0), (0.5, 0.5, 0), (0, 2, 0)], first, axis=0).astype(float)
    made = Mesh(corners, triangulate(corners, [[0, 1, 2, 3]]))
    assert made.areas.sum() == pytest.approx(1)
    assert (made.crosses[:, 2] > 0).all()


def test_nodes_place_turn_and_mirror_meshes(tmp_path):
    half = np.sqrt(0.5)
    nodes = [
        {"children": [1], "rotation": [0, 0, half, half], "translation": [10, 0, 0]},
        {"mesh": 0, "scale": [1, 2, 3], "child": True},
        {"mesh": 0, "name": "same", "translation": [20, 0, 0]},
        {"mesh": 0, "name": "same", "scale": [-1, 1, 1], "translation": [-5, 0, 0]},
    ]
    mesh, report = read(tmp_path, "a.glb", scene(nodes))
    np.testing.assert_allclose(mesh.bounds, [[-6, 0, 0], [21, 2, 9]], atol=1e-5)
    assert mesh.volume == pytest.approx(36 + 6 + 6)
    assert (report.parts, report.turned) == (3, 0)
    assert "glTF is y up, in metres" in str(report)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"extensionsRequired": ["KHR_mesh_quantization"]}, "it needs KHR_mesh_quantization"),
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "it needs KHR_draco_mesh"),
        ({"extensionsUsed": ["EXT_mesh_gpu_instancing"]}, "it needs EXT_mesh_gpu_instancing"),
        ({"asset": {"version": "1.0"}}, "it is no glTF 2.0"),
        (
            {"accessors": [{"componentType": 5126, "count": 8, "type": "VEC3", "sparse": {}}]},
            "it has sparse accessors",
        ),
        (
            {"accessors": [{"componentType": 5122, "count": 8, "type": "VEC3", "bufferView": 0}]},
            "it has quantised positions",
        ),
    ],
)
def test_what_would_be_read_as_something_else_is_refused(tmp_path, more, message):
    with pytest.raises(MeshFileError, match=message):
        read(tmp_path, "a.glb", scene([{"mesh": 0}], **more))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.stl", stl(BRICK)[:454], r"its header says 12 triangles, 7\.4 are there"),
        ("a.stl", stl(BRICK) + b"more", "4 bytes more than its 12 triangles take"),
        ("a.stl", ASCII_STL[:-40], "its last line is not endsolid"),
        ("a.stl", "solid\nendsolid\n", "it has no faces, 0 points"),
        ("a.stl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("a.obj", VERTICES, "it has no faces, 8 points"),
        ("a.obj", OBJ + "f 1 2 99\n", "a face names vertex 99 of 8"),
        ("a.obj", OBJ + "f 1 2 0\n", "line 15 is damaged"),
        ("a.obj", OBJ + "v 1 x 2\n", "line 15 is damaged .*could not convert"),
        ("a.off", OFF[: OFF.rindex("4 ")], "it is cut short"),
        ("a.off", "OFF BINARY\n", "its first word is 'OFF'"),
        ("a.ply", PLY[:-9], "it is cut short or lacks"),
        ("a.ply", PLY.replace(b" z\n", b" t\n"), "lacks what it says .*'z'"),
        ("a.ply", b"<html>", "it has no PLY header"),
        ("a.glb", scene([{"mesh": 0}])[:-30], r"it is cut short: its header says \d+ bytes"),
        ("a.glb", b"<html>", "it is no glTF"),
        ("a.3mf", b"PK", r"its name ends in \.3mf; expected one of \.glb, \.gltf, \.obj"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no face with an area"),
    ],
)
def test_damaged_files_are_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(MeshFileError, match=rf"{name[:2]}.*{message}"):
        read(tmp_path, name, content)


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_an_axis_that_is_told_is_turned_up_without_mirroring(tmp_path, up):
    mesh, report = read(tmp_path, "a.stl", stl(letter()), up=up)
    tall = {"x": 0, "y": 1, "z": 2}[up]
    assert np.ptp(mesh.bounds, axis=0)[1] == np.ptp(letter().bounds, axis=0)[tall]
    assert mesh.volume == pytest.approx(8)
    assert certificate(mesh).passed
    assert f"{up} is up, as was told" in str(report)


@pytest.mark.parametrize("suffix", sorted(SUFFIXES - {".gltf"}))
def test_what_is_written_reads_the_same_everywhere(tmp_path, suffix):
    told = write_mesh(tmp_path / f"a{suffix}", letter(), faces=40)
    assert told.passed
    mesh, _ = read_mesh(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(mesh.bounds, letter().bounds)
    assert mesh.volume == pytest.approx(8)
    for point in ([0, 0, 1], [3, 5, 1], [2, 3, 1]):
        assert (np.abs(mesh.vertices - point).max(1) < 1e-6).any()
    assert not (np.abs(mesh.vertices - [3, 0, 1]).max(1) < 1e-6).any()


def test_glb_has_normals_along_the_winding_and_holds_together(tmp_path):
    path = tmp_path / "a.glb"
    write_mesh(path, letter())
    content = path.read_bytes()
    length = int.from_bytes(content[12:16], "little")
    document = json.loads(content[20 : 20 + length])
    start = 28 + length
    position, normal, index = (
        np.frombuffer(content, kind, size, start + view["byteOffset"])
        for kind, size, view in zip(
            ("<f4", "<f4", "<u4"),
            (view["byteLength"] // 4 for view in document["bufferViews"]),
            document["bufferViews"],
            strict=True,
        )
    )
    position, normal = position.reshape(-1, 3), normal.reshape(-1, 3)
    assert position.min(0).tolist() == document["accessors"][0]["min"]
    assert position.max(0).tolist() == document["accessors"][0]["max"]
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, atol=1e-6)
    split = Mesh(position, index.reshape(-1, 3))
    assert certificate(split).passed
    along = (normal[split.faces] * split.crosses[:, None]).sum(2)
    assert (along > 0).all()
    assert np.isfinite(corner_normals(joined(letter(), letter()))).all()


def test_axis_and_size_are_what_was_asked_for(tmp_path):
    write_mesh(tmp_path / "a.stl", letter(), up="z", size=100)
    raw, _ = read_mesh(tmp_path / "a.stl")
    np.testing.assert_allclose(np.ptp(raw.bounds, axis=0), [60, 20, 100], rtol=1e-6)
    back, _ = read_mesh(tmp_path / "a.stl", up="z")
    np.testing.assert_allclose(back.bounds, 20 * letter().bounds, atol=1e-5)
    assert b"z up" in (tmp_path / "a.stl").read_bytes()[:80]
    with pytest.raises(MeshFileError, match="z is to be up; expected y"):
        write_mesh(tmp_path / "a.glb", letter(), up="z")
    with pytest.raises(MeshFileError, match=r"its name ends in \.xyz"):
        write_mesh(tmp_path / "a.xyz", letter())
    with pytest.raises(ValueError, match="size must be positive"):
        write_mesh(tmp_path / "b.stl", letter(), size=0)
    with pytest.raises(MeshFileError, match="the mesh has no faces"):
        write_mesh(tmp_path / "b.stl", Mesh(np.zeros((3, 3)), np.zeros((0, 3))))
    assert not (tmp_path / "b.stl").exists()


RAW = {
    "01_open_multipatch_teapot.obj": (6320, "160 boundary edges are open"),
    "02_holes_busted.stl": (3878, ""),
    "03_self_intersecting_chairs.ply": (432, "overlap or intersect"),
    "04_flipped_third_bottle.ply": (1328, "turned the winding of 422 faces"),
    "05_multibody.stl": (32, "2 parts"),
    "06_zero_area_duplicate_spot.ply": (5856, "dropped 200 degenerate faces"),
    "07_nan_inf_cactus.obj": (424, "dropped 10 faces with a vertex that is NaN or infinite"),
    "08_empty.stl": (0, ""),
    "09_ascii_two_solids.stl": (24, "2 parts"),
    "10_textured_box.glb": (12, "welded 16 vertices"),
    "11_quads_knot.obj": (2880, ""),
}


def test_every_raw_file_is_read_or_refused_by_name(shared_data):
    folder = shared_data / "shapes" / "raw"
    assert set(RAW) == {path.name for path in folder.iterdir()}
    for name, (faces, words) in RAW.items():
        if not faces:
            with pytest.raises(MeshFileError, match=f"{name}: it has no faces"):
                read_mesh(folder / name)
            continue
        mesh, report = read_mesh(folder / name)
        assert len(mesh.faces) == faces, name
        assert words in str(report), name
        assert mesh.volume > 0
