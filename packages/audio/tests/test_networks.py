"""The networks beyond the golden files: diffusers' classes, sizes, layouts, saved folders."""

import dataclasses

import pytest
import torch
from rectiflow_audio.networks import SeparationUNet, SpectrogramVae, UNetConfig, VaeConfig
from rectiflow_audio.networks.keys import unet_keys, unet_name, vae_keys

VAE = VaeConfig(channels=8, multipliers=(1, 2), blocks=1, latent_channels=3, groups=4)
UNET = UNetConfig(
    latent_channels=3,
    out_channels=3,
    channels=8,
    multipliers=(1, 2, 3),
    attention=(False, True, True),
    blocks=1,
    head_channels=8,
    context_channels=12,
    groups=4,
)
OFFICIAL_UNET = {
    "image_size": 64,
    "in_channels": 6,
    "out_channels": 6,
    "model_channels": 32,
    "channel_mult": [1, 2, 2, 3],
    "num_res_blocks": 1,
    "attention_resolutions": [1, 8],
    "num_heads": 4,
    "transformer_depth": 2,
    "context_dim": 20,
}
OFFICIAL_VAE = {
    "ddconfig": {
        "double_z": True,
        "z_channels": 6,
        "resolution": 64,
        "in_channels": 1,
        "out_ch": 1,
        "ch": 32,
        "ch_mult": [1, 2, 1],
        "num_res_blocks": 1,
        "attn_resolutions": [32],
        "mel_bins": 64,
    },
    "embed_dim": 4,
}


@pytest.fixture
def unet():
    return SeparationUNet(UNET).eval()


@pytest.fixture
def vae():
    return SpectrogramVae(VAE).eval()


def given(sizes, batch=2, height=8, width=4, tokens=5):
    draw = torch.Generator().manual_seed(0)
    shape = (batch, sizes.latent_channels, height, width)
    mask = torch.ones(batch, tokens)
    mask[0, 3:] = 0
    cond = {
        "mixture": torch.randn(shape, generator=draw),
        "context": torch.randn(batch, tokens, sizes.context_channels, generator=draw),
        "context_mask": mask,
    }
    return torch.randn(shape, generator=draw), torch.rand(batch, generator=draw), cond


@pytest.mark.slow  # importing diffusers takes longer than all else in this file
@torch.no_grad()
@pytest.mark.parametrize("sizes", [UNET, dataclasses.replace(UNET, depth=2, heads=2)])
def test_unet_equals_that_of_diffusers(sizes):
    """Same tensor names, same shapes, same numbers."""
    from diffusers.pipelines.audioldm2.modeling_audioldm2 import AudioLDM2UNet2DConditionModel

    unet = SeparationUNet(sizes).eval()
    attends = sizes.attention
    theirs = AudioLDM2UNet2DConditionModel(
        in_channels=6,
        out_channels=3,
        down_block_types=tuple(f"{'CrossAttn' * a}DownBlock2D" for a in attends),
        up_block_types=tuple(f"{'CrossAttn' * a}UpBlock2D" for a in reversed(attends)),
        block_out_channels=(8, 16, 24),
        layers_per_block=1,
        cross_attention_dim=((None, 12),) * 3,
        attention_head_dim=tuple(sizes.heads_at(level) for level in range(3)),
        transformer_layers_per_block=sizes.depth,
        norm_num_groups=4,
    ).eval()
    theirs.load_state_dict(unet.unet.state_dict())
    x, t, cond = given(sizes)
    wanted = theirs(
        torch.cat([x, cond["mixture"]], dim=1),
        t,
        encoder_hidden_states=cond["context"],
        encoder_attention_mask=cond["context_mask"] == 1,
    ).sample
    torch.testing.assert_close(unet(x, t, cond), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_autoencoder_equals_that_of_diffusers():
    from diffusers import AutoencoderKL

    vae = SpectrogramVae(dataclasses.replace(VAE, attention=(1,))).eval()
    theirs = AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=3,
        norm_num_groups=4,
    ).eval()
    theirs.load_state_dict(vae.autoencoder.state_dict())
    log_mel = torch.randn(2, 1, 16, 8)
    wanted = theirs.encode(log_mel).latent_dist
    found = vae.encode(log_mel)
    torch.testing.assert_close(found.mean, wanted.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.std, wanted.std, atol=1e-5, rtol=1e-5)
    decoded = theirs.decode(found.mean).sample
    torch.testing.assert_close(vae.decode(found.mean), decoded, atol=1e-5, rtol=1e-5)


