"""Pictures of shapes as a condition: seen as a user's picture is, mirrored with the shape."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from rectiflow.randomness import counter_generator
from rectiflow_shape.data.datamodule import SurfaceData
from rectiflow_shape.data.synthetic import synthetic_shapes
from rectiflow_shape.flow import Condition
from rectiflow_shape.io.image import pixels, pixels_of_view, read_image
from rectiflow_shape.networks import TripoSGDiT, TripoSGVae
from rectiflow_shape.networks.dinov2 import ImageEncoder
from rectiflow_shape.objective import LatentObjective


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return synthetic_shapes(tmp_path_factory.mktemp("data") / "shards", num=2, views=2)


def data(shards) -> SurfaceData:
    return SurfaceData(shards, 2, surface=64, near=0, volume=0, pictures=True)


def test_a_view_is_seen_as_a_picture_of_the_user_is(shards, tmp_path):
    view = data(shards).prepared.records[0]["views"][0]
    Image.fromarray(view.permute(1, 2, 0).numpy()).save(tmp_path / "view.png")
    seen, read = pixels_of_view(view), pixels(read_image(tmp_path / "view.png"))
    # A user's border is found with a tolerance, that of a rendering exactly.
    assert (seen - read).abs().mean() < 0.1 < read.std()
    with pytest.raises(ValueError, match="white throughout"):
        pixels_of_view(torch.full((3, 8, 8), 255, dtype=torch.uint8))


def test_a_mirrored_shape_has_a_mirrored_picture(shards):
    dataset = data(shards).dataset
    views = [pixels_of_view(view) for view in dataset.prepared.records[dataset.rows[0]]["views"]]
    seen = set()
    for draw in range(12):
        found = dataset[0, draw]
        generator = counter_generator("shape", dataset.seed, 0, draw)
        view = views[int(torch.randint(2, (), generator=generator))]
        places = dataset.prepared.records[dataset.rows[0]]["surface"]
        at = torch.randint(len(places), (64,), generator=generator)
        is_mirrored = bool(torch.rand((), generator=generator) < 0.5)
        seen.add(is_mirrored)
        assert torch.equal(found["image"], view.flip(-1) if is_mirrored else view)
        assert torch.equal(found["surface"][:, 0], places[at, 0] * (-1 if is_mirrored else 1))
    assert seen == {True, False}


def test_a_shape_may_be_turned_by_quarters_with_its_normals(shards):
    told = {"surface": 64, "near": 16, "volume": 16}
    upright = SurfaceData(shards, 2, **told).dataset
    whole = SurfaceData(shards, 2, turns=True, **told)
    seen = set()
    for draw in range(24):
        plain, found = upright[0, draw], whole.dataset[0, draw]
        for quarters in range(4):
            quarter = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
            turn = torch.linalg.matrix_power(quarter, quarters)
            by = {name: torch.block_diag(turn, turn if name == "surface" else torch.eye(1))
                  for name in told}  # fmt: skip
            if all(torch.allclose(found[name], plain[name] @ by[name].T) for name in told):
                seen.add(quarters)
                break
        else:
            pytest.fail(f"draw {draw} is no quarter turn about y")
    assert seen == {0, 1, 2, 3}
    with pytest.raises(ValueError, match="expected turns or pictures, got both"):
        SurfaceData(shards, 2, turns=True, pictures=True)


def test_data_without_pictures_is_refused(tmp_path):
    plain = synthetic_shapes(tmp_path / "plain", num=1)
    with pytest.raises(ValueError, match=r"no pictures; expected some of each shape.*--views 8"):
        data(plain).dataset[0]


def test_the_context_is_the_encoder_s_and_it_stays_frozen(shards):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    image = ImageEncoder(sizes | {"image_size": 224, "patch_size": 56})
    vae = TripoSGVae(4, 2, 16, 16, 1, 1, truncation=0.1)
    network = TripoSGDiT(4, 16, 2, 3, context=16)
    objective = LatentObjective(network, vae, tokens=8, image=image, dropout=0.0).train()
    told: list[Condition] = []
    network.register_forward_pre_hook(lambda _, inputs: told.append(inputs[2]))
    dataset = data(shards).dataset
    batch = {name: torch.stack([dataset[i][name] for i in range(2)]) for name in dataset[0]}
    loss = objective(batch, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    with torch.no_grad():
        assert torch.allclose(told[0]["context"], image.eval()(batch["image"]), atol=1e-6)
    assert not any(p.requires_grad for p in image.parameters())
    assert all(p.grad is not None for p in network.blocks[0].parameters() if p.requires_grad)
