"""The image encoder of TripoSG: DINOv2, as transformers has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rectiflow import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float


class ImageEncoder(Pretrained, nn.Module):
    """States of an image's patches, the class token first; needs the extra ``image``.

    Parameters
    ----------
    config : mapping
        What ``transformers.Dinov2Config`` takes; by default it is the large model's.
    """

    def __init__(self, config: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        try:
            from transformers import Dinov2Config, Dinov2Model
        except ImportError as error:
            raise ImportError(
                "images need transformers, got none installed; expected the extra 'image'. "
                "Install it with pip install 'rectiflow-shape[image]'."
            ) from error
        self.model = Dinov2Model(Dinov2Config(**(LARGE if config is None else config)))

    @property
    def width(self) -> int:
        """Return the width of a state."""
        return int(self.model.config.hidden_size)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        """Return the states after the last norm, of what :func:`rectiflow_shape.io.pixels` made."""
        found: Tensor = self.model(image).last_hidden_state
        return found


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 518}
"""``facebook/dinov2-large``."""
