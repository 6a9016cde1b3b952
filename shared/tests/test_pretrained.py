"""Folders of weights, and reading foreign checkpoints without running their code."""

import copy
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import asdict, dataclass, field

import pytest
import torch
from rectiflow.storage.archives import Stub, read_inert
from rectiflow.storage.pretrained import (
    CheckpointError,
    Pretrained,
    find_pretrained,
    load_strict,
    load_tensors,
    read_card,
    read_config,
    weights_hash,
)
from safetensors.torch import save_file
from torch import nn


@dataclass(frozen=True)
class Sizes:
    width: int = 4
    depth: tuple[int, ...] = (1, 2)


class Network(Pretrained, nn.Module):
    def __init__(self, width: int, *, heads: tuple[int, ...] = (1, 2), tied: bool = False):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.second = self.first if tied else nn.Linear(width, width)
        self.heads = tuple(heads)
        self.register_buffer("scale", torch.tensor(2.0))


class Sized(Pretrained, nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.sizes = sizes
        self.linear = nn.Linear(sizes.width, 1)

    @classmethod
    def from_config(cls, config):
        return cls(Sizes(config["sizes"]["width"], tuple(config["sizes"]["depth"])))


@pytest.mark.parametrize("tied", [False, True])
def test_round_trip(tmp_path, tied):
    network = Network(3, tied=tied)
    network.save_pretrained(tmp_path, licence="Apache-2.0", metrics={"loss": 0.5})
    loaded = Network.from_pretrained(tmp_path)
    assert loaded.config == {"width": 3, "heads": [1, 2], "tied": tied}
    assert loaded.heads == (1, 2)
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])
    assert (loaded.first is loaded.second) == tied
    told = read_config(tmp_path)
    assert told["card"] == {"licence": "Apache-2.0", "metrics": {"loss": 0.5}}
    assert told["weights_hash"] == weights_hash(network)
    assert read_card(tmp_path / "model.safetensors") == told
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == [".rectiflow", "config.json", "model.safetensors"]


def test_device_and_dtype(tmp_path):
    Network(2).save_pretrained(tmp_path)
    loaded = Network.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cpu")
    assert loaded.first.weight.dtype == torch.bfloat16


def test_dataclasses_are_rebuilt(tmp_path):
    sized = Sized(Sizes(width=5))
    sized.save_pretrained(tmp_path)
    assert Sized.from_pretrained(tmp_path).sizes == sized.sizes
    assert read_config(tmp_path)["config"] == {"sizes": {**asdict(sized.sizes), "depth": [1, 2]}}


def test_copies_keep_their_configuration():
    network = Network(3)
    assert copy.deepcopy(network).config == network.config
    assert pickle.loads(pickle.dumps(network)).config == network.config


def test_wrong_arguments_are_reported_by_the_constructor():
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'width'"):
        Network()


def test_configuration_must_be_plain(tmp_path):
    class Odd(Pretrained, nn.Module):
        def __init__(self, activation):
            super().__init__()

    with pytest.raises(TypeError, match="type SiLU cannot be stored"):
        Odd(nn.SiLU()).save_pretrained(tmp_path)


def test_incomplete_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json and model\.safetensors"):
        Network.from_pretrained(tmp_path)
    Network(2).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks model\.safetensors; expected a folder"):
        Network.from_pretrained(tmp_path)


