"""The authors' checkpoints: read back as written, every tensor accounted for, told by network."""

import logging
from dataclasses import replace

import pytest
import torch
import yaml
from rectiflow.storage.tensor_files import CheckpointError
from rectiflow_audio.networks import SeparationUNet, SpectrogramVae, UNetConfig, VaeConfig
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig
from rectiflow_audio.weights import (
    OfficialFlowSep,
    load_official,
    load_official_vae,
    load_official_vocoder,
    read_vocoder_config,
    to_official,
    unet_to_official,
    vae_to_official,
    without_unused_outputs,
)
from rectiflow_audio.weights.parts import LEFTOVERS

UNET = UNetConfig(2, 4, 32, (1, 2), (False, True), 1, context_channels=12)
VAE = VaeConfig(channels=32, multipliers=(1, 2), blocks=1, latent_channels=2, inner_channels=3)
VOCODER = VocoderConfig(n_mels=8, channels=32, block_kernels=(3,), dilations=((1, 3, 5),))
VOCODER_JSON = {
    "resblock": "1",
    "upsample_rates": list(VOCODER.rates),
    "upsample_kernel_sizes": list(VOCODER.kernels),
    "upsample_initial_channel": 32,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3, 5]],
    "activation": "snakebeta",
    "snake_logscale": True,
    "num_mels": 8,
}
DOCUMENT = {
    "model": {
        "params": {
            "unet_config": {
                "params": {
                    "in_channels": 4,
                    "out_channels": 4,
                    "model_channels": 32,
                    "channel_mult": [1, 2],
                    "num_res_blocks": 1,
                    "attention_resolutions": [2],
                    "num_head_channels": 16,
                    "context_dim": [12],
                }
            },
            "first_stage_config": {
                "params": {
                    "embed_dim": 2,
                    "ddconfig": {
                        "z_channels": 3,
                        "resolution": 16,
                        "ch": 32,
                        "ch_mult": [1, 2],
                        "num_res_blocks": 1,
                        "attn_resolutions": [],
                    },
                }
            },
        }
    }
}


def t5_state(layers=2, width=8):
    """Return tensors named as those of an encoder of FLAN-T5."""
    table = torch.randn(11, width)
    state = {"shared.weight": table, "encoder.embed_tokens.weight": table}
    for i in range(layers):
        block = f"encoder.block.{i}.layer"
        for part in "qkvo":
            state[f"{block}.0.SelfAttention.{part}.weight"] = torch.randn(width, width)
        for part in ("wi_0", "wi_1", "wo"):
            state[f"{block}.1.DenseReluDense.{part}.weight"] = torch.randn(width, width)
        for part in (0, 1):
            state[f"{block}.{part}.layer_norm.weight"] = torch.randn(width)
    state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = torch.ones(4, 2)
    return state | {"encoder.final_layer_norm.weight": torch.randn(width)}


@pytest.fixture(scope="module")
def model():
    """Return a small FlowSep; the outputs of its UNet that do not count are zero, as released."""
    torch.manual_seed(0)
    unet = SeparationUNet(UNET)
    for parameter in (unet.unet.conv_out.weight, unet.unet.conv_out.bias):
        parameter.data[2:] = 0
    vae, vocoder = SpectrogramVae(VAE, scale_factor=0.25), BigVgan(VOCODER)
    return OfficialFlowSep(unet.eval(), vae.eval(), vocoder.eval(), t5_state(), {})


@pytest.fixture
def tensors(model):
    """Return a full checkpoint's tensors: the trained UNet differs from the averaged one."""
    found = to_official(model)
    for name in found:
        if name.startswith("model.diffusion_model."):
            found[name] = found[name] + 1
    found |= {name: torch.zeros(3) for name in LEFTOVERS}
    loss = "first_stage_model.loss"
    found[f"{loss}.logvar"] = torch.zeros(1)
    found[f"{loss}.perceptual_loss.lin0.model.1.weight"] = torch.zeros(1, 4, 1, 1)
    found[f"{loss}.discriminator.main.0.bias"] = torch.zeros(4)
    return found


