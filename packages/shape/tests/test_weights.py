"""The authors' folder, read and written: made here with random weights of small sizes."""

import json

import pytest
import torch
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from rectiflow_shape import ShapePipeline, ShapeSettings
from rectiflow_shape.networks import TripoSGDiT, TripoSGVae
from rectiflow_shape.weights import load_official_part, save_official, to_official
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    dit = TripoSGDiT(4, 16, 2, 3, context=8)
    return ShapePipeline(dit, TripoSGVae(4, 2, 8, 16, 1, 2, 3), settings=ShapeSettings(shift=2.0))


@pytest.fixture
def folder(pipe, tmp_path):
    save_official(pipe, tmp_path / "theirs")
    return tmp_path / "theirs"


def test_a_folder_comes_back_with_all_its_numbers(pipe, folder):
    back = ShapePipeline.from_pretrained(folder)
    for name in ("network", "vae"):
        own, found = pipe.parts[name].state_dict(), back.parts[name].state_dict()
        assert own.keys() == found.keys()
        assert all(torch.equal(own[key], found[key]) for key in own)
    told = back.settings
    assert (told.shift, told.guidance, told.steps, told.tokens) == (2.0, 7.0, 50, 2048)
    assert (back.vae.truncation, back.vae.config["frequencies"]) == (None, 3)


def test_an_older_class_name_unknown_keys_and_half_precision_do_not_matter(folder):
    config = json.loads((folder / "vae" / "config.json").read_text())
    config |= {"_class_name": "Tripo2VAEModel", "_diffusers_version": "0.30", "extra": 1}
    (folder / "vae" / "config.json").write_text(json.dumps(config))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    half = {name: value.half() for name, value in load_tensors(weights).items()}
    save_file(half, folder / "vae" / "diffusion_pytorch_model.fp16.safetensors")
    weights.unlink()
    vae = load_official_part(folder, "vae")
    assert all(value.dtype == torch.float32 for value in vae.state_dict().values())
    alone = load_official_part(folder / "vae", "vae")
    assert torch.equal(alone.quant.weight, vae.quant.weight)


def test_every_tensor_is_accounted_for(pipe, folder):
    tensors = to_official(pipe.network)
    tensors["blocks.0.attn1.to_q.bias"] = tensors.pop("blocks.0.attn1.to_v.weight")
    contiguous = {name: value.contiguous() for name, value in tensors.items()}
    save_file(contiguous, folder / "transformer" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"to_q\.bias.*to_v\.weight"):
        ShapePipeline.from_pretrained(folder)


def test_pickled_weights_are_refused_by_name(folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(FileNotFoundError, match=r"\.bin"):
        ShapePipeline.from_pretrained(folder)


def test_the_rows_of_heads_are_mixed_in_the_file(pipe):
    """One head of ours holds rows of what the authors call query, key and value."""
    own = pipe.network.blocks[0].attn1.qkv.weight
    theirs = to_official(pipe.network)["blocks.0.attn1.to_q.weight"]
    assert torch.equal(theirs[:8], own[:8])  # the first head's query
    assert torch.equal(theirs[8:], own[16:24])  # and its key


def test_an_image_encoder_of_the_folder_is_read(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28}
    torch.manual_seed(1)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    model.save_pretrained(folder / "image_encoder_dinov2")
    pipe = ShapePipeline.from_pretrained(folder)
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        wanted = model(image).last_hidden_state
        assert torch.allclose(pipe.image(image), wanted, atol=1e-6)
    pipe.save_pretrained(tmp_path / "ours")
    back = ShapePipeline.from_pretrained(tmp_path / "ours")
    with torch.no_grad():
        assert torch.allclose(back.image(image), wanted, atol=1e-6)
