"""Low-rank adapters: nothing before training, exact when taken off, the same when merged."""

import copy

import pytest
import torch
from rectiflow.commands.parser import adapter_of
from rectiflow.rectify import Adapter, adapted
from rectiflow.rectify.lora import detach, merge, merged
from rectiflow.storage.pretrained import CheckpointError
from torch import nn


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.SiLU(), nn.Flatten(), nn.Linear(32, 5)).double()


def trained(seed=1, **options):
    """A network whose adapter is not zero any more, and the adapter."""
    made: nn.Module = adapted(network(), rank=2, scale=0.5, seed=seed, **options)
    generator = torch.Generator().manual_seed(seed)
    for name, value in made.named_parameters():
        if name.endswith(".up"):
            value.data.copy_(torch.randn(value.shape, generator=generator))
    return made, Adapter.of(made)


X = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def test_a_fresh_adapter_changes_nothing_and_is_all_that_trains():
    plain = network()
    made: nn.Module = adapted(copy.deepcopy(plain), rank=2)
    assert torch.equal(made(X), plain(X))
    made(X).square().sum().backward()
    grown = {name for name, value in made.named_parameters() if value.grad is not None}
    assert {name.rpartition(".")[2] for name in grown} == {"down", "up"}
    # rank (in + out), for the convolution and the linear layer
    assert sum(p.numel() for p in made.parameters() if p.requires_grad) == 2 * (3 + 8 + 32 + 5)


def test_the_sum_is_that_of_the_definition():
    made, adapter = trained()
    (down, up), plain = adapter.factors["3"], network()
    hidden = nn.Sequential(*list(made)[:3])(X)
    weight = plain[3].weight + 0.5 * up @ down
    assert torch.allclose(made(X), hidden @ weight.T + plain[3].bias, atol=1e-12)


def test_merged_equals_worn_and_detached_is_exact():
    made, adapter = trained()
    worn, plain = made(X), network()
    before = plain(X)
    with merged(made) as inside:
        assert set(inside.state_dict()) == set(plain.state_dict())
        assert torch.allclose(inside(X), worn, atol=1e-12)
    assert torch.equal(made(X), worn)
    merge(copied := copy.deepcopy(made))
    assert torch.allclose(copied(X), worn, atol=1e-12)
    adapter.merge(copied, sign=-1.0)
    assert torch.allclose(copied(X), before, atol=1e-12)
    detach(made)
    assert torch.equal(made(X), before)


def test_adapters_stack_with_weights():
    (_, one), (_, two) = trained(1), trained(2)
    worn, summed = network(), network()
    one.attach(worn)
    (two * 0.25).attach(worn)
    one.merge(summed)
    (two * 0.25).merge(summed)
    assert torch.allclose(worn(X), summed(X), atol=1e-12)
    assert torch.equal(Adapter.of(worn).factors["3"][0], two.factors["3"][0])
    merge(worn)
    assert Adapter.of(worn) is None
    assert torch.allclose(worn(X), summed(X), atol=1e-12)


def test_match_chooses_layers():
    made, adapter = trained(match=["3"])
    assert set(adapter.factors) == {"3"}
    assert torch.equal(made[0](X), network()[0](X))


def test_saved_alone(tmp_path):
    made, adapter = trained()
    (tmp_path / "export").mkdir()
    adapter.save(tmp_path / "export" / "adapter.safetensors")
    again = network()
    Adapter.load(tmp_path).attach(again)
    assert torch.equal(again(X), made(X))
    size = (tmp_path / "export" / "adapter.safetensors").stat().st_size
    assert size < 8 * 2 * (3 + 8 + 32 + 5) + 1024  # no weight of the network is in it


def test_what_is_refused(tmp_path):
    _, adapter = trained()
    with pytest.raises(ValueError, match=r"part for '0'.*got no such layer"):
        adapter.merge(nn.Sequential())
    with pytest.raises(ValueError, match="3 inputs and 8 outputs, got 4 and 8"):
        adapter.attach(nn.Sequential(nn.Conv2d(4, 8, 1)))
    with pytest.raises(ValueError, match="no layer is named like"):
        adapted(network(), match=["transformer*"])
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        adapted(network(), rank=0)
    with pytest.raises(FileNotFoundError, match="no adapter at"):
        Adapter.load(tmp_path)
    from safetensors.torch import save_file

    save_file({"a.down": torch.zeros(1, 1)}, tmp_path / "adapter.safetensors")
    with pytest.raises(CheckpointError, match="is no adapter"):
        Adapter.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [("a.safetensors", ("a.safetensors", 1.0)), ("a:0.5", ("a", 0.5)), ("b:c", ("b:c", 1.0))],
)
def test_the_flag_takes_a_weight(text, found):
    assert adapter_of(text) == found
