"""Perceptual distance of spectrograms, seen as pictures by a network that was trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch
from rectiflow.storage.tensor_files import CheckpointError, load_tensors
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

# Convolutions of VGG-16 by the picture's size; a feature is taken at the end of each group.
_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Mean and spread of ImageNet's colours, for pictures in [-1, 1].
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_PREFIXES = ("", "loss.perceptual_loss.", "first_stage_model.loss.perceptual_loss.")


class Lpips(nn.Module):
    r"""Learnt perceptual distance (LPIPS) over VGG-16 features.

    With :math:`\hat y_l` the features of layer l, of unit length over channels,

    .. math:: d(x, y) = \sum_l \frac{1}{H_l W_l} \sum_{hw} w_l \cdot
        \left( \hat x_{lhw} - \hat y_{lhw} \right)^2 .

    It is never trained here: its parameters are frozen, and there is no dropout.

    Notes
    -----
    Both sides of a picture must be at least 16. Spectrograms have one channel, which stands for
    all three colours; values are not brought to [-1, 1], as in the authors' training. Fresh
    weights are random: use :meth:`load`.

    References
    ----------
    Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric"
    (CVPR 2018), equation 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scaling_layer = _Scaling()
        self.net = _Features()
        for index, channels in enumerate(_CHANNELS):
            self.add_module(f"lin{index}", _Weighting(channels[-1]))
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the weights from the authors' VAE or full checkpoint, or from a file of their own.

        Raises
        ------
        CheckpointError
            When the file holds no such weights, or not all of them.
        """
        tensors = load_tensors(path)
        lpips = cls()
        expected = lpips.state_dict()
        prefix = max(_PREFIXES, key=lambda each: sum(each + name in tensors for name in expected))
        missing = [name for name in expected if prefix + name not in tensors]
        if missing:
            raise CheckpointError(
                path,
                f"lacks {len(missing)} of {len(expected)} tensors of LPIPS, such as "
                f"{prefix + missing[0]!r}; expected the authors' vae.ckpt or a file of LPIPS",
                missing=missing,
            )
        lpips.load_state_dict({name: tensors[prefix + name] for name in expected})
        return lpips

    def forward(
        self, x: Float[Tensor, "b c h w"], y: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, " b"]:
        """Return the distance of each pair of pictures, of 1 or 3 channels."""
        if x.shape != y.shape or x.shape[1] not in (1, 3) or min(x.shape[2:]) < 16:
            raise ValueError(
                f"pictures must have one shape (b, 1 or 3, h, w) with sides of at least 16, got "
                f"{tuple(x.shape)} and {tuple(y.shape)}."
            )
        both = self.net(self.scaling_layer(torch.cat([x, y])))
        total = x.new_zeros(len(x))
        for index, features in enumerate(both):
            first, second = _unit(features).chunk(2)
            weighting = getattr(self, f"lin{index}")
            total = total + weighting((first - second).square()).mean(dim=(1, 2, 3))
        return total


class _Scaling(nn.Module):
    """Standardise the colours."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(_SHIFT)[None, :, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.shift) / self.scale


class _Features(nn.Module):
    """The convolutions of VGG-16 in five slices, layers numbered as in torchvision's network."""

    def __init__(self) -> None:
        super().__init__()
        number, width = 0, 3
        for index, channels in enumerate(_CHANNELS, start=1):
            part = nn.Sequential()
            if index > 1:
                part.add_module(str(number), nn.MaxPool2d(2))
                number += 1
            for wide in channels:
                part.add_module(str(number), nn.Conv2d(width, wide, 3, padding=1))
                part.add_module(str(number + 1), nn.ReLU())
                number, width = number + 2, wide
            self.add_module(f"slice{index}", part)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for part in self.children():
            x = part(x)
            found.append(x)
        return found


class _Weighting(nn.Module):
    """One weight per channel; position 0 of the authors' network is a dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Identity(), nn.Conv2d(channels, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


def _unit(x: Tensor) -> Tensor:
    """Scale to unit length over channels; where all are zero, the gradient is zero too."""
    return x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10)
