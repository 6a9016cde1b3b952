"""glTF 2.0, one file or with buffers beside it; trimesh reads it, what it cannot is refused.

trimesh 5.2 ignores extensions that a file requires and reads quantised and sparse positions as
other numbers, without a word.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rectiflow_shape.io.errors import MeshFileError
from rectiflow_shape.io.polygons import Parsed

_PLAIN = ("KHR_materials_", "KHR_texture_", "EXT_texture_", "KHR_lights_", "KHR_xmp")
"""Extensions that say nothing of geometry."""

_TRIANGLES = (4, 5, 6)  # primitives: triangles, strips, fans


def parse_gltf(content: bytes, path: Path) -> Parsed:
    """Read all meshes of the scene where its nodes put them; a mirrored one is turned."""
    document = _document(content, path)
    _refuse_unknown(document, path)
    import trimesh

    try:
        scene = trimesh.load_scene(path, skip_materials=True, process=False)
    except Exception as error:  # of many kinds, all of them the file's
        raise MeshFileError(
            path,
            f"it cannot be read ({type(error).__name__}: {error})",
            "a whole glTF file",
            "Export it again.",
        ) from error
    vertices, faces, count, others = [np.empty((0, 3))], [np.empty((0, 3), np.int64)], 0, 0
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        mesh = scene.geometry[name]
        if not isinstance(mesh, trimesh.Trimesh):
            others += 1
            continue
        matrix = np.asarray(transform, float)
        vertices.append(np.asarray(mesh.vertices, float) @ matrix[:3, :3].T + matrix[:3, 3])
        rows = np.asarray(mesh.faces, np.int64) + count
        faces.append(rows[:, ::-1] if np.linalg.det(matrix[:3, :3]) < 0 else rows)
        count += len(mesh.vertices)
    notes = ["glTF is y up, in metres"]
    if others:
        notes.append(f"left out {others} objects of lines or points")
    if document.get("skins"):
        notes.append("skinned meshes are in their bind pose")
    return Parsed(np.concatenate(vertices), np.concatenate(faces), tuple(notes))


def _document(content: bytes, path: Path) -> dict[str, Any]:
    """Return the JSON part of a file."""
    text = content
    if content[:4] == b"glTF":
        said, length = (int.from_bytes(content[k : k + 4], "little") for k in (8, 12))
        if len(content) < said or len(content) < 20 + length:
            raise MeshFileError(
                path,
                f"it is cut short: its header says {said} bytes, {len(content)} are there",
                "a whole GLB file",
                "Copy it again.",
            )
        text = content[20 : 20 + length]
    try:
        document = json.loads(text)
        if not str(document["asset"]["version"]).startswith("2"):
            raise ValueError(f"version {document['asset']['version']}")
    except (ValueError, KeyError, TypeError) as error:
        raise MeshFileError(
            path, f"it is no glTF 2.0 ({error})", "a .glb or .gltf file", "Export it again."
        ) from error
    return document


def _refuse_unknown(document: dict[str, Any], path: Path) -> None:
    """Refuse what would be read as something else."""
    used = {*document.get("extensionsRequired", ()), *document.get("extensionsUsed", ())}
    geometry = sorted(name for name in used if not name.startswith(_PLAIN))
    needed = [n for n in geometry if n in document.get("extensionsRequired", ())]
    placing = [n for n in geometry if "instancing" in n or "quantization" in n]
    if needed or placing:
        raise MeshFileError(
            path,
            f"it needs {', '.join(needed or placing)}",
            "plain glTF 2.0",
            "Export it again without compression, quantisation and instancing extensions.",
        )
    accessors = document.get("accessors", [])
    for mesh in document.get("meshes", []):
        for primitive in mesh.get("primitives", []):
            asked = [primitive.get("attributes", {}).get("POSITION"), primitive.get("indices")]
            if primitive.get("mode", 4) not in _TRIANGLES:
                continue
            for index in asked:
                accessor = accessors[index] if index is not None and index < len(accessors) else {}
                is_quantised = index == asked[0] and accessor.get("componentType", 5126) != 5126
                if "sparse" in accessor or is_quantised:
                    what = "sparse accessors" if "sparse" in accessor else "quantised positions"
                    raise MeshFileError(
                        path,
                        f"it has {what}",
                        "plain float positions",
                        "Export it again without them.",
                    )