def test_another_class_is_refused(tmp_path):
    Network(2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds a Network, expected a Sized"):
        Sized.from_pretrained(tmp_path)


def test_replaced_weights_are_found(tmp_path):
    Network(2).save_pretrained(tmp_path)
    other = {name: value + 1 for name, value in Network(2).state_dict().items()}
    save_file(other, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not have the hash"):
        Network.from_pretrained(tmp_path)


def test_every_tensor_is_accounted_for():
    network = Network(2)
    tensors = dict(network.state_dict())
    tensors["frist.weight"] = tensors.pop("first.weight")
    tensors["other"] = torch.zeros(1)
    tensors["second.bias"] = torch.zeros(7)
    before = weights_hash(network)
    with pytest.raises(CheckpointError) as caught:
        load_strict(network, tensors, "w.ckpt")
    message = str(caught.value)
    assert "w.ckpt: 2 tensors were not used: [frist.weight, other]" in message
    assert "1 are missing: [first.weight]" in message
    assert "second.bias: (7,) in the file, (2,) in the model" in message
    assert "missing 'first.weight' and unused 'frist.weight'" in message
    assert caught.value.missing == ["first.weight"]
    assert caught.value.unexpected == ["frist.weight", "other"]
    assert str(caught.value.path) == "w.ckpt"
    assert weights_hash(network) == before


def test_hash_sees_names_dtypes_shapes_and_values():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    variants = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(2, 3, dtype=torch.float64), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.tensor([1.0, 1.0 + 1e-6])},
    ]
    hashes = {weights_hash(each) for each in [base, *variants]}
    assert len(hashes) == 5
    assert weights_hash(dict(reversed(base.items()))) == weights_hash(base)
    assert weights_hash({"h": torch.zeros((), dtype=torch.bfloat16)})


# --- foreign checkpoints ------------------------------------------------------------------------


class CustomConfig:
    """Stands for the configuration objects that training frameworks pickle beside weights."""

    def __init__(self):
        self.nested = {"lr": 1e-4, "list": [1, 2]}

    def __setstate__(self, state):
        raise AssertionError("code of the checkpoint's class was run")


class CustomDict(dict):
    pass


class Runs:
    """A hostile object: its pickle calls a function on loading."""

    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@dataclass
class Everything:
    """All kinds of values that may stand beside tensors."""

    values: dict = field(default_factory=lambda: {"set": {1, 2}, "bytes": b"x", "complex": 1j})


def tensors_of_all_kinds():
    whole = torch.arange(12.0).reshape(3, 4)
    return OrderedDict(
        [
            ("whole", whole),
            ("view", whole[1:, ::2]),
            ("transposed", whole.T),
            ("half", torch.ones(2, dtype=torch.float16)),
            ("brain", torch.ones(2, dtype=torch.bfloat16)),
            ("long", torch.arange(3)),
            ("bool", torch.tensor([True, False])),
            ("scalar", torch.tensor(3.5, dtype=torch.float64)),
            ("empty", torch.zeros(0, 3)),
            ("unsigned", torch.tensor([1, 2], dtype=torch.uint16)),
            ("parameter", nn.Parameter(torch.randn(2))),
        ]
    )


@pytest.fixture
def foreign(tmp_path):
    """A checkpoint with objects that weights_only refuses."""
    path = tmp_path / "foreign.ckpt"
    content = {
        "state_dict": tensors_of_all_kinds(),
        "hyper_parameters": CustomDict(cfg=CustomConfig(), all=Everything()),
        "optimizer": {"moment": torch.zeros(3)},
        "function": os.path.join,
    }
    torch.save(content, path)
    return path


def test_checkpoint_with_custom_classes(foreign):
    with pytest.raises(pickle.UnpicklingError):
        torch.load(foreign, weights_only=True)
    loaded = load_tensors(foreign)
    expected = tensors_of_all_kinds()
    assert loaded.keys() == expected.keys()
    for name, value in expected.items():
        if name == "parameter":
            assert loaded[name].shape == (2,)
            continue
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)
    assert list(load_tensors(foreign, "optimizer")) == ["moment"]