def test_unet_sizes_from_official_arguments():
    sizes = UNetConfig.from_official(OFFICIAL_UNET)
    assert sizes == UNetConfig(
        latent_channels=3,
        out_channels=6,
        channels=32,
        multipliers=(1, 2, 2, 3),
        attention=(True, False, False, True),
        blocks=1,
        context_channels=20,
        heads=4,
        depth=2,
    )
    assert [sizes.heads_at(level) for level in range(4)] == [4] * 4
    unet = SeparationUNet(sizes)
    names = set(unet_keys(unet).values())
    assert len(names) == len(unet.state_dict())
    # A block with attention ends in its fourth part, one without in its second.
    assert "output_blocks.1.3.conv.weight" in names
    assert "output_blocks.3.1.conv.weight" in names
    assert "middle_block.2.transformer_blocks.1.attn2.to_k.weight" in names
    x, t, cond = given(sizes, height=16, width=8)
    assert unet(x, t, cond).shape == x.shape


def test_vae_sizes_from_official_arguments():
    sizes = VaeConfig.from_official(OFFICIAL_VAE)
    assert sizes == VaeConfig(
        channels=32,
        multipliers=(1, 2, 1),
        blocks=1,
        latent_channels=4,
        attention=(1,),
        inner_channels=6,
    )
    vae = SpectrogramVae(sizes)
    names = set(vae_keys(vae).values())
    assert {"encoder.down.1.attn.0.q.weight", "decoder.up.1.attn.1.proj_out.bias"} <= names
    assert vae.autoencoder.quant_conv.weight.shape == (8, 12, 1, 1)
    posterior = vae.encode(torch.randn(1, 1, 16, 8))
    assert posterior.mean.shape == (1, 4, 4, 2)
    assert vae.decode(posterior.mean).shape == (1, 1, 16, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_heads": -1}, "must set num_heads or num_head_channels"),
        ({"use_scale_shift_norm": True}, "use_scale_shift_norm=True; expected False"),
        ({"context_dim": [768, 1024]}, r"context_dim=\[768, 1024\]; expected one width"),
        ({"context_dim": None}, "context_dim=None; expected one width"),
        ({"in_channels": 5}, "in_channels=5 and out_channels=6"),
        ({"out_channels": 2}, "at least half as many out"),
    ],
)
def test_unet_arguments_of_other_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig.from_official({**OFFICIAL_UNET, **change})


def test_incomplete_arguments_are_refused():
    with pytest.raises(ValueError, match=r"UNet config lacks \['context_dim'\]"):
        UNetConfig.from_official({k: v for k, v in OFFICIAL_UNET.items() if k != "context_dim"})
    with pytest.raises(ValueError, match=r"autoencoder config lacks \['embed_dim'\]"):
        VaeConfig.from_official({"ddconfig": OFFICIAL_VAE["ddconfig"]})
    with pytest.raises(ValueError, match=r"ddconfig.tanh_out must be False, got True"):
        VaeConfig.from_official(
            {**OFFICIAL_VAE, "ddconfig": {**OFFICIAL_VAE["ddconfig"], "tanh_out": True}}
        )


def test_unknown_part_has_no_official_name():
    with pytest.raises(KeyError, match=r"no part of the UNet is called 'unet\.elsewhere'"):
        unet_name("unet.elsewhere", UNET)


@torch.no_grad()
def test_text_keys_take_the_place_of_the_context(unet):
    x, t, cond = given(UNET)
    prepared = unet.with_text_keys(cond)
    del prepared["context"]
    torch.testing.assert_close(unet(x, t, prepared), unet(x, t, cond), atol=0, rtol=0)
    assert prepared["text_keys"].shape[:2] == cond["context"].shape[:2]


@torch.no_grad()
def test_masked_tokens_are_not_attended_to(unet):
    x, t, cond = given(UNET)
    other = cond["context"].clone()
    other[0, 3:] = 100.0
    torch.testing.assert_close(unet(x, t, {**cond, "context": other}), unet(x, t, cond))
    other[0, :3] = 100.0
    changed = unet(x, t, {**cond, "context": other}) - unet(x, t, cond)
    assert changed[0].abs().max() > 1e-3
    assert changed[1].abs().max() == 0


