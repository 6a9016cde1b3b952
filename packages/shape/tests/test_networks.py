"""What the networks must do whatever their weights: symmetry, conditions, chunks, losses."""

import pytest
import torch
from rectiflow_shape.data.synthetic import sphere
from rectiflow_shape.flow import GroupSquared, dropped, guided_field, mosaic_flow, null_of
from rectiflow_shape.mosaic import FitSettings, Mosaic
from rectiflow_shape.mosaic.fit import start
from rectiflow_shape.networks import MosaicTransformer, TripoSGDiT, TripoSGVae
from rectiflow_shape.objective import LatentObjective, MosaicObjective
from rectiflow_shape.tokens import choose_tokens
from rectiflow_shape.vae_objective import VaeObjective


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = MosaicTransformer(3, 32, 2, 2, classes=2, context=8)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


@pytest.fixture
def cond():
    return {"label": torch.tensor([0, 1]), "context": torch.randn(2, 3, 8, generator=seeded())}


def test_renumbered_grids_give_renumbered_velocities(network, cond):
    x, t = torch.randn(2, 10, 31, generator=seeded()), torch.tensor([0.2, 0.7])
    order = torch.randperm(10, generator=seeded(1))
    found = network(x, t, cond)
    assert torch.allclose(network(x[:, order], t, cond), found[:, order], atol=1e-5)
    for name in cond:
        other = {**cond, name: null_of(cond, 2)[name]}
        assert not torch.allclose(network(x, t, other), found, atol=1e-4), name


def test_tokens_are_of_unit_spread_and_come_back():
    outline = sphere(0.7, seeded())
    mosaic = start(*outline, FitSettings(32, 3, steps=0, pool=64), seeded()).mosaic
    network = MosaicTransformer(3, 16, 2, 1)
    scales = mosaic.scales * torch.linspace(0.9, 1.1, 32)
    network.measure(mosaic.centres, scales, mosaic.values)
    tokens = network.tokens(mosaic.centres, scales, mosaic.values)
    for part in tokens.split([3, 1, 27], dim=-1):
        assert float(part.mean()) == pytest.approx(0, abs=1e-5)
        assert float(part.std()) == pytest.approx(1, abs=1e-3)
    back = network.mosaic(tokens)
    assert torch.allclose(back.values, mosaic.values, atol=1e-5)
    assert torch.allclose(back.scales, scales, atol=1e-5)
    assert network.mosaic(tokens * 100).scales.max() <= scales.max() + 1e-5


def test_a_place_counts_as_much_as_all_values_of_its_grid():
    wanted = torch.zeros(1, 5, 31)
    place, value = wanted.clone(), wanted.clone()
    place[..., :3] = 1
    value[..., 4:] = 1
    cost = GroupSquared()
    assert float(cost(place, wanted)) == float(cost(value, wanted)) == pytest.approx(1.0)
    assert mosaic_flow().premetric == cost
    with pytest.raises(ValueError, match="expected none"):
        cost(place, wanted, torch.ones(1, 5, dtype=torch.bool))


def test_components_stand_for_the_values_of_a_grid():
    """Grids of fields that are linear in space are told by four numbers, to rounding."""
    axis = torch.linspace(-1, 1, 3)
    grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"))
    slopes, offsets = torch.randn(40, 3, generator=seeded()), torch.randn(40, generator=seeded(1))
    values = torch.einsum("nc,cijk->nijk", slopes, grid) + offsets[:, None, None, None]
    scales = torch.linspace(0.1, 0.3, 40)
    network = MosaicTransformer(resolution=3, width=16, heads=2, layers=1, components=4)
    mosaic = Mosaic(torch.randn(40, 3, generator=seeded(2)), scales, values)
    network.measure(mosaic.centres, mosaic.scales, mosaic.values)
    tokens = network.tokens(mosaic.centres, mosaic.scales, mosaic.values)
    assert tokens.shape == (40, 8)
    assert network.channels == 8
    back = network.mosaic(tokens)
    assert torch.allclose(back.values, values, atol=1e-4)
    assert float(tokens[:, 4:].std()) == pytest.approx(1, abs=1e-3)
    spreads = tokens[:, 4:].std(0)  # the first vary most, and less than they do by themselves
    assert torch.equal(spreads.sort(descending=True).values, spreads)
    with pytest.raises(ValueError, match="1 to 27"):
        MosaicTransformer(resolution=3, width=16, heads=2, layers=1, components=28)


def test_conditions_are_dropped_one_by_one():
    cond = {"label": torch.zeros(4000), "context": torch.ones(4000, 1, 2)}
    found = dropped(cond, 7, 0.25, seeded())
    label, context = found["label"] == 7, (found["context"] == 0).all(-1)[:, 0]
    for share in (label, context):
        assert float(share.float().mean()) == pytest.approx(0.25, abs=0.03)
    assert float((label & context).float().mean()) == pytest.approx(1 / 16, abs=0.02)


