"""The vocoder and its activation: closed forms, lengths, alignment, chunks, weight norm."""

import math

import pytest
import torch
import torch.nn.functional as F
from rectiflow_audio.networks import snake
from rectiflow_audio.networks.snake import AntiAliasedSnake, Snake, low_pass
from rectiflow_audio.networks.vocoder import BigVgan, VocoderConfig, fold_weight_norm

SMALL = VocoderConfig(n_mels=6, rates=(5, 2), kernels=(16, 4), channels=16)
OFFICIAL = {
    "num_mels": 6,
    "resblock": "1",
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1, 3]],
    "upsample_rates": [3],
    "upsample_kernel_sizes": [7],
    "upsample_initial_channel": 10,
    "activation": "snakebeta",
    "snake_logscale": True,
    "learning_rate": 1e-4,
}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vocoder(sizes=SMALL, seed=0):
    """Return a vocoder with weights that make a loud wave and activations of many shapes."""
    made, generator = BigVgan(sizes).eval(), seeded(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            draw = torch.randn(p.shape, generator=generator)
            fan = p[0].numel() if p.ndim > 1 else 10
            scale = 0.3 if name.endswith(("alpha", "beta")) else fan**-0.5
            p.copy_(draw * scale + (not sizes.log_scale and name.endswith(("alpha", "beta"))))
    return made


def log_mel(frames, sizes=SMALL, batch=1, seed=1):
    return torch.randn(batch, sizes.n_mels, frames, generator=seeded(seed))


def activation(channels, seed=0, dtype=torch.float32):
    """Return an activation of random shape with a lopsided filter, so that mirrored taps show."""
    made, generator = AntiAliasedSnake(channels).to(dtype), seeded(seed)
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(0.3 * torch.randn(channels, generator=generator))
        for held in (made.upsample, made.downsample.lowpass):
            held.filter.copy_(torch.rand(1, 1, 12, generator=generator) / 6)
    return made


def as_defined(module, x):
    """Activate by zeros between samples and full convolutions, as the definition reads."""
    rate, height = module.act.rates()
    channels = x.shape[2]
    above = module.upsample.filter.expand(channels, -1, -1)
    below = module.downsample.lowpass.filter.expand(channels, -1, -1)
    x = F.pad(x.transpose(1, 2), (5, 5), mode="replicate")
    x = 2 * F.conv_transpose1d(x, above, stride=2, groups=channels)[..., 15:-15]
    x = x + height[:, None] * torch.sin(x * rate[:, None]).square()
    x = F.conv1d(F.pad(x, (5, 6), mode="replicate"), below, stride=2, groups=channels)
    return x.transpose(1, 2)


def test_low_pass_keeps_constants_and_halves_at_the_cutoff():
    taps = low_pass()
    response = torch.fft.rfft(taps.double(), 480).abs()  # bins of 1/480 cycles per sample
    assert taps.sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(taps, taps.flip(0))
    assert response[120].item() == pytest.approx(0.5, abs=0.02)
    assert response[0] > response[60] > response[180]
    assert response[239] < 0.02


@pytest.mark.parametrize("half_width", [0.02, 0.1, 0.3, 0.5])
def test_low_pass_window_is_that_of_the_attenuation(half_width):
    from scipy.signal import kaiser_atten, kaiser_beta

    beta = kaiser_beta(kaiser_atten(6, 4 * half_width))
    window = torch.kaiser_window(12, periodic=False, beta=beta)
    sinc = torch.sinc(0.5 * (torch.arange(12) - 5.5)) * window
    torch.testing.assert_close(low_pass(half_width=half_width), sinc / sinc.sum())


def test_snake_with_and_without_a_height_of_its_own():
    x = torch.linspace(-3, 3, 7)[:, None]
    plain = Snake(1, has_beta=False, log_scale=False)
    plain.alpha.data.fill_(2.0)
    torch.testing.assert_close(plain(x), x + (2 * x).sin().square() / 2)
    both = Snake(1)
    both.alpha.data.fill_(math.log(3))
    both.beta.data.fill_(math.log(0.5))
    torch.testing.assert_close(both(x), x + 2 * (3 * x).sin().square())


@pytest.mark.parametrize("learns", [False, True], ids=["products", "taps"])
@pytest.mark.parametrize("length", [1, 2, 3, 5, 15, 16, 17, 31, 32, 33, 100])
def test_activation_equals_its_definition(length, learns):
    module = activation(3)
    x = torch.randn(2, length, 3, generator=seeded(length))
    with torch.set_grad_enabled(learns):
        found = module(x)
    assert found.requires_grad == learns
    torch.testing.assert_close(found, as_defined(module, x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [47, 48, 49, 96, 200])
def test_activation_has_no_seams_between_blocks(length, monkeypatch):
    monkeypatch.setattr(snake, "_BLOCK", 48 * 3)
    module = activation(3)
    x = torch.randn(1, length, 3, generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(module(x), as_defined(module, x), rtol=1e-5, atol=1e-6)


def test_gradients_of_the_activation():
    module = activation(2, dtype=torch.float64)
    x = torch.randn(1, 4, 2, generator=seeded(), dtype=torch.float64, requires_grad=True)
    names = ("act.alpha", "act.beta")

    def call(x, *values):
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(module, given, (x,))

    assert torch.autograd.gradcheck(call, (x, *(module.get_parameter(n) for n in names)))


def test_frozen_vocoder_passes_gradients_to_its_input():
    made = vocoder().requires_grad_(False)
    given = log_mel(4).requires_grad_()
    made(given).square().sum().backward()
    assert given.grad.abs().min() > 0


def test_aliases_are_removed():
    """The square of a tone near half the rate folds back, unless it is filtered out first."""
    x = torch.cos(2 * math.pi * 0.35 * torch.arange(512))[:, None]
    module, window = AntiAliasedSnake(1), torch.hann_window(512)

    def folded(wave):  # 0.7 cycles per sample appear at 0.3: bin 154 of 512
        return torch.fft.rfft(window * wave[:, 0])[144:164].abs().max()

    with torch.no_grad():
        assert folded(module(x[None])[0]) < 0.3 * folded(module.act(x))


@pytest.mark.parametrize(
    "sizes",
    [
        SMALL,
        VocoderConfig(n_mels=3, rates=(3,), kernels=(3,), channels=2),
        VocoderConfig(n_mels=6, rates=(2, 3), kernels=(5, 8), channels=13, is_paired=False),
        VocoderConfig(
            n_mels=4,
            rates=(4, 2),
            kernels=(9, 4),
            channels=8,
            block_kernels=(5, 3),
            dilations=((2, 1), (1, 4, 2)),
            has_beta=False,
            log_scale=False,
        ),
    ],
)
def test_any_sizes(sizes):
    made, given = vocoder(sizes), log_mel(5, sizes, batch=2)
    with torch.no_grad():
        wave, raw = made(given), made.raw(given)
    length = 5
    for rate, kernel in zip(sizes.rates, sizes.kernels, strict=True):
        length = (length - 1) * rate + kernel - 2 * ((kernel - rate) // 2)
    assert raw.shape == (2, length)
    assert wave.shape == (2, 5 * sizes.hop)
    assert torch.equal(wave, raw[:, : 5 * sizes.hop])
    assert wave.std() > 0.01
    assert wave.abs().max() <= 1
    with torch.no_grad():
        torch.testing.assert_close(made(given[1:]), wave[1:], rtol=1e-4, atol=1e-5)
    gradients = made(given)  # the other way to activate
    torch.testing.assert_close(gradients.detach(), wave, rtol=1e-4, atol=1e-5)


def test_released_lengths():
    made = vocoder(VocoderConfig(channels=32))
    given = log_mel(7, made.sizes)
    with torch.no_grad():
        assert made.raw(given).shape == (1, 7 * 160 + 32)
        assert made(given).shape == (1, 7 * 160)


def test_a_frame_later_is_a_hop_of_samples_later():
    made, given = vocoder(), log_mel(60)
    with torch.no_grad():
        whole, later = made(given), made(given[:, :, 1:])
    hop, edge = made.sizes.hop, made.margin * made.sizes.hop
    torch.testing.assert_close(
        later[:, edge:-edge], whole[:, hop + edge : -edge], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("sizes", [SMALL, VocoderConfig(n_mels=6, channels=32)])
def test_margin_covers_what_a_frame_reaches_and_little_more(sizes):
    made = vocoder(sizes).double()
    at, frames = 60, 121
    given = log_mel(frames, sizes).double()
    changed = given.clone()
    changed[:, :, at] += 1
    with torch.no_grad():
        differs = (made(given) != made(changed))[0].unflatten(0, (frames, sizes.hop)).any(1)
    # What is farthest away comes through the ends of all kernels, too faint to be seen.
    reached = differs.nonzero().flatten()
    farthest = (reached - at).abs().max().item()
    assert made.margin - 8 <= farthest <= made.margin < at


@pytest.mark.parametrize("frames", [7, 50, 90, 200])
def test_chunks_make_the_whole(frames):
    made, given = vocoder(), log_mel(90, batch=2)
    with torch.no_grad():
        whole, chunked = made(given), made.chunked(given, frames)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-5)


def test_bfloat16_is_near():
    made, given = vocoder(), log_mel(40)
    with torch.no_grad():
        exact = made(given)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = made(given).float()
        low = made.bfloat16()(given.bfloat16())
    assert low.dtype == torch.bfloat16
    for found in (mixed, low.float()):
        error = (found - exact).norm() / exact.norm()
        assert 1e-5 < error < 0.05


def test_compiles_without_a_break():
    sizes = VocoderConfig(6, (2,), (4,), 4, block_kernels=(3,), dilations=((1,),))
    made, given = vocoder(sizes), log_mel(4)
    compiled = torch.compile(made, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(given), made(given), rtol=1e-4, atol=1e-5)


def test_save_and_load(tmp_path):
    made, given = vocoder(), log_mel(3)
    made.save_pretrained(tmp_path)
    again = BigVgan.from_pretrained(tmp_path)
    assert again.sizes == made.sizes
    with torch.no_grad():
        assert torch.equal(again(given), made(given))


def test_weight_norm_comes_and_goes():
    made, given = vocoder(), log_mel(3)
    plain = made.state_dict()
    with torch.no_grad():
        before = made(given)
        made.apply_weight_norm()
        during = made(given)
    named = {
        k.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): v
        for k, v in made.state_dict().items()
    }
    assert named["ups.0.0.weight_g"].shape == (16, 1, 1)  # a length per input, as official
    made.remove_weight_norm()
    made.remove_weight_norm()
    torch.testing.assert_close(during, before, rtol=1e-4, atol=1e-6)
    for found in (made.state_dict(), fold_weight_norm(named), fold_weight_norm(plain)):
        assert found.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value)


def test_half_a_weight_norm_is_an_error():
    with pytest.raises(KeyError, match=r"half of a weight norm is missing, got a\.weight_g alone"):
        fold_weight_norm({"a.weight_g": torch.ones(1, 1)})


def test_official_config_is_read():
    sizes = VocoderConfig.from_official(OFFICIAL)
    assert sizes == VocoderConfig(6, (3,), (7,), 10, (3,), ((1, 3),))
    other = OFFICIAL | {"resblock": "2", "activation": "snake", "snake_logscale": False}
    names = BigVgan(VocoderConfig.from_official(other)).state_dict()
    assert "resblocks.0.convs.1.weight" in names
    assert not any(name.endswith("beta") or "convs1" in name for name in names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "relu"}, "unknown activation 'relu'; expected 'snake' or 'snakebeta'"),
        ({"upsample_rates": [3, 2]}, "must list the same stages, got .3, 2. and .7,."),
        ({"upsample_kernel_sizes": [2]}, "a kernel is shorter than its rate, got kernels .2,."),
        ({"resblock_kernel_sizes": [3, 5]}, "must list the same blocks, got .3, 5."),
        ({"resblock_kernel_sizes": [4]}, "block_kernels must be odd to keep the length, got .4,."),
        ({"upsample_initial_channel": 1}, "channels must be at least 2 for 1 stages, got 1"),
    ],
)
def test_official_config_that_cannot_be(change, message):
    with pytest.raises(ValueError, match=message):
        VocoderConfig.from_official(OFFICIAL | change)


def test_official_config_that_lacks_a_size():
    config = {name: value for name, value in OFFICIAL.items() if name != "num_mels"}
    with pytest.raises(ValueError, match=r"vocoder config lacks \['num_mels'\]"):
        VocoderConfig.from_official(config)


@pytest.mark.parametrize("shape", [(6, 4), (1, 4, 6), (1, 6, 0)])
def test_wrong_shapes_are_errors(shape):
    made = vocoder()
    for call in (made, made.raw, lambda x: made.chunked(x, 2)):
        with pytest.raises(ValueError, match=r"log_mel must have shape \(batch, 6, frames\), got"):
            call(torch.zeros(shape))


def test_chunks_need_a_frame():
    with pytest.raises(ValueError, match="frames must be at least 1, got 0"):
        vocoder().chunked(log_mel(3), 0)
