"""SD3's block against a plain reference, and what is left of it when the streams are kept apart."""

import math

import pytest
import torch
from rectiflow.rectify import slim
from rectiflow_pde.networks import DitConfig
from rectiflow_pde.networks.mmdit import JointBlock
from rectiflow_pde.networks.simulator import FlowTransformer

WIDTH, HEADS, N, M = 12, 3, 5, 4


def linear(layer, x):
    return x @ layer.weight.T + layer.bias


def normed(x):
    mean = x.mean(-1, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(-1, keepdim=True).add(1e-6).sqrt()


def rms(norm, x):
    return x / (x**2).mean(-1, keepdim=True).add(1e-6).sqrt() * norm.weight


def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def reference(block, x, context, told):
    """The block written out sample by sample, head by head, for one sample at a time."""
    ends = []
    for row in range(len(x)):
        streams = [(block.latents, x[row]), (block.context, context[row])]
        silu = told[row] / (1 + torch.exp(-told[row]))
        mods, q, k, v = [], [], [], []
        for part, tokens in streams:
            mod = linear(part.modulation, silu).split(WIDTH)
            h = normed(tokens) * (1 + mod[1]) + mod[0]
            a, b, c = linear(part.qkv, h).split(WIDTH, -1)
            head = lambda y: y.reshape(len(y), HEADS, -1).transpose(0, 1)  # noqa: E731
            mods.append(mod)
            q.append(rms(part.norm_q, head(a)))
            k.append(rms(part.norm_k, head(b)))
            v.append(head(c))
        q, k, v = (torch.cat(each, 1) for each in (q, k, v))
        weights = (q @ k.transpose(1, 2) / math.sqrt(WIDTH / HEADS)).softmax(-1)
        attended = (weights @ v).transpose(0, 1).reshape(len(x[row]) + len(context[row]), WIDTH)
        out, at = [], 0
        for (part, tokens), mod in zip(streams, mods, strict=True):
            here, at = attended[at : at + len(tokens)], at + len(tokens)
            if not part.is_last:
                tokens = tokens + mod[2] * linear(part.proj, here)
                h = normed(tokens) * (1 + mod[4]) + mod[3]
                tokens = tokens + mod[5] * linear(part.fc2, gelu(linear(part.fc1, h)))
            out.append(tokens)
        ends.append(out)
    return [torch.stack(each) for each in zip(*ends, strict=True)]


def block_of(is_last=False):
    torch.manual_seed(0)
    made = JointBlock(WIDTH, HEADS, 2.0, is_last=is_last).double()
    for value in made.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return made


def states(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(2, *s, generator=generator).double() for s in ((N, WIDTH), (M, WIDTH), (WIDTH,))
    )


@pytest.mark.parametrize("is_last", [False, True])
def test_it_equals_the_reference(is_last):
    block, (x, context, told) = block_of(is_last), states()
    for found, wanted in zip(
        block(x, context, told), reference(block, x, context, told), strict=True
    ):
        assert torch.allclose(found, wanted, atol=1e-10)


def test_kept_apart_the_streams_know_nothing_of_each_other():
    block, (x, context, told) = block_of(), states()
    apart = torch.zeros(N + M, N + M, dtype=torch.bool)
    apart[:N, :N] = apart[N:, N:] = True
    mask = apart.expand(2, -1, -1)
    alone, other = block(x, context, told, mask)
    _, changed_context, _ = states(2)
    assert torch.equal(block(x, changed_context, told, mask)[0], alone)
    changed_x, _, _ = states(3)
    assert torch.equal(block(changed_x, context, told, mask)[1], other)
    joint = block(x, context, told)[0]
    assert not torch.allclose(block(x, changed_context, told)[0], joint)


def test_a_small_network_of_joint_blocks():
    torch.manual_seed(0)
    sizes = DitConfig((4, 2, 2), (1, 1, 1), 3, 4, 16, 2, 2, 8, joint=True)
    network = FlowTransformer(sizes)
    x, t = torch.randn(2, 3, 4, 2, 2), torch.rand(2)
    cond = {"numbers": torch.rand(2, 5), "beside": torch.randn(2, 4, 4, 2, 2)}
    out = network(x, t, cond)
    assert out.shape == x.shape
    assert torch.equal(out, torch.zeros_like(out))  # at the start every block is the identity
    for value in network.parameters():
        value.data += 0.02 * torch.randn_like(value)
    out = network(x, t, cond)
    cond["numbers"] = cond["numbers"].roll(1, 0)
    assert not torch.allclose(network(x, t, cond), out)
    again = FlowTransformer.from_config({"sizes": vars(sizes)})
    assert again.state_dict().keys() == network.state_dict().keys()
    mask = torch.ones(2, 5, dtype=torch.bool)
    told = torch.cat([x, cond["beside"]], 1), 1000 * t, network.tokens(cond["numbers"])
    whole = network.transformer(*told)
    assert torch.allclose(network.transformer(*told, mask), whole, atol=1e-6)
    mask[:, 3:] = False
    assert not torch.allclose(network.transformer(*told, mask), whole)


def test_slim_networks_have_a_quarter_of_the_parameters():
    sizes = DitConfig((4, 2, 2), (1, 1, 1), 3, 4, 64, 2, 4, 32)
    network = FlowTransformer(sizes)
    count = lambda n: sum(p.numel() for p in n.parameters())  # noqa: E731
    assert count(slim(network)) < 0.3 * count(network)
    assert slim(network, depth=1).sizes.depth == 1
    with pytest.raises(ValueError, match="has no size layers"):
        slim(network, layers=3)
