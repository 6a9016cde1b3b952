"""The imaging verbs, end to end on small phantoms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rectiflow_cli.main import main
from rectiflow_imaging import DeformationPipeline, RecoveryNetwork, read_volume

FAST = ["trainer.max_steps=1", "trainer.validate_every=1", "trainer.checkpoint_every=1"]
pytestmark = pytest.mark.usefixtures("in_work")


def run(*words):
    return main(["imaging", *map(str, words)])


def told(capsys, *words):
    capsys.readouterr()
    assert run(*words, "--json") == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def bodies(work):
    """Six phantoms, and a trial run of the prior on shards of them."""
    assert run("phantoms", "--num", 6, "--side", 16, "--slices", 6, "-o", work / "bodies") == 0
    words = ("--side", 16, "--splits", "0.5,0.5,0", "-o", work / "shards")
    assert run("prepare", work / "bodies", *words) == 0
    told = [f"data.dir={work / 'shards'}", f"hydra.run.dir={work / 'run'}", *FAST]
    assert run("train", "experiment=small", "debug=tiny", *told) == 0
    return work / "bodies"


BODY = "bodies/ellipsoids_0000.npz"


def test_phantoms_repeat_and_are_not_replaced(bodies, capsys):
    again = ("phantoms", "--num", 2, "--side", 16, "--slices", 6)
    found = told(capsys, *again, "-o", "again")
    assert found["files"] == ["ellipsoids_0000.npz", "ellipsoids_0001.npz"]
    one, same = (read_volume(f"{name}/ellipsoids_0000.npz") for name in ("bodies", "again"))
    np.testing.assert_array_equal(one.values, same.values)
    assert one.labels.max() > 2
    assert run(*again, "--family", "vessels", "--format", "nii.gz", "-o", "vessels") == 0
    assert read_volume("vessels/vessels_0001.nii.gz").orientation == "head, back, left"
    assert run("phantoms", "--side", 4, "-o", "none") == 2


def test_prepare_keeps_a_files_slices_together(bodies):
    from rectiflow_imaging.data import PreparedImages

    prepared = PreparedImages("shards")
    assert set(prepared.table["split"]) == {"train", "valid"}
    for source in set(prepared.table["source"]):
        assert len(set(prepared.table["split"][prepared.table["source"] == source])) == 1
    x1 = prepared.records[0]["x1"]
    assert x1.shape == (1, 16, 16)
    assert -1 <= x1.min() < x1.max() <= 1


def test_prepare_says_why_not(bodies, work, capsys):
    folder = work / "mixed"
    folder.mkdir()
    (folder / "bad.nii").write_bytes(b"no")
    np.savez(folder / "nan.npz", volume=np.full((2, 9, 9), np.nan))
    np.savez(folder / "good.npz", volume=np.random.default_rng(0).random((2, 9, 11)))
    found = told(capsys, "prepare", folder, "--side", 8, "--splits", "1,0,0", "-o", "s")
    assert (found["accepted"], len(found["reasons"])) == (2, 2)
    assert run("prepare", folder, "--side", 8, "--cubes", "-o", "c") == 2
    assert "no image of 3 inputs was accepted" in capsys.readouterr().err


def test_sample_pairs_and_reflow(bodies, capsys):
    assert run("sample", "--weights", "run", "--num", 3, "--steps", 2, "-o", "drawn") == 0
    first = read_volume("drawn/image_0002.npz").values
    assert first.shape == (1, 16, 16)
    assert main(["rerun", "drawn/result.json"]) == 0
    assert "3 of 3 files are equal" in capsys.readouterr().out
    assert main(["status", "drawn"]) == 0
    assert "results: complete" in capsys.readouterr().out
    words = ("--weights", "run", "--num", 3, "--steps", 2, "--batch", 1, "--format", "png")
    assert run("sample", *words, "-o", "again") == 0
    np.testing.assert_allclose(read_volume("again/image_0002.png").values, first, atol=1e-4)
    assert run("pairs", "--weights", "run", "--num", 6, "--steps", 2, "-o", "pairs") == 0
    assert run("pairs", "shards", "--real", "--weights", "run", "--steps", 2, "-o", "real") == 0
    assert run("pairs", "--real", "--weights", "run", "-o", "none") == 2
    assert "expected SHARDS" in capsys.readouterr().err
    words = ["data.dir=pairs", "weights=run", "experiment=small_rectify", "hydra.run.dir=reflowed"]
    words += ["data.module.batch_size=2", "trainer.accelerator=cpu"]
    assert run("reflow", *words, *FAST) == 0
    assert run("sample", "--weights", "reflowed", "--steps", 1, "--num", 1, "-o", "one") == 0


def test_reconstruct_tells_how_near(bodies, capsys):
    words = ("reconstruct", BODY, "--weights", "run", "--views", 8, "--steps", 3)
    words += ("--method", "fbp", "tv", "prior", "stack")
    found = told(capsys, *words, "-o", "made")
    [row] = found["samples"]
    images = row["images"]
    assert set(images) == {"truth", "fbp", "tv", "prior", "stack"}
    assert images["tv"]["psnr"] > images["fbp"]["psnr"] > 10
    truth, body = (read_volume(p) for p in ("made/ellipsoids_0000_truth.npz", BODY))
    np.testing.assert_allclose(truth.values, body.values, atol=0.02)  # the ends are clipped
    np.testing.assert_allclose(truth.affine, body.affine)
    assert told(capsys, *words, "-o", "made")["kept"] == 1
    files = [f"made/ellipsoids_0000_{name}.npz" for name in ("tv", "fbp")]
    found = told(capsys, "eval", *files, "--truth", "made/ellipsoids_0000_truth.npz")
    assert found["samples"][0]["psnr"] == pytest.approx(images["tv"]["psnr"], abs=0.5)
    words = ("eval", BODY, "--weights", "run", "--views", 6, "--steps", 2, "-o", "measured")
    assert len(told(capsys, *words)["samples"]) == 4
    assert run("eval", *files) == 2


def test_images_of_another_size_keep_their_place(bodies, work):
    x = np.random.default_rng(0).random((2, 20, 40), np.float32)
    np.savez(work / "wide.npz", volume=x, spacing=np.array([2.0, 1.0, 1.0]))
    words = ("--method", "fbp", "--side", 16, "--format", "nii.gz", "-o", "wide")
    assert run("reconstruct", "wide.npz", *words) == 0
    found = read_volume("wide/wide_fbp.nii.gz")
    assert found.values.shape == (2, 16, 16)
    assert found.spacing == pytest.approx((2, 2.5, 2.5))
    # The middle stays where it was.
    middle = found.affine @ [0.5, 7.5, 7.5, 1]
    wanted = read_volume("wide.npz").affine @ [0.5, 9.5, 19.5, 1]
    np.testing.assert_allclose(middle, wanted, atol=1e-5)


@pytest.fixture(scope="module")
def drdm(work):
    torch.manual_seed(0)
    DeformationPipeline(RecoveryNetwork(n_steps=80)).save_pretrained(work / "drdm")
    DeformationPipeline(RecoveryNetwork(n_steps=80, ndims=3)).save_pretrained(work / "drdm3")


def test_deform_moves_labels_with_images(bodies, drdm, capsys):
    words = ("deform", BODY, "--num", 2, "--level", 60, "--steps", 0)
    found = told(capsys, *words, "--weights", "drdm", "-o", "deformed")
    [row] = found["samples"]
    assert len(row["files"]) == 2
    assert all(part["folded"] < 0.01 for part in row["images"].values())
    assert all(part["largest_displacement"] > 0.02 for part in row["images"].values())
    body, one = read_volume(BODY), read_volume("deformed/ellipsoids_0000_deformed_0000.npz")
    assert one.values.shape == body.values.shape == one.labels.shape
    assert set(np.unique(one.labels)) <= set(np.unique(body.labels))
    assert 0.002 < np.abs(one.values - body.values).mean() < 0.3
    np.testing.assert_allclose(one.affine, body.affine)
    assert body.values.min() <= one.values.min() < one.values.max() <= body.values.max() + 1e-6
    words = ("deform", BODY, "--num", 1, "--steps", 1, "-o", "cubes")
    assert run(*words, "--weights", "drdm3") == 0
    assert run("deform", BODY, "--level", 99, "--weights", "drdm", "-o", "none") == 2
    assert "level must lie in 0 to 79" in capsys.readouterr().err


def test_drdm_trains_and_converts(bodies, work, capsys):
    words = ["experiment=small_drdm", "debug=tiny_drdm", "data.dir=shards", *FAST]
    assert run("train", *words, "hydra.run.dir=trained") == 0
    assert run("convert", "trained/export", "--to", "official", "-o", "theirs") == 0
    assert run("convert", "theirs/recresacnet.pth", "-o", "ours") == 0
    one, same = (DeformationPipeline.from_pretrained(p) for p in ("trained", "ours"))
    assert one.weights_hash == same.weights_hash
    torch.save({"a": torch.zeros(2)}, work / "other.pth")
    assert run("convert", "other.pth", "-o", "none") == 2
    assert "RecResACNet" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["pmrf", "rddm"])
def test_restorers_train_and_restore(kind, bodies, capsys):
    words = [f"experiment=small_{kind}", f"debug=tiny_{kind}", "data.dir=shards", *FAST]
    assert run("train", *words, "network.blur=0.6", f"hydra.run.dir={kind}") == 0
    words = ("restore", BODY, "--weights", kind, "--steps", 3, "--format", "nii.gz")
    found = told(capsys, *words, "--trial", "-o", f"{kind}_trial")
    images = found["samples"][0]["images"]
    assert set(images) == {"degraded", "restored"} | ({"estimate"} if kind == "pmrf" else set())
    assert all(5 < part["psnr"] < 60 for part in images.values())
    found = told(capsys, *words, "-o", f"{kind}_as_it_is")
    assert "degraded" not in found["samples"][0]["images"]
    made = read_volume(f"{kind}_as_it_is/ellipsoids_0000_restored.nii.gz")
    body = read_volume(BODY)
    assert made.values.shape == body.values.shape
    np.testing.assert_allclose(made.affine, body.affine, atol=1e-5)


def test_card_shows_each_method(bodies, capsys):
    from rectiflow_cli.demo.card import Request
    from rectiflow_cli.imaging import demo

    made = demo.card(Request(weights="run", steps=2, device="cpu"))
    assert set(made.result) == {"settings", "fbp", "tv", "prior", "stack"}
    assert set(made.files) == {
        "pictures/reconstructions.png",
        "pictures/reconstructions_dark.png",
    }
    assert "total variation" in made.html
    assert demo.reads(Path("a.nii.gz"))
    assert not demo.reads(Path("a.npz"))
    plain = demo.card(Request(weights="small", steps=1, device="cpu"))
    assert {"settings", "fbp", "tv", "prior", "stack"} == set(plain.result)
    with pytest.raises(FileNotFoundError):
        demo.card(Request(weights="nowhere", device="cpu"))


def test_the_restorer_that_ships_lessens_the_error(bodies, capsys):
    found = told(capsys, "restore", BODY, "--trial", "--steps", 2, "-o", "shipped")
    images = found["samples"][0]["images"]
    assert images["estimate"]["psnr"] > images["restored"]["psnr"] > images["degraded"]["psnr"] + 3


def test_weights_must_be_given_since_none_ship(capsys):
    assert run("deform", "a.npz", "-o", "x") == 2
    said = capsys.readouterr().err
    assert "no weights are given and none of this kind ship" in said
    assert "rectiflow imaging train experiment=small" in said


def test_register_tells_the_overlap_and_writes_the_field(bodies, capsys):
    again = ("register", BODY, "bodies/ellipsoids_0001.npz", "--iterations", 2)
    found = told(capsys, *again, "-o", "onto")
    assert found["files"] == ["registered.npz", "segmentation.npz", "field.npz"]
    assert 0 <= found["dice"] <= 1
    assert found["likeness"] > found["likeness_before"]
    assert read_volume("onto/registered.npz").labels.shape == (6, 16, 16)
    capsys.readouterr()
    flat = ("phantoms", "--num", 1, "--side", 16, "--slices", 1)
    assert run(*flat, "-o", "flat") == 0
    for words, said in (
        ((BODY, "flat/ellipsoids_0000.npz"), "two flat images or two volumes"),
        ((BODY, BODY, "--segmentation", "flat/ellipsoids_0000.npz"), "expected one shape"),
        ((BODY, BODY, "--stiffness", "-1"), "at least 0"),
    ):
        assert run("register", *words, "-o", "none") == 2
        assert said in capsys.readouterr().err
