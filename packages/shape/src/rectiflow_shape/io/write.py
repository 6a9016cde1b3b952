"""Mesh files written whole, in float32, and certified as any reader will find them.

GLB is y up and in metres by its standard; the others state the axis in a comment where they can.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rectiflow.storage.files import write_bytes

from rectiflow_shape.geometry.certificate import Certificate, certificate
from rectiflow_shape.geometry.mesh import Mesh
from rectiflow_shape.io.errors import MeshFileError
from rectiflow_shape.io.read import TO_Y_UP, Axis

if TYPE_CHECKING:
    from jaxtyping import Float

_SMOOTH = 0.5  # cosine: corners whose face leans farther from the vertex normal keep the face's


def write_mesh(
    path: str | Path,
    mesh: Mesh,
    *,
    up: Axis = "y",
    size: float | None = None,
    faces: int | None = None,
) -> Certificate:
    """Write GLB, OBJ, PLY, STL or OFF, and check what was written.

    Parameters
    ----------
    path : str or Path
        Its name says the format.
    mesh : Mesh
        With y up.
    up : {"x", "y", "z"}, default "y"
        Which axis of the file is up. GLB has y up by its standard: another one is refused.
    size : float, optional
        Length of the longest side in the file's units (metres in GLB); as it is if absent.
    faces : int, optional
        Budget of the certificate.

    Returns
    -------
    Certificate
        Of the positions as the file has them, in float32, joined where they are equal.

    Raises
    ------
    MeshFileError
        When the name has another ending, the axis cannot be, or there are no faces.
    StorageError
        When the machine cannot write it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _WRITERS:
        raise MeshFileError(
            path,
            f"its name ends in {suffix or 'nothing'}",
            f"one of {', '.join(sorted(_WRITERS))}",
            "Choose one of these.",
        )
    if suffix == ".glb" and up != "y":
        raise MeshFileError(
            path,
            f"{up} is to be up",
            "y, which the standard of GLB asks for",
            "Leave --up out, or write OBJ, PLY or STL.",
        )
    if not len(mesh.faces):
        raise MeshFileError(path, "the mesh has no faces", "a surface", "Nothing was written.")
    vertices = mesh.vertices @ TO_Y_UP[up]
    if size is not None:
        if not size > 0:
            raise ValueError(f"size must be positive, got {size:g}.")
        vertices = vertices * (size / np.ptp(vertices, axis=0).max())
    single = Mesh(vertices.astype("<f4"), mesh.faces)
    write_bytes(path, _WRITERS[suffix](single, f"{up} up, made by rectiflow"))
    return certificate(single, faces)


def corner_normals(mesh: Mesh) -> Float[np.ndarray, "f 3 3"]:
    """Return unit normals of the corners: of the vertex where it is smooth, else of the face."""
    crosses = mesh.crosses
    length = np.linalg.norm(crosses, axis=1, keepdims=True)
    flat = np.divide(
        crosses, length, out=np.tile([0.0, 1.0, 0.0], (len(crosses), 1)), where=length > 0
    )
    summed = np.zeros((len(mesh.vertices), 3))
    for k in range(3):
        np.add.at(summed, mesh.faces[:, k], crosses)
    norms = np.linalg.norm(summed, axis=1, keepdims=True)
    smooth = np.divide(summed, norms, out=np.zeros_like(summed), where=norms > 0)[mesh.faces]
    leans = (smooth * flat[:, None]).sum(2, keepdims=True) < _SMOOTH
    return np.where(leans, flat[:, None], smooth)


def _glb(mesh: Mesh, comment: str) -> bytes:
    normals = corner_normals(mesh).reshape(-1, 3).astype("<f4")
    corners = np.concatenate([mesh.faces.reshape(-1, 1).astype("<i4"), normals.view("<i4")], axis=1)
    _, first, index = np.unique(corners, axis=0, return_index=True, return_inverse=True)
    positions = mesh.vertices.astype("<f4")[mesh.faces.reshape(-1)[first]]
    blocks = [positions.tobytes(), normals[first].tobytes(), index.astype("<u4").tobytes()]
    offsets = np.cumsum([0, *map(len, blocks)]).tolist()
    targets = (34962, 34962, 34963)
    low, high = positions.min(0).tolist(), positions.max(0).tolist()
    n = len(positions)
    document = {
        "asset": {"version": "2.0", "generator": comment},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "materials": [{"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 0.8}}],
        "meshes": [
            {
                "primitives": [
                    {"attributes": {"POSITION": 0, "NORMAL": 1}, "indices": 2, "material": 0}
                ]
            }
        ],
        "accessors": [
            {
                "bufferView": 0,
                "componentType": 5126,
                "count": n,
                "type": "VEC3",
                "min": low,
                "max": high,
            },
            {"bufferView": 1, "componentType": 5126, "count": n, "type": "VEC3"},
            {"bufferView": 2, "componentType": 5125, "count": index.size, "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": offset, "byteLength": len(block), "target": target}
            for offset, block, target in zip(offsets, blocks, targets, strict=False)
        ],
        "buffers": [{"byteLength": offsets[-1]}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(blocks)
    parts = [(len(text), b"JSON", text), (len(data), b"BIN\0", data)]
    chunks = b"".join(n.to_bytes(4, "little") + kind + body for n, kind, body in parts)
    return b"glTF" + (2).to_bytes(4, "little") + (12 + len(chunks)).to_bytes(4, "little") + chunks


def _stl(mesh: Mesh, comment: str) -> bytes:
    rows = np.zeros(len(mesh.faces), [("n", "<f4", 3), ("c", "<f4", (3, 3)), ("a", "<u2")])
    crosses = mesh.crosses
    length = np.linalg.norm(crosses, axis=1, keepdims=True)
    rows["n"] = np.divide(crosses, length, out=np.zeros_like(crosses), where=length > 0)
    rows["c"] = mesh.triangles
    return comment.encode().ljust(80) + len(rows).to_bytes(4, "little") + rows.tobytes()


def _ply(mesh: Mesh, comment: str) -> bytes:
    head = (
        f"ply\nformat binary_little_endian 1.0\ncomment {comment}\n"
        f"element vertex {len(mesh.vertices)}\nproperty float x\nproperty float y\n"
        f"property float z\nelement face {len(mesh.faces)}\n"
        "property list uchar int vertex_indices\nend_header\n"
    )
    rows = np.zeros(len(mesh.faces), [("n", "u1"), ("f", "<i4", 3)])
    rows["n"], rows["f"] = 3, mesh.faces
    return head.encode() + mesh.vertices.astype("<f4").tobytes() + rows.tobytes()


def _obj(mesh: Mesh, comment: str) -> bytes:
    lines = [f"# {comment}", *("v {:.9g} {:.9g} {:.9g}".format(*v) for v in mesh.vertices.tolist())]
    lines += ["f {} {} {}".format(*f) for f in (mesh.faces + 1).tolist()]
    return ("\n".join(lines) + "\n").encode()


def _off(mesh: Mesh, comment: str) -> bytes:
    lines = ["OFF", f"# {comment}", f"{len(mesh.vertices)} {len(mesh.faces)} 0"]
    lines += ["{:.9g} {:.9g} {:.9g}".format(*v) for v in mesh.vertices.tolist()]
    lines += ["3 {} {} {}".format(*f) for f in mesh.faces.tolist()]
    return ("\n".join(lines) + "\n").encode()


_WRITERS: dict[str, Callable[[Mesh, str], bytes]] = {
    ".glb": _glb,
    ".obj": _obj,
    ".off": _off,
    ".ply": _ply,
    ".stl": _stl,
}
