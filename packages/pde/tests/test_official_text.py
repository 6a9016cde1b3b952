"""The authors' diffusion that is told words: read, simulated with, written again."""

import pytest
import torch
from rectiflow_pde.data.captions import published_caption
from rectiflow_pde.data.synthetic import synthetic_flow
from rectiflow_pde.evaluation import by_pipeline, cut
from rectiflow_pde.networks import DitConfig, LatentTransformer, MeshAutoencoder, MeshConfig
from rectiflow_pde.networks.convolution import ConvConfig
from rectiflow_pde.networks.text import tokenizer_bytes
from rectiflow_pde.networks.transforms import TransformConfig
from rectiflow_pde.pipeline import SimulationPipeline
from rectiflow_pde.weights import CODEC, CONDITIONER, NETWORK, load_official, save_official
from safetensors.torch import load_file, save_file

PROMPT = "flow past a cylinder of radius 0.05 at (0.3, 0.2), inflow 1 m/s"
TOLD = {"radius": 0.05, "centre_x": 0.3, "centre_y": 0.2, "u_mean": 1.0}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Write a tokeniser of a few words, as the folder of a RoBERTa has it."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    folder = tmp_path_factory.mktemp("words")
    made = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    made.train_from_iterator([published_caption(TOLD)] * 3, 400, 2, special_tokens=special)
    made.save_model(str(folder))
    names = [str(folder / name) for name in ("vocab.json", "merges.txt")]
    RobertaTokenizerFast(*names).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def roberta():
    from transformers import RobertaConfig, RobertaModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 32}
    places = {"max_position_embeddings": 130, "type_vocab_size": 1, "num_attention_heads": 1}
    config = RobertaConfig(**sizes, **places, layer_norm_eps=1e-5)
    return RobertaModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def checkpoint(roberta, tmp_path_factory):
    """Write small random weights in the official layout, as older versions of libraries did."""
    torch.manual_seed(1)
    conv = ConvConfig(16, (1, 2), 1, 4, (1,), 16)
    codec = MeshAutoencoder(MeshConfig(3, 8, TransformConfig(0.0425, 4, (8,)), conv))
    network = LatentTransformer(DitConfig((4, 4, 4), (2, 2, 2), 4, 0, 32, 2, 16, 64))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    parts = {NETWORK: network, CODEC: codec, CONDITIONER: roberta}
    tensors = {
        prefix + name: value.clone().contiguous()
        for prefix, part in parts.items()
        for name, value in part.state_dict().items()
        if name != "scale"
    }
    tensors[f"{CONDITIONER}embeddings.position_ids"] = torch.arange(130)[None]
    path = tmp_path_factory.mktemp("official") / "ldm_DiT_text_cylinder.safetensors"
    save_file(tensors, path)
    statistics = path.parent / "statistics.csv"
    statistics.write_text("field,mean,std\nu,0.5,2\nv,0,1\np,0.1,3\n")
    return path


@pytest.fixture(scope="module")
def pipe(checkpoint, words):
    told = {"statistics": checkpoint.parent / "statistics.csv", "tokenizer": words}
    return SimulationPipeline.load_official(checkpoint, **told)


def test_the_published_caption_is_that_of_the_data():
    assert published_caption(TOLD) == (
        "Fluid passes over a cylinder with a radius of 5.00 and position: 0.30, 0.20. Fluid enters "
        "with a velocity of 1.00. The Reynolds number is 950. The flow is turbulent."
    )
    assert published_caption(TOLD | {"u_mean": 0.2}).endswith("is 190. The flow is fully laminar.")
    with pytest.raises(ValueError, match="nothing tells u_mean"):
        published_caption({name: TOLD[name] for name in ("radius", "centre_x", "centre_y")})


@torch.no_grad()
def test_words_become_the_states_of_roberta(pipe, roberta, words):
    from transformers import AutoTokenizer

    texts = [published_caption(TOLD), "Fluid enters."]
    states, mask = pipe.conditioner(texts)
    for text, own, counts in zip(texts, states, mask, strict=True):
        told = AutoTokenizer.from_pretrained(words)(text, return_tensors="pt")
        wanted = roberta(**told).last_hidden_state[0]
        assert counts.sum() == len(wanted)
        torch.testing.assert_close(own[: len(wanted)], wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at most 128"):
        pipe.conditioner(["fluid " * 200])


def test_it_simulates_from_words_alone_and_comes_back_from_disk(pipe, tmp_path):
    made = pipe(PROMPT, steps=2)
    assert made.flows[0].stacked.shape[0] == 25
    assert any("Reynolds number is 950. The flow is turb" in line for line in made.warnings)
    slower = pipe(PROMPT.replace("1 m/s", "0.4 m/s"), steps=2, onto=made.flows[0].mesh)
    assert abs(slower.flows[0].stacked - made.flows[0].stacked).max() > 1e-5
    pipe.save_pretrained(tmp_path / "ours")  # needs no tokeniser from then on
    again = SimulationPipeline.from_pretrained(tmp_path / "ours")
    assert (again(PROMPT, steps=2).flows[0].stacked == made.flows[0].stacked).all()
    other = pipe(f"{PROMPT}, viscosity 2e-3", steps=1).warnings
    assert any("0.002 m²/s" in line and "0.001" in line for line in other)
    flow = cut(synthetic_flow(0), 25)
    assert by_pipeline(pipe, steps=1).simulate(flow).shape == (25, flow.mesh.n_nodes, 3)
    with pytest.raises(ValueError, match="words alone"):
        pipe(mesh=flow.mesh, first_frame=flow.stacked[0])
    with pytest.raises(ValueError, match="cannot go on from a frame"):
        pipe(PROMPT, frames=26, steps=1)
    with pytest.raises(ValueError, match="never trained without"):
        pipe(PROMPT, guidance=2.0)


def test_it_is_written_with_the_authors_names(pipe, checkpoint, tmp_path):
    written = load_file(save_official(pipe, tmp_path / "theirs.safetensors"))
    for name, value in load_file(checkpoint).items():
        if not name.endswith("position_ids"):
            assert torch.equal(written[name], value), name
    assert not [name for name in written if "words" in name or "roberta" in name]


def test_a_missing_tokeniser_is_told(checkpoint, tmp_path):
    told = {"statistics": checkpoint.parent / "statistics.csv", "tokenizer": tmp_path}
    with pytest.raises(FileNotFoundError, match="--tokenizer FOLDER"):
        load_official(checkpoint, **told)
    with pytest.raises(FileNotFoundError, match="no tokeniser"):
        tokenizer_bytes(tmp_path / "nowhere")
