"""Words as tokens that a flow attends to: RoBERTa, which the authors train along with the flow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from rectiflow.storage.pretrained import Pretrained
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Bool, Float

TOKENIZER = "roberta-base"
"""Whose words the released weights know: a name on the hub, or a folder."""

_HEAD = 64
"""Channels of a head of attention in every published RoBERTa."""


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the encoder; the defaults are those of ``roberta-base`` (124 M parameters).

    Parameters
    ----------
    vocabulary, positions, kinds : int
        Rows of the tables: of tokens, of places (two more than a text may have), of segments.
    width, depth, inner : int
        Channels of a token, layers, channels between the two maps of a layer.
    words : int
        Bytes of the tokeniser, which is kept beside the weights.
    """

    vocabulary: int = 50265
    positions: int = 514
    kinds: int = 1
    width: int = 768
    depth: int = 12
    inner: int = 3072
    words: int = 0

    def __post_init__(self) -> None:
        if self.width % _HEAD:
            raise ValueError(f"width must be a multiple of {_HEAD}, got {self.width}.")


class TextConditioner(Pretrained, nn.Module):
    """Turn texts into the last states of a RoBERTa's tokens.

    Weights and tokeniser are one: a checkpoint needs no file of another place.

    Parameters
    ----------
    sizes : TextConfig, optional
        Those of ``roberta-base`` if absent.

    References
    ----------
    Liu et al., "RoBERTa" (arXiv 1907.11692); Zhou et al., Text2PDE (arXiv 2410.01153).
    """

    def __init__(self, sizes: TextConfig | None = None) -> None:
        from transformers import RobertaConfig, RobertaModel

        super().__init__()
        self.sizes = c = sizes or TextConfig()
        config = RobertaConfig(
            vocab_size=c.vocabulary,
            max_position_embeddings=c.positions,
            type_vocab_size=c.kinds,
            hidden_size=c.width,
            num_hidden_layers=c.depth,
            num_attention_heads=c.width // _HEAD,
            intermediate_size=c.inner,
            layer_norm_eps=1e-5,
        )
        self.roberta: Any = RobertaModel(config, add_pooling_layer=False)
        self.words: Tensor
        self.register_buffer("words", torch.zeros(c.words, dtype=torch.uint8))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Make an encoder from the configuration in ``config.json``."""
        return cls(None if config["sizes"] is None else TextConfig(**config["sizes"]))

    def forward(self, texts: Sequence[str]) -> tuple[Float[Tensor, "b m c"], Bool[Tensor, "b m"]]:
        """Return the states of the tokens, and which of them count.

        Raises
        ------
        ValueError
            If a text has more tokens than the encoder has places.
        """
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(bytes(self.words.tolist()).decode())
        found = [tokenizer.encode(text).ids for text in texts]
        longest, most = max(map(len, found)), self.sizes.positions - 2
        if longest > most:
            raise ValueError(
                f"the text has {longest} tokens; expected at most {most}. Shorten the prompt."
            )
        ids = torch.full((len(found), longest), self.roberta.config.pad_token_id)
        for row, own in zip(ids, found, strict=True):
            row[: len(own)] = torch.tensor(own)
        counts = torch.tensor([len(own) for own in found])
        mask = (torch.arange(longest) < counts[:, None]).to(self.words.device)
        states = self.roberta(input_ids=ids.to(mask.device), attention_mask=mask.long())
        return states.last_hidden_state, mask


def tokenizer_bytes(source: Path | str) -> Tensor:
    """Read a tokeniser, from a folder or by its name on the hub, as the bytes of its JSON.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    from transformers import AutoTokenizer

    try:
        found: Any = AutoTokenizer.from_pretrained(str(source))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no tokeniser at {str(source)!r} ({str(error).strip().splitlines()[0]}); expected a "
            "folder, or a name on the hub. Download roberta-base once, and add --tokenizer FOLDER."
        ) from error
    words = found.backend_tokenizer
    words.no_padding()
    words.no_truncation()
    return torch.frombuffer(bytearray(words.to_str().encode()), dtype=torch.uint8)