def test_guidance_moves_away_from_nothing(network, cond):
    x, t = torch.randn(2, 4, 31, generator=seeded()), torch.full((2,), 0.5)
    told, nothing = network(x, t, cond), network(x, t, null_of(cond, 2))
    found = guided_field(network, cond, 3.0)(x, 0.5)
    assert torch.allclose(found, nothing + 3 * (told - nothing), atol=1e-4)
    outside = guided_field(network, cond, 3.0, interval=(0.0, 0.3))(x, 0.5)
    assert torch.allclose(outside, told, atol=1e-5)


def test_chosen_tokens_are_spread_out_and_repeat():
    cloud = torch.randn(2, 400, 6, generator=seeded())
    found = choose_tokens(cloud, 16, seeded(1))
    assert torch.equal(found, choose_tokens(cloud, 16, seeded(1)))
    assert not torch.equal(found, choose_tokens(cloud, 16, seeded(2)))
    near = torch.cdist(found[..., :3], found[..., :3]) + 9 * torch.eye(16)
    random = cloud[:, :16, :3]
    assert near.amin(-1).mean() > (torch.cdist(random, random) + 9 * torch.eye(16)).amin(-1).mean()
    with pytest.raises(ValueError, match="need as many points"):
        choose_tokens(cloud, 500)


class Perfect(torch.nn.Module):
    """An autoencoder whose field is the truncated distance of a sphere."""

    truncation = 0.2

    def encode(self, points, queries):
        from rectiflow_shape.networks import Posterior

        zeros = torch.zeros(len(points), 4, 2)
        return Posterior(zeros, zeros)

    def keys(self, latents):
        return latents, latents

    def field(self, keys, xyz):
        return -((xyz.norm(dim=-1) - 0.5) / self.truncation).clamp(-1, 1)


def surface_batch():
    points, normals, distance = sphere(0.5, seeded())
    box = torch.rand(2, 64, 3, generator=seeded(4)) * 2 - 1
    sampled = torch.cat([box, distance(box)[..., None]], dim=-1)
    cloud = torch.cat([points, normals], dim=-1)[:256].expand(2, -1, -1)
    return {"surface": cloud, "near": sampled[:, :32], "volume": sampled[:, 32:]}


def test_a_perfect_field_costs_nothing():
    found = VaeObjective(Perfect(), tokens=(8,), normals=64)(surface_batch(), seeded())
    assert {name: round(float(value), 5) for name, value in found.items()} == {
        name: 0.0 for name in ("loss", "sdf", "kl", "normal", "eikonal")
    }


def test_the_loss_of_the_autoencoder_reaches_every_weight():
    torch.manual_seed(0)
    vae = TripoSGVae(2, 2, 8, 8, 1, 1, 3, truncation=0.2)
    objective = VaeObjective(vae, tokens=(8, 16), normals=16).train()
    objective(surface_batch(), seeded())["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in vae.parameters())
    with pytest.raises(ValueError, match="no truncation distance"):
        VaeObjective(TripoSGVae(2, 2, 8, 8, 1, 1, 3))


def test_an_autoencoder_absorbs_mean_and_spread_of_its_latents():
    torch.manual_seed(0)
    vae = TripoSGVae(3, 2, 8, 8, 1, 1, 3, truncation=0.2).eval()
    for parameter in vae.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    objective = LatentObjective(TripoSGDiT(3, 16, 2, 3), vae, tokens=8, standard=True)
    batch, box = surface_batch(), torch.rand(2, 50, 3, generator=seeded(1)) * 2 - 1
    queries = batch["surface"][:, :8]
    with torch.no_grad():
        before = vae.encode(batch["surface"], queries)
        field = vae.decode(before.sample(torch.ones_like(before.mean)), box)
        objective.measure([batch] * 4, seeded())
        after = vae.encode(batch["surface"], queries)
        torch.testing.assert_close(
            vae.decode(after.sample(torch.ones_like(after.mean)), box), field, atol=1e-4, rtol=1e-4
        )
        drawn = torch.cat([objective.state(batch, seeded(i)).flatten(0, 1) for i in range(64)])
    assert drawn.mean(0).abs().max() < 0.3
    torch.testing.assert_close(drawn.std(0), torch.ones(3), atol=0.25, rtol=0)


def test_flows_of_latents_and_mosaics_have_a_loss(network):
    torch.manual_seed(0)
    vae = TripoSGVae(2, 2, 8, 8, 1, 1, 3, truncation=0.2)
    dit = TripoSGDiT(2, 16, 2, 3, context=5)
    batch = surface_batch() | {"context": torch.randn(2, 1, 5), "label": torch.tensor([0, 1])}
    LatentObjective(dit, vae, tokens=8)(batch, seeded())["loss"].backward()
    assert all(p.grad is None for p in vae.parameters())
    assert dit.proj_in.weight.grad.abs().sum() > 0
    mosaics = {"centres": torch.randn(2, 6, 3), "scales": torch.rand(2, 6) + 0.1}
    mosaics |= {"values": torch.randn(2, 6, 3, 3, 3), "label": torch.tensor([0, 1])}
    mosaics |= {"context": torch.randn(2, 3, 8)}
    loss = MosaicObjective(network)(mosaics, seeded())["loss"]
    assert torch.equal(MosaicObjective(network)(mosaics, seeded())["loss"], loss)
