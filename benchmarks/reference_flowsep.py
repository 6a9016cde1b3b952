"""FlowSep's networks as a textbook writes them: the yardstick of ``audio_separation.py``.

Channels come first, attention makes its whole matrix of weights, keys of the text are made anew in
every call, activations are tensors of their own, and the vocoder's filters run over the doubled
signal. Tensors have the names of our networks, so that one state dict serves both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from rectiflow_audio.networks import UNetConfig, VaeConfig
from rectiflow_audio.networks.vocoder import VocoderConfig
from torch import Tensor, nn


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, groups: int, eps: float, time: int = 0) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inputs, eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        if time:
            self.time_emb_proj = nn.Linear(time, outputs)
        self.norm2 = nn.GroupNorm(groups, outputs, eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.conv_shortcut = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        h = self.conv1(swish(self.norm1(x)))
        if embedding is not None:
            h = h + self.time_emb_proj(swish(embedding))[:, :, None, None]
        h = self.conv2(swish(self.norm2(h)))
        return (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x) + h


class Down(nn.Module):
    def __init__(self, channels: int, centred: bool) -> None:
        super().__init__()
        self.pad = (1, 1, 1, 1) if centred else (0, 1, 0, 1)
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.pad))


class Up(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class Level(nn.Module):
    def __init__(self, resnets: Sequence, attentions: Sequence, down=None, up=None) -> None:
        super().__init__()
        self.resnets, self.attentions = nn.ModuleList(resnets), nn.ModuleList(attentions)
        self.downsamplers = nn.ModuleList([down] if down else [])
        self.upsamplers = nn.ModuleList([up] if up else [])


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, source: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(source or width, width, bias=False)
        self.to_v = nn.Linear(source or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None):
        source = x if context is None else context
        b, n, c = x.shape
        q, k, v = (
            part.reshape(b, -1, self.heads, c // self.heads)
            for part in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        scores = torch.einsum("bihc,bjhc->bhij", q, k) * (c // self.heads) ** -0.5
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None] != 1, -torch.finfo(x.dtype).max)
        out = torch.einsum("bhij,bjhc->bihc", scores.softmax(dim=-1), v)
        return self.to_out[0](out.reshape(b, n, c))


class Gated(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class Features(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gated(width), nn.Dropout(0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, source: int | None) -> None:
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attn1 = Attention(width, heads)
        self.attn2 = Attention(width, heads, source)
        self.ff = Features(width)

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context, mask)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, width: int, heads: int, c: UNetConfig, reads_text: bool) -> None:
        super().__init__()
        self.reads_text = reads_text
        source = c.context_channels if reads_text else None
        self.norm = nn.GroupNorm(c.groups, width, 1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList(Block(width, heads, source) for _ in range(c.depth))
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.proj_in(self.norm(x)).reshape(b, c, height * width).transpose(1, 2).contiguous()
        for block in self.transformer_blocks:
            h = block(h, context, mask) if self.reads_text else block(h, None, None)
        return self.proj_out(h.transpose(1, 2).reshape(b, c, height, width)) + x


class TimeEmbedding(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear_1 = nn.Linear(channels, 4 * channels)
        self.linear_2 = nn.Linear(4 * channels, 4 * channels)

    def forward(self, t: Tensor) -> Tensor:
        half = self.channels // 2
        frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
        angle = t[:, None] * frequency
        return self.linear_2(swish(self.linear_1(torch.cat([angle.cos(), angle.sin()], dim=-1))))


class ReferenceUNet(nn.Module):
    def __init__(self, c: UNetConfig) -> None:
        super().__init__()
        self.sizes, time = c, 4 * c.channels
        widths = [c.channels * m for m in c.multipliers]
        last = len(widths) - 1

        def attentions(level: int, count: int) -> list[nn.Module]:
            pairs = range(count if c.attention[level] else 0)
            heads = c.heads_at(level)
            return [Transformer(widths[level], heads, c, x) for _ in pairs for x in (False, True)]

        self.time_embedding = TimeEmbedding(c.channels)
        self.conv_in = nn.Conv2d(2 * c.latent_channels, widths[0], 3, padding=1)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips, h = [widths[0]], widths[0]
        for i, width in enumerate(widths):
            resnets = []
            for _ in range(c.blocks):
                resnets.append(Residual(h, width, c.groups, 1e-5, time))
                h = width
                skips.append(h)
            down = Down(width, centred=True) if i < last else None
            skips += [width] if down else []
            self.down_blocks.append(Level(resnets, attentions(i, c.blocks), down=down))
        pair = [Residual(h, h, c.groups, 1e-5, time) for _ in range(2)]
        middle = [Transformer(h, c.heads_at(last), c, x) for x in (False, True)]
        self.mid_block = Level(pair, middle)
        for i in reversed(range(len(widths))):
            resnets = []
            for _ in range(c.blocks + 1):
                resnets.append(Residual(h + skips.pop(), widths[i], c.groups, 1e-5, time))
                h = widths[i]
            up = Up(h) if i else None
            self.up_blocks.append(Level(resnets, attentions(i, c.blocks + 1), up=up))
        self.conv_norm_out = nn.GroupNorm(c.groups, h, 1e-5)
        self.conv_out = nn.Conv2d(h, c.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, mixture: Tensor, context: Tensor, mask: Tensor):
        embedding = self.time_embedding(t)
        h = self.conv_in(torch.cat([x, mixture], dim=1))
        skips = [h]
        for level in self.down_blocks:
            for j, resnet in enumerate(level.resnets):
                h = resnet(h, embedding)
                for transformer in level.attentions[2 * j : 2 * j + 2]:
                    h = transformer(h, context, mask)
                skips.append(h)
            for down in level.downsamplers:
                h = down(h)
                skips.append(h)
        h = self.mid_block.resnets[0](h, embedding)
        for transformer in self.mid_block.attentions:
            h = transformer(h, context, mask)
        h = self.mid_block.resnets[1](h, embedding)
        for level in self.up_blocks:
            for j, resnet in enumerate(level.resnets):
                h = resnet(torch.cat([h, skips.pop()], dim=1), embedding)
                for transformer in level.attentions[2 * j : 2 * j + 2]:
                    h = transformer(h, context, mask)
            for up in level.upsamplers:
                h = up(h)
        return self.conv_out(swish(self.conv_norm_out(h)))[:, : self.sizes.latent_channels]


class PixelAttention(nn.Module):
    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, 1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(channels, channels) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        h = self.group_norm(x).reshape(b, c, height * width).transpose(1, 2).contiguous()
        weights = torch.einsum("bic,bjc->bij", self.to_q(h), self.to_k(h)) * c**-0.5
        h = self.to_out[0](torch.einsum("bij,bjc->bic", weights.softmax(dim=-1), self.to_v(h)))
        return x + h.transpose(1, 2).reshape(b, c, height, width)


class Coder(nn.Module):
    """Encoder or decoder of the autoencoder."""

    def __init__(self, c: VaeConfig, ends: tuple[int, int], encodes: bool) -> None:
        super().__init__()
        self.encodes = encodes
        widths = [c.channels * m for m in c.multipliers]
        order, change, last = list(enumerate(widths)), "down", len(widths) - 1
        if not encodes:
            order, change = order[::-1], "up"
        h, levels = order[0][1], []
        self.conv_in = nn.Conv2d(ends[0], h, 3, padding=1)
        for i, width in order:
            resnets = []
            for _ in range(c.blocks + (not encodes)):
                resnets.append(Residual(h, width, c.groups, 1e-6))
                h = width
            between = i < last if encodes else i > 0
            module = (Down(width, centred=False) if encodes else Up(width)) if between else None
            levels.append(Level(resnets, [], **{change: module}))
        self.add_module(f"{change}_blocks", nn.ModuleList(levels))
        middle = widths[-1]
        pair = [Residual(middle, middle, c.groups, 1e-6) for _ in range(2)]
        self.mid_block = Level(pair, [PixelAttention(middle, c.groups)])
        self.conv_norm_out = nn.GroupNorm(c.groups, h, 1e-6)
        self.conv_out = nn.Conv2d(h, ends[1], 3, padding=1)

    def middle(self, h: Tensor) -> Tensor:
        first, second = self.mid_block.resnets
        return second(self.mid_block.attentions[0](first(h)))

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        if not self.encodes:
            h = self.middle(h)
        for level in self.down_blocks if self.encodes else self.up_blocks:
            for part in (*level.resnets, *level.downsamplers, *level.upsamplers):
                h = part(h)
        if self.encodes:
            h = self.middle(h)
        return self.conv_out(swish(self.conv_norm_out(h)))


class ReferenceVae(nn.Module):
    def __init__(self, c: VaeConfig) -> None:
        super().__init__()
        latent = c.latent_channels
        self.encoder = Coder(c, (1, 2 * latent), encodes=True)
        self.decoder = Coder(c, (latent, 1), encodes=False)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)

    def encode(self, log_mel: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(log_mel)).chunk(2, dim=1)[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(self.post_quant_conv(z))


class Taps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("filter", torch.zeros(1, 1, 12))


class Activation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.act, self.upsample, self.downsample = nn.Module(), Taps(), nn.Module()
        self.act.alpha = nn.Parameter(torch.zeros(channels))
        self.act.beta = nn.Parameter(torch.zeros(channels))
        self.downsample.lowpass = Taps()

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        x = F.pad(x, (5, 5), mode="replicate")
        above = self.upsample.filter.expand(c, -1, -1)
        x = 2 * F.conv_transpose1d(x, above, stride=2, groups=c)[..., 15:-15]
        alpha, beta = self.act.alpha.exp()[:, None], self.act.beta.exp()[:, None]
        x = x + (1 / (beta + 1e-9)) * torch.sin(x * alpha) ** 2
        x = F.pad(x, (5, 6), mode="replicate")
        return F.conv1d(x, self.downsample.lowpass.filter.expand(c, -1, -1), stride=2, groups=c)


class Amp(nn.Module):
    def __init__(self, channels: int, kernel: int, dilations: Sequence[int]) -> None:
        super().__init__()

        def conv(dilation: int) -> nn.Module:
            reach = dilation * (kernel - 1) // 2
            return nn.Conv1d(channels, channels, kernel, padding=reach, dilation=dilation)

        self.convs1 = nn.ModuleList(conv(d) for d in dilations)
        self.convs2 = nn.ModuleList(conv(1) for _ in dilations)
        self.activations = nn.ModuleList(Activation(channels) for _ in range(2 * len(dilations)))

    def forward(self, x: Tensor) -> Tensor:
        before, between = self.activations[::2], self.activations[1::2]
        for a1, conv1, a2, conv2 in zip(before, self.convs1, between, self.convs2, strict=True):
            x = x + conv2(a2(conv1(a1(x))))
        return x


class ReferenceVocoder(nn.Module):
    def __init__(self, c: VocoderConfig) -> None:
        super().__init__()
        self.conv_pre = nn.Conv1d(c.n_mels, c.channels, 7, padding=3)
        self.ups, self.resblocks, width = nn.ModuleList(), nn.ModuleList(), c.channels
        for rate, kernel in zip(c.rates, c.kernels, strict=True):
            cut = (kernel - rate) // 2
            up = nn.ConvTranspose1d(width, width // 2, kernel, stride=rate, padding=cut)
            self.ups.append(nn.ModuleList([up]))
            width //= 2
            blocks = zip(c.block_kernels, c.dilations, strict=True)
            self.resblocks.extend(Amp(width, kernel, dilations) for kernel, dilations in blocks)
        self.activation_post = Activation(width)
        self.conv_post = nn.Conv1d(width, 1, 7, padding=3)

    def forward(self, log_mel: Tensor) -> Tensor:
        x, count = self.conv_pre(log_mel), len(self.resblocks) // len(self.ups)
        for i, (up,) in enumerate(self.ups):
            x = up(x)
            x = sum(self.resblocks[count * i + j](x) for j in range(count)) / count
        return torch.tanh(self.conv_post(self.activation_post(x)))[:, 0]