@pytest.fixture
def write(tmp_path):
    def write(tensors, name="full.ckpt", **others):
        torch.save({"state_dict": tensors, **others}, tmp_path / name)
        return tmp_path / name

    return write


def assert_same(found, wanted):
    found, wanted = found.state_dict(), wanted.state_dict()
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, atol=0, rtol=0, msg=name)


def test_full_checkpoint_round_trip(model, tensors, write):
    found = load_official(write(tensors, epoch=3), keep_unused_outputs=True)
    assert (found.unet.sizes, found.vae.sizes, found.vocoder.sizes) == (UNET, VAE, VOCODER)
    for ours, wanted in (
        (found.unet, model.unet),
        (found.vae, model.vae),
        (found.vocoder, model.vocoder),
    ):
        assert_same(ours, wanted)
        assert not ours.training
        assert all(p.requires_grad for p in ours.parameters())
    assert found.vae.scale_factor.item() == 0.25
    assert found.text_encoder_state.keys() == t5_state().keys()
    assert found.config == {"sigma_min": 1e-4, "averaged": True, "official": None}
    written = to_official(found, rest=tensors)
    assert written.keys() == tensors.keys()
    again = load_official(write(written, "again.ckpt"), keep_unused_outputs=True)
    assert_same(again.unet, model.unet)


def test_unet_as_trained_on_request(model, tensors, write):
    found = load_official(write(tensors), ema=False, keep_unused_outputs=True).unet
    wanted = model.unet.state_dict()
    for name, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name] + 1, atol=0, rtol=0)


@torch.no_grad()
def test_unused_outputs_are_dropped_and_written_as_zeros(model, tensors, write):
    found = load_official(write(tensors))
    assert found.unet.sizes.out_channels == 2
    assert found.unet.unet.conv_out.weight.shape == (2, 32, 3, 3)
    x, mixture = torch.randn(2, 1, 2, 4, 4)
    cond = {
        "mixture": mixture,
        "context": torch.randn(1, 3, 12),
        "context_mask": torch.ones(1, 3),
    }
    t = torch.tensor([0.5])
    torch.testing.assert_close(found.unet(x, t, cond), model.unet(x, t, cond))
    written = unet_to_official(found.unet)
    assert written["out.2.weight"].shape == (4, 32, 3, 3)
    assert not written["out.2.weight"][2:].any()
    assert without_unused_outputs(found.unet) is found.unet


def test_unused_outputs_that_are_not_zero_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        without_unused_outputs(SeparationUNet(UNET))
    assert "beyond the first 2 are left out although unet.conv_out.weight is not zero" in (
        caplog.text
    )


def test_sizes_from_the_yaml(tensors, write, tmp_path):
    config = tmp_path / "2channel_flow.yaml"
    config.write_text(yaml.safe_dump(DOCUMENT))
    found = load_official(write(tensors), config=config, vocoder_config=VOCODER_JSON)
    assert found.unet.sizes.head_channels == 16  # which leaves no trace in the tensors
    assert found.vae.sizes == VAE
    assert found.vocoder.sizes == VOCODER
    assert found.config["official"] == DOCUMENT
    assert load_official_vae(write(tensors), config=config).sizes == VAE


def test_text_encoder_is_optional_and_may_lack_one_name_of_its_table(tensors, write):
    text = "cond_stage_models.0.model."
    without = {k: v for k, v in tensors.items() if not k.startswith(text)}
    assert load_official(write(without)).text_encoder_state is None
    del tensors[f"{text}encoder.embed_tokens.weight"]
    state = load_official(write(tensors)).text_encoder_state
    assert state["encoder.embed_tokens.weight"] is state["shared.weight"]
    del tensors[f"{text}encoder.block.1.layer.0.SelfAttention.k.weight"]
    with pytest.raises(CheckpointError, match=r"text encoder: 1 missing \[encoder\.block\.1\."):
        load_official(write(tensors))