@torch.no_grad()
def test_wholly_masked_text_stays_finite(unet):
    x, t, cond = given(UNET)
    nothing = {**cond, "context_mask": torch.zeros_like(cond["context_mask"])}
    assert torch.isfinite(unet(x, t, nothing)).all()


@torch.no_grad()
def test_samples_of_a_batch_do_not_meet(unet):
    x, t, cond = given(UNET)
    alone = unet(x[1:], t[1:], {name: value[1:] for name, value in cond.items()})
    torch.testing.assert_close(unet(x, t, cond)[1:], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_memory_format_does_not_matter(unet, vae):
    x, t, cond = given(UNET)
    log_mel = torch.randn(2, 1, 16, 8)
    wanted = unet(x, t, cond), vae.encode(log_mel).mean
    for network in (unet, vae):
        network.to(memory_format=torch.channels_last)
    found = unet(x, t, cond), vae.encode(log_mel).mean
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_is_close(unet, vae):
    x, t, cond = given(UNET)
    log_mel = torch.randn(2, 1, 16, 8)
    wanted = unet(x, t, cond), vae.encode(log_mel).mean
    half = {name: value.bfloat16() for name, value in cond.items()}
    found = unet.bfloat16()(x.bfloat16(), t, half), vae.bfloat16().encode(log_mel.bfloat16()).mean
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.float() - b).norm() < 0.03 * b.norm()


def test_latents_of_odd_size_are_refused(unet):
    x, t, cond = given(UNET, height=6)
    with pytest.raises(ValueError, match=r"multiples of 4, got \(6, 4\)"):
        unet(x, t, cond)


@torch.no_grad()
def test_networks_survive_a_folder(unet, vae, tmp_path):
    unet.save_pretrained(tmp_path / "unet")
    other = SeparationUNet.from_pretrained(tmp_path / "unet")
    assert other.sizes == UNET
    x, t, cond = given(UNET)
    torch.testing.assert_close(other(x, t, cond), unet(x, t, cond), atol=0, rtol=0)
    sizes = dataclasses.replace(VAE, attention=(0,), mel_mean=-5.0, mel_std=2.0)
    vae = SpectrogramVae(sizes, scale_factor=0.3)
    vae.save_pretrained(tmp_path / "vae")
    restored = SpectrogramVae.from_pretrained(tmp_path / "vae")
    assert restored.sizes == sizes
    assert restored.scale_factor.item() == pytest.approx(0.3)


@torch.no_grad()
def test_latents_are_scaled_and_spectrograms_normalised():
    sizes = dataclasses.replace(VAE, mel_mean=-5.0, mel_std=2.0)
    plain, scaled = SpectrogramVae(VAE), SpectrogramVae(sizes, scale_factor=4.0)
    scaled.autoencoder.load_state_dict(plain.autoencoder.state_dict())
    log_mel = torch.randn(1, 1, 16, 8)
    latent = plain.to_latent(log_mel)
    torch.testing.assert_close(scaled.to_latent(2 * log_mel - 5), 4 * latent)
    torch.testing.assert_close(scaled.from_latent(4 * latent), 2 * plain.from_latent(latent) - 5)


@torch.no_grad()
def test_posterior_samples_by_generator(vae):
    posterior = vae.encode(torch.randn(1, 1, 16, 8))
    first, again = (posterior.sample(generator=torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first, again, atol=0, rtol=0)
    assert (first - posterior.mean).abs().max() > 0
    by_generator = vae.to_latent(
        torch.zeros(1, 1, 16, 8), sample=True, generator=torch.Generator().manual_seed(1)
    )
    assert not torch.equal(by_generator, vae.to_latent(torch.zeros(1, 1, 16, 8)))


def test_every_parameter_gets_a_gradient(unet, vae):
    x, t, cond = given(UNET)
    unet(x, t, cond).square().sum().backward()
    posterior = vae.encode(torch.randn(1, 1, 16, 8))
    vae.decode(posterior.sample()).square().sum().backward()
    for network in (unet, vae):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            # What all keys share cancels in the softmax.
            assert parameter.grad.any() or name.endswith("to_k.bias"), name