def test_unknown_classes_become_inert(foreign):
    content = read_inert(foreign)
    hyper = content["hyper_parameters"]
    assert isinstance(hyper, Stub)
    assert hyper.origin.endswith("CustomDict")
    config = hyper.entries["cfg"]
    assert config.origin.endswith("CustomConfig")
    assert config.state == {"nested": {"lr": 1e-4, "list": [1, 2]}}
    assert "stub of" in repr(config)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_calls_are_not_made(tmp_path, protocol):
    marker = tmp_path / "executed"
    content = {
        "w": torch.ones(2),
        "system": Runs(os.system, f"touch {marker}"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "open": Runs(open, str(marker), "w"),
        "getattr": Runs(getattr, "text", "upper"),
    }
    path = tmp_path / "hostile.pt"
    torch.save(content, path, pickle_protocol=protocol)
    loaded = load_tensors(path)
    assert list(loaded) == ["w"]
    assert torch.equal(loaded["w"], torch.ones(2))
    assert not marker.exists()


def archive(path, program, storage=b"\0" * 8, compression=zipfile.ZIP_STORED):
    """Write a torch archive with a pickle program of our own."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", program)
        file.writestr("archive/byteorder", "little")
        file.writestr("archive/data/0", storage)
    return path


def rebuild(size, stride, offset=0, count=2):
    """Return a pickle program that rebuilds a tensor from storage 0."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if value is Storage else None

    class Tensor:
        def __reduce__(self):
            arguments = (Storage, offset, size, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    import io

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"w": Tensor()})
    return buffer.getvalue()


def test_handmade_archive(tmp_path):
    path = archive(tmp_path / "a.pt", rebuild((2,), (1,)))
    assert torch.equal(read_inert(path)["w"], torch.zeros(2))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (rebuild((1000,), (1,)), "malformed contents"),
        (rebuild((2,), (1,), offset=10**6), "malformed contents"),
        (rebuild((2,), (-1,)), "malformed contents"),
        (rebuild((2,), (1,), count=10**6), "storage 0 is shorter"),
        (b"\x80\x02", "damaged or not a torch archive"),
        (b"cos\nsystem\nX\x01\x00\x00\x00aQ.", "malformed contents"),
    ],
)
def test_malformed_archives(tmp_path, program, message):
    path = archive(tmp_path / "bad.pt", program)
    with pytest.raises(CheckpointError, match=message):
        read_inert(path)


def test_a_file_cannot_change_what_later_files_mean(tmp_path):
    """A program that sets attributes on the objects it can name."""
    program = b"\x80\x02ctorch\nFloatStorage\n}X\x05\x00\x00\x00dtypectorch\nfloat64\nsb."
    with pytest.raises(CheckpointError):
        read_inert(archive(tmp_path / "set.pt", program))
    slots = b"\x80\x02ctorch\nFloatStorage\nN}X\x05\x00\x00\x00dtypectorch\nfloat64\ns\x86b."
    with pytest.raises(CheckpointError):
        read_inert(archive(tmp_path / "slots.pt", slots))
    path = archive(tmp_path / "a.pt", rebuild((2,), (1,)))
    assert read_inert(path)["w"].dtype == torch.float32


def test_compressed_members_are_refused(tmp_path):
    program = rebuild((2,), (1,))
    path = archive(tmp_path / "bomb.pt", program, b"\0" * 10**6, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed member"):
        read_inert(path)


def test_plain_checkpoints(tmp_path):
    torch.save({"model": {"a": {"w": torch.ones(2)}}, "epoch": 3}, tmp_path / "plain.pt")
    assert list(load_tensors(tmp_path / "plain.pt")) == ["model.a.w"]
    assert list(load_tensors(tmp_path / "plain.pt", "model")) == ["a.w"]
    with pytest.raises(CheckpointError, match=r"has no entry 'ema', got \['epoch', 'model'\]"):
        load_tensors(tmp_path / "plain.pt", "ema")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="holds no named tensors"):
        load_tensors(tmp_path / "none.pt")