def test_what_does_not_fit_is_listed_by_network(tensors, write):
    del tensors["model_ema.diffusion_modelout0weight"]
    tensors["model_ema.diffusion_modelextra"] = torch.zeros(1)
    tensors["first_stage_model.quant_conv.weight"] = torch.zeros(4, 7, 1, 1)
    del tensors["first_stage_model.vocoder.conv_post.bias"]
    tensors["surprise"] = torch.zeros(1)
    del tensors["scale_factor"]
    with pytest.raises(CheckpointError) as caught:
        load_official(write(tensors))
    for part in (
        "other tensors: 1 unknown [surprise]",
        "UNet: 1 missing [out.0.weight], 1 unknown [model_ema.diffusion_modelextra]",
        "autoencoder: 1 missing [scale_factor], 1 of another shape "
        "[quant_conv.weight (4, 7, 1, 1) instead of (4, 6, 1, 1)]",
        "vocoder: 1 missing [conv_post.bias]",
    ):
        assert part in str(caught.value)
    assert caught.value.missing == ["out.0.weight", "scale_factor", "conv_post.bias"]
    assert caught.value.unexpected == ["surprise", "model_ema.diffusion_modelextra"]


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("model_ema.diffusion", r"has no averaged UNet .* Pass ema=False"),
        ("model.diffusion", "no tensors of the UNet"),
        ("first_stage_model.encoder", r"has no tensor 'encoder\.conv_in\.weight'"),
        ("first_stage_model.vocoder", "no tensors of the vocoder"),
    ],
)
def test_absent_networks_are_named(tensors, write, prefix, message):
    left = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    with pytest.raises(CheckpointError, match=message):
        load_official(write(left))


def test_objects_in_the_file_are_not_made(tensors, write):
    class Settings(dict):
        def __reduce__(self):
            return (pytest.fail, ("code of the file was run",))

    found = load_official(write(tensors, hyper_parameters=Settings()))
    assert found.unet.sizes.channels == 32


def test_autoencoder_file(model, write, tmp_path):
    named = vae_to_official(model.vae)
    named |= {f"vocoder.{name}": v for name, v in model.vocoder.state_dict().items()}
    named["loss.logvar"] = torch.zeros(1)
    path = write(named, "vae.ckpt")
    vae = load_official_vae(path)
    assert_same(vae.autoencoder, model.vae.autoencoder)
    assert vae.scale_factor.item() == 1
    assert load_official_vae(path, scale_factor=0.5).scale_factor.item() == 0.5
    assert_same(load_official_vocoder(path), model.vocoder)
    named["encoder.more"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"autoencoder: 1 unknown \[encoder\.more\]"):
        load_official_vae(write(named, "vae.ckpt"))
    with pytest.raises(CheckpointError, match="no tensors of the autoencoder"):
        load_official_vae(write({"other": torch.zeros(1)}, "other.ckpt"))
    with pytest.raises(CheckpointError, match="no tensors of the vocoder"):
        load_official_vocoder(write({"other": torch.zeros(1)}, "other.ckpt"))


def test_scale_factor_of_the_full_file(model, tensors, write):
    vae = load_official_vae(write(tensors))
    assert_same(vae, model.vae)
    assert load_official_vae(write(tensors), scale_factor=2.0).scale_factor.item() == 2


def test_vocoder_file_with_weight_norm(model, tmp_path):
    normed = {}
    for name, value in model.vocoder.state_dict().items():
        if name.endswith(".weight"):
            stem = name.removesuffix(".weight")
            norm = value.flatten(1).norm(dim=1).reshape(-1, 1, 1)
            normed |= {f"{stem}.weight_g": norm, f"{stem}.weight_v": 3 * value}
        else:
            normed[name] = value
    torch.save({"generator": normed}, tmp_path / "g_01000000")
    found = load_official_vocoder(tmp_path / "g_01000000")
    assert found.sizes == VOCODER
    read = found.state_dict()
    for name, value in model.vocoder.state_dict().items():
        torch.testing.assert_close(read[name], value)
    del normed["conv_pre.weight_g"]
    torch.save({"generator": normed}, tmp_path / "g_01000000")
    with pytest.raises(CheckpointError, match="damaged vocoder: half of a weight norm is missing"):
        load_official_vocoder(tmp_path / "g_01000000")


