"""The shared collection of meshes, fields and pictures that went wrong once, from public reports.

The kinds are tested on inputs of their own in the other files of this folder.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_shape.geometry import (
    SURE,
    Mesh,
    SignedDistance,
    certificate,
    extract,
    largest,
    normalise,
)
from rectiflow_shape.geometry.topology import components, edge_uses, weld
from rectiflow_shape.io import ImageFileError, MeshFileError, read_image, read_mesh, write_mesh

FOLDER = Path(os.environ.get("RECTIFLOW_SHARED", "/nowhere")) / "cases" / "shape"
TABLE = FOLDER / "expected.json"
CASES = json.loads(TABLE.read_text("utf-8"))["cases"] if TABLE.is_file() else {}
UNSUPPORTED = ("quantized.glb", "draco.glb", ".3mf")  # refused by name, as is allowed
PICTURES = (".png", ".jpg", ".webp")
MESHES = [k for k in CASES if ":" not in k and not k.endswith(PICTURES)]
IMAGES = [k for k in CASES if k.endswith(PICTURES)]
FIELDS = [k for k in CASES if k.startswith("field:")]

pytestmark = pytest.mark.skipif(not CASES, reason="no cases/shape under RECTIFLOW_SHARED")


def says(words: list[list[str]], text: str) -> bool:
    return all(any(word.lower() in text.lower() for word in group) for group in words)


def check_distances(mesh: Mesh, told: dict) -> None:
    points = torch.tensor(told["points"], dtype=torch.float64)
    found = SignedDistance(mesh)(points).numpy()
    found = np.abs(found) if told["kind"] == "unsigned" else found
    np.testing.assert_allclose(found, told["values"], atol=told["tol"], rtol=0)


@pytest.mark.parametrize("name", MESHES)
def test_meshes_are_read_right_or_refused(name, tmp_path):
    case = CASES[name]
    if case["outcome"] == ["refuse"] or name.endswith(UNSUPPORTED):
        with pytest.raises(MeshFileError) as caught:
            read_mesh(FOLDER / name)
        assert says([case["names"]], str(caught.value))
        return
    mesh, report = read_mesh(FOLDER / name)
    assert says(case.get("says", []), str(report))
    low, high = np.array(case.get("bounds", mesh.bounds))
    tolerance = case.get("tol", 1e-6)
    np.testing.assert_allclose(mesh.bounds, [low, high], atol=tolerance * (high - low).max())
    if "extents" in case:
        extents = np.ptp(mesh.bounds, axis=0)
        np.testing.assert_allclose(
            extents, case["extents"], atol=case.get("extents_tol", 1e-6 * extents.max())
        )
    if "volume" in case:
        assert mesh.volume == pytest.approx(case["volume"], rel=max(tolerance, 1e-6), abs=1e-30)
    if "area" in case:
        assert mesh.areas.sum() == pytest.approx(case["area"], rel=tolerance)
    uses, _, _ = edge_uses(mesh.faces)
    if "watertight" in case:
        assert bool((uses == 2).all()) == case["watertight"]
    assert (uses == 1).sum() == case.get("edges_with_one_face", (uses == 1).sum())
    assert (uses == 4).sum() == case.get("edges_with_four_faces", (uses == 4).sum())
    parts = components(mesh.faces)
    assert parts.max() + 1 == case.get("components", parts.max() + 1)
    if case.get("every_component_volume_positive"):
        assert (np.bincount(parts, mesh.face_volumes) > 0).all()
    euler = len(mesh.vertices) - len(uses) + len(mesh.faces)
    assert euler == case.get("euler", euler)
    assert len(mesh.vertices) == case.get("vertices_welded", len(mesh.vertices))
    assert len(mesh.faces) == case.get("faces_after_repair", len(mesh.faces))
    if "sdf" in case:
        check_distances(mesh, case["sdf"])
    if "either" in case:
        solid = next(each for each in case["either"] if "solid" in each["reading"])
        check_distances(mesh, solid["sdf"])
        assert SignedDistance(mesh).boundary.volume == pytest.approx(solid["volume"])
    if "union_volume" in case:
        assert SignedDistance(mesh).boundary.volume == pytest.approx(case["union_volume"])
    if "sign" in case:
        assert (SignedDistance(mesh).confidence() > SURE) == (case["sign"] == "sure")
    if "largest" in case:
        assert largest(mesh).volume == pytest.approx(case["largest"]["volume"])
    if "bounds_y_up_if_told_z" in case:
        turned, _ = read_mesh(FOLDER / name, up="z")
        np.testing.assert_allclose(turned.bounds, case["bounds_y_up_if_told_z"])
        assert turned.volume == pytest.approx(case["volume"])
        for point in case["landmarks_y_up_if_told_z"].values():
            assert (np.abs(turned.vertices - point).max(1) < 1e-6).any()
    if "every_edge_in_two_faces_after_exact_weld" in case.get("written", {}):
        whole, placement = normalise(mesh)
        distance = SignedDistance(whole)
        made = extract(lambda points: -distance(points), depth=5).mesh
        for suffix in ("stl", "obj", "ply", "glb"):
            path = tmp_path / f"a.{suffix}"
            assert write_mesh(path, placement.restore(made)).passed
            again, _ = read_mesh(path)
            assert certificate(Mesh(weld(again.vertices, 0.0)[0], again.faces)).passed
    elif "landmarks" in case.get("written", {}):
        write_mesh(tmp_path / "a.glb", mesh)
        again, _ = read_mesh(tmp_path / "a.glb")
        np.testing.assert_allclose(again.bounds, case["bounds"], atol=1e-6)
        assert again.volume == pytest.approx(case["volume"])
        for point in case["written"]["landmarks"].values():
            assert (np.abs(again.vertices - point).max(1) < 1e-6).any()
        for point in case["written"]["not_there"]:
            assert not (np.abs(again.vertices - point).max(1) < 1e-6).any()


@pytest.mark.parametrize("name", FIELDS)
def test_fields_give_the_surface_or_are_refused(name):
    case = CASES[name]
    names = {each: getattr(np, each) for each in ("sqrt", "minimum", "maximum", "abs")}
    code = compile(case["expression"], name, "eval")

    def field(points):
        x, y, z = points.double().numpy().T
        return -torch.from_numpy(eval(code, names, {"x": x, "y": y, "z": z}))

    if case["outcome"] == ["refuse"]:
        with pytest.raises(ValueError, match="no surface at level 0") as caught:
            extract(field, depth=6)
        assert says([case["names"]], str(caught.value))
        return
    found = extract(field, depth=case["depth"])
    told = certificate(found.mesh)
    assert told.passed, told.faults()
    assert told.components == case.get("components", told.components)
    assert found.capped == ("says" in case)
    if "volume" in case:
        assert found.mesh.volume == pytest.approx(case["volume"], rel=case["volume_rel"])
    assert found.queries <= case.get("queries_at_most", found.queries)
    parts = components(found.mesh.faces)
    volumes = sorted(np.bincount(parts, found.mesh.face_volumes), reverse=True)
    for volume, part in list(zip(volumes, case.get("parts", []), strict=False))[:2]:
        # The third part has a radius of 1.4 cells: any polyhedron on the lattice has 30 % less.
        assert volume == pytest.approx(part["volume"], rel=part["rel"])


@pytest.mark.parametrize("name", ["checkerboard", "integers_with_zeros"])
def test_volumes_give_a_closed_manifold(name):
    if not CASES:
        pytest.skip("no cases")
    import igl

    volume = np.load(FOLDER / "volumes.npz")[name].astype(np.float64)
    side = max(volume.shape) - 1
    depth = int(np.ceil(np.log2(side)))
    padded = np.full((2**depth + 1,) * 3, float(np.abs(volume).max()))
    padded[tuple(slice(n) for n in volume.shape)] = volume

    def field(points):
        index = ((points.double().numpy() + 1) * 2 ** (depth - 1)).round().astype(int)
        return -torch.from_numpy(padded[tuple(index.T)])

    mesh = extract(field, depth=depth, box=1.0).mesh
    assert certificate(mesh).passed
    nodes = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1)
    nodes = nodes.reshape(-1, 3) / 2 ** (depth - 1) - 1.0
    turns = igl.winding_number(mesh.vertices, mesh.faces, nodes)
    inside, surface = volume.reshape(-1) < 0, volume.reshape(-1) == 0
    inner = (np.abs(nodes) < 1).all(1) & ~surface
    np.testing.assert_allclose(turns[inner], inside[inner], atol=1e-3)


@pytest.mark.parametrize("name", IMAGES)
def test_pictures_are_cut_out_right_or_refused(name):
    case = CASES[name]
    if case["outcome"] == ["refuse"]:
        with pytest.raises(ImageFileError) as caught:
            read_image(FOLDER / name)
        assert says([case["names"]], str(caught.value))
        return
    photo = read_image(FOLDER / name)
    assert says(case.get("says", []), str(photo.notes))
    assert list(photo.size) == case["size"]
    np.testing.assert_allclose(photo.box, case["box"], atol=case.get("box_tol", 0))
    scale = max(photo.size) / max(photo.upright.shape)
    assert len(photo.square) * scale == pytest.approx(case["square"], abs=case["square_tol"])
    for place, colour in case.get("pixels", {}).items():
        x, y = map(int, place.split(","))
        np.testing.assert_allclose(photo.upright[y, x].astype(int), colour, atol=case["pixel_tol"])