def test_old_style_checkpoints(tmp_path):
    """Before torch 1.6 files were no archives; plain ones are read, others refused."""
    path = tmp_path / "old.pt"
    torch.save({"w": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_tensors(path)["w"], torch.ones(2))
    torch.save({"w": CustomConfig()}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="neither a torch archive nor a plain old-style"):
        load_tensors(path)


def test_absent_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        load_tensors(tmp_path / "absent.pt")
    path = tmp_path / "w.pt"
    torch.save({"w": torch.ones(100)}, path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError):
        load_tensors(path)
    bad = tmp_path / "w.safetensors"
    bad.write_bytes(b"not a file of tensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_tensors(bad)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("readme", json.dumps({}))
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_inert(tmp_path / "other.zip")


def rewrite(folder, **changes):
    """Change config.json, and with it what the weights tell of it."""
    told = read_config(folder) | changes
    tensors = load_tensors(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", {"rectiflow": json.dumps(told)})
    (folder / "config.json").write_text(json.dumps(told))


def test_a_foreign_file_is_not_replaced(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileExistsError, match=r"holds config\.json, which this command did not"):
        Network(2).save_pretrained(tmp_path)
    assert (tmp_path / "config.json").read_text() == "{}"
    Network(2).save_pretrained(tmp_path, overwrite=True)
    Network(3).save_pretrained(tmp_path)
    assert Network.from_pretrained(tmp_path).config["width"] == 3


@pytest.mark.parametrize("name", ["", " ", "a/..", "../a", "a/b/..", "-a/b"])
def test_what_names_no_weights_is_refused_and_not_looked_up(name, tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights at"):
        find_pretrained(name, tmp_path)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    network = Network(2)
    with torch.no_grad():
        network.first.weight[0, 0] = float("nan")
    network.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"hold NaN or infinity: \[first\.weight"):
        Network.from_pretrained(tmp_path)


def test_sizes_beyond_the_machine_are_refused_before_memory_is_taken(tmp_path):
    Network(2).save_pretrained(tmp_path)
    rewrite(tmp_path, config={"width": 10**9, "heads": [1, 2], "tied": False})
    with pytest.raises(CheckpointError, match="have another shape"):
        Network.from_pretrained(tmp_path)


@pytest.mark.parametrize("config", [{"width": "x"}, {"breadth": 2}, {"width": -1}])
def test_a_config_that_describes_no_network_is_refused(tmp_path, config):
    Network(2).save_pretrained(tmp_path)
    rewrite(tmp_path, config=config)
    with pytest.raises(CheckpointError, match=r"does not describe a Network|another shape"):
        Network.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [("{", "no JSON"), ("[]", "holds a list"), ("{}", "lacks class"), ('{"class": 1}', "lacks")],
)
def test_a_damaged_config_is_refused(tmp_path, text, found):
    Network(2).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=found):
        Network.from_pretrained(tmp_path)


def test_a_changed_config_is_noticed(tmp_path):
    Network(2).save_pretrained(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    told["config"]["heads"] = [2, 2]
    (tmp_path / "config.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="tells another configuration"):
        Network.from_pretrained(tmp_path)


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("archive/data.pkl", "w") as member:
            for _ in range(64):
                member.write(bytes(1 << 20))
        archive.writestr("archive/version", "3")
    for read in (load_tensors, read_inert):
        with pytest.raises(CheckpointError, match=r"compressed member 'archive/data\.pkl'"):
            read(path)


def test_tensors_larger_than_their_file_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1).expand(1 << 40)}, tmp_path / "wide.pt")
    with pytest.raises(CheckpointError, match="claims 4398046511104 bytes"):
        load_tensors(tmp_path / "wide.pt")


def test_dicts_that_hold_themselves_end(tmp_path):
    level = {"w": torch.zeros(1)}
    for _ in range(40):
        level = {"a": level, "b": level}
    torch.save(level, tmp_path / "deep.pt")
    with pytest.raises(CheckpointError, match="dicts within dicts"):
        load_tensors(tmp_path / "deep.pt")