def test_vocoder_whose_rates_cannot_be_told(tmp_path):
    sizes = VocoderConfig(
        n_mels=8, rates=(4, 2), kernels=(8, 4), channels=8, block_kernels=(3,), dilations=((1, 2),)
    )
    torch.save(BigVgan(sizes).state_dict(), tmp_path / "vocoder.pt")
    with pytest.raises(CheckpointError, match=r"kernels than the released one, got \[8, 4\]"):
        load_official_vocoder(tmp_path / "vocoder.pt")
    config = {
        **VOCODER_JSON,
        "upsample_rates": [4, 2],
        "upsample_kernel_sizes": [8, 4],
        "upsample_initial_channel": 8,
        "resblock_dilation_sizes": [[1, 2]],
    }
    assert load_official_vocoder(tmp_path / "vocoder.pt", config=config).sizes == sizes


def test_bad_yaml_is_told(tensors, write, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("model: {params: {}}")
    with pytest.raises(CheckpointError, match=r"has no model\.params\.unet_config\.params"):
        load_official(write(tensors), config=config)
    config.write_text("model: [")
    with pytest.raises(CheckpointError, match="is not a YAML file"):
        load_official(write(tensors), config=config)


def test_missing_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        load_official(tmp_path / "v2_100k.ckpt")


def test_a_vocoders_config_is_read_as_the_authors_class_reads_it(tmp_path):
    """Surplus entries are ignored; blocks use three dilations, those of the second kind two."""
    surplus = VOCODER_JSON | {
        "resblock_dilation_sizes": [[1, 3, 5, 7], [1, 3, 5]],
        "upsample_kernel_sizes": [*VOCODER.kernels, 4],
    }
    assert VocoderConfig.from_official(surplus) == VOCODER
    second = VocoderConfig.from_official(surplus | {"resblock": "2"})
    assert (second.is_paired, second.dilations) == (False, ((1, 3),))
    for name, value in (
        ("resblock_dilation_sizes", []),
        ("upsample_kernel_sizes", [16]),
        ("upsample_rates", []),
        ("num_mels", "80"),
        ("resblock_kernel_sizes", [3.5]),
    ):
        with pytest.raises(ValueError, match=r"vocoder config has|must list the same"):
            VocoderConfig.from_official(VOCODER_JSON | {name: value})
    for text in ("{", "[]"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            read_vocoder_config(tmp_path / "config.json")


def test_only_what_the_authors_classes_can_be_is_written_for_them(model):
    unet = SeparationUNet(replace(UNET, groups=16))
    with pytest.raises(ValueError, match=r"the UNet has 16 groups .* expected 32"):
        to_official(replace(model, unet=unet))
    for change, message in (({"groups": 8}, "has 8 groups"), ({"mel_mean": -5.0}, "takes mean -5")):
        with pytest.raises(ValueError, match=message):
            to_official(replace(model, vae=SpectrogramVae(replace(VAE, **change))))
    with pytest.raises(ValueError, match=r"multiple of 32 channels, got \[48, 96\]"):
        replace(VAE, channels=48)
    with pytest.raises(ValueError, match="multiple of 32 channels"):
        replace(UNET, channels=20)


@pytest.mark.parametrize("name", ["model_ema.diffusion_modelout0weight", "scale_factor"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tensors, write, name, bad):
    tensors[name] = torch.full_like(tensors[name], bad)
    with pytest.raises(CheckpointError, match=r"NaN or infinity|expected a number above 0"):
        load_official(write(tensors))
