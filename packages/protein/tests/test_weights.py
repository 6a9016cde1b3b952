import pickle

import pytest
import torch
import yaml
from rectiflow.storage.pretrained import CheckpointError
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork
from rectiflow_protein.weights import (
    load_official,
    official_config,
    sizes_from_config,
    sizes_from_tensors,
    to_official,
)

SIZES = ReQFlowConfig(32, 16, 16, 16, 8, 22, 8, 4, 2, 4, 4, 2, 2)


class DictConfig:
    """Stands for the pickled OmegaConf object in the authors' checkpoints."""


@pytest.fixture
def network():
    torch.manual_seed(0)
    return ReQFlowNetwork(SIZES)


def lightning(network, **extra):
    return {
        "state_dict": to_official(network) | extra,
        "hyper_parameters": {"cfg": DictConfig()},
        "epoch": 3,
    }


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))


def test_a_lightning_file_is_read_without_its_classes(network, tmp_path):
    folding = {"_folding_model.esm.weight": torch.zeros(3)}
    torch.save(lightning(network, **folding), tmp_path / "qflow.ckpt")
    found = load_official(tmp_path / "qflow.ckpt")
    assert found.sizes == SIZES
    assert not found.training
    assert same(found.state_dict(), network.state_dict())


def test_names_without_the_prefix_are_accepted(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "bare.ckpt")
    assert same(load_official(tmp_path / "bare.ckpt").state_dict(), network.state_dict())


def test_round_trip_of_names(network):
    official = to_official(network)
    assert all(name.startswith("model.") for name in official)
    assert set(n.removeprefix("model.") for n in official) == set(network.state_dict())


def test_sizes_from_config_follow_references(network, tmp_path):
    block = official_config(SIZES)
    block["ipa"]["c_s"] = "${model.node_embed_size}"
    block["edge_features"]["c_p"] = "${model.edge_embed_size}"
    block["ipa"]["num_blocks"] = "${blocks}"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": block, "blocks": 2}))
    assert sizes_from_config(tmp_path / "config.yaml") == SIZES
    assert sizes_from_tensors(network.state_dict(), "x") == SIZES


def test_released_sizes_are_inferred_from_shapes():
    with torch.device("meta"):
        released = ReQFlowNetwork()
    assert sizes_from_tensors(released.state_dict(), "x") == ReQFlowConfig()


def test_every_tensor_is_accounted_for(network, tmp_path):
    state = to_official(network)
    del state["model.trunk.bb_update_1.linear.bias"]
    torch.save(
        {"state_dict": state | {"model.psi_head.weight": torch.zeros(2)}}, tmp_path / "a.ckpt"
    )
    with pytest.raises(CheckpointError) as error:
        load_official(tmp_path / "a.ckpt")
    assert error.value.missing == ["trunk.bb_update_1.linear.bias"]
    assert error.value.unexpected == ["psi_head.weight"]
    assert "a.ckpt" in str(error.value)


def test_another_kind_of_checkpoint_is_refused(tmp_path):
    torch.save({"state_dict": {"encoder.weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="expected a ReQFlow"):
        load_official(tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_features": {"self_condition": False}}, "self_condition=False; expected True"),
        ({"node_features": {"embed_chain": True}}, "embed_chain=True; expected False"),
        ({"ipa": {"no_heads": None}}, r"lacks model keys \['ipa.no_heads'\]"),
    ],
)
def test_unsupported_configurations_are_named(tmp_path, change, message):
    block = official_config(SIZES)
    for name, values in change.items():
        block[name].update(values)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": block}))
    with pytest.raises(CheckpointError, match=message):
        sizes_from_config(tmp_path / "config.yaml")


def test_a_config_without_a_model_is_refused(tmp_path):
    (tmp_path / "config.yaml").write_text("data: {}")
    with pytest.raises(CheckpointError, match="no 'model' block"):
        sizes_from_config(tmp_path / "config.yaml")


def test_a_folder_must_hold_one_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="must hold one checkpoint"):
        load_official(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"state_dict": {"a": torch.zeros(1)}, "cfg": Hostile()}, tmp_path / "bad.ckpt")
    assert pickle  # the file is an ordinary pickle inside
    with pytest.raises(CheckpointError):
        load_official(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()
