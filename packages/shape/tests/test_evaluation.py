"""Measures of reconstructions and of generated sets, on meshes whose answers are known."""

import pytest
import torch
from rectiflow_shape.data import PreparedShapes
from rectiflow_shape.data.synthetic import synthetic_shapes
from rectiflow_shape.evaluation import (
    evaluate_generation,
    evaluate_reconstruction,
    meshes_by_class,
)
from rectiflow_shape.geometry import Mesh


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return PreparedShapes(synthetic_shapes(tmp_path_factory.mktemp("data") / "shards", num=4))


def test_a_perfect_reconstruction_has_no_error_and_a_refused_one_is_named(prepared):
    found = evaluate_reconstruction(prepared, "train", lambda mesh, generator: mesh, limit=2)
    assert found.summary["shapes"] == 2
    assert found.summary["passed"] == 1.0
    assert found.summary["iou"] == 1.0
    assert found.summary["chamfer_l1"] < 0.02

    def refuse(mesh, generator):
        raise ValueError("no surface")

    failed = evaluate_reconstruction(prepared, "train", refuse, limit=1)
    assert list(failed.failures.values()) == ["no surface"]


def test_copies_of_the_real_set_cover_it_and_others_do_not(prepared):
    train = meshes_by_class(prepared, ("train", "valid"))
    boxes = [
        Mesh(mesh.vertices * (1, 1 - 0.1 * i, 1), mesh.faces)
        for i in range(4)
        for mesh in train["block"][:1]
    ]
    balls = [
        Mesh(mesh.vertices * (1, 1 - 0.1 * i, 1), mesh.faces)
        for i in range(4)
        for mesh in train["ball"][:1]
    ]
    torch.manual_seed(0)
    real = {"block": boxes}
    same = evaluate_generation(real, real, real).rows[0]
    other = evaluate_generation({"block": balls}, real, real).rows[0]
    assert same["cov"] == 1.0 > other["cov"]
    assert same["mmd"] < other["mmd"] / 4
    assert other["one_nna"] == 1.0 > same["one_nna"]
    assert other["random_cov"] == 1.0
    assert same["one_part"] == 1.0
    assert same["nearest_training"] < other["nearest_training"]
    assert evaluate_generation({"block": boxes[:2]}, real, real).rows == []
