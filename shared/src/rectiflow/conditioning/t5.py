"""The T5 encoder of a bare state dict."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from rectiflow.storage.pretrained import load_strict
from rectiflow.storage.tensor_files import CheckpointError

if TYPE_CHECKING:
    from transformers import T5Config, T5EncoderModel

ORIGIN = "the T5 encoder"
TABLES = ("shared.weight", "encoder.embed_tokens.weight")  # one tensor under two names
BLOCK = "encoder.block.0.layer"
TELLING = {
    "table": TABLES[0],
    "bias": f"{BLOCK}.0.SelfAttention.relative_attention_bias.weight",
    "query": f"{BLOCK}.0.SelfAttention.q.weight",
    "inner": f"{BLOCK}.1.DenseReluDense.wo.weight",
}


def t5_encoder(tensors: Mapping[str, Tensor]) -> T5EncoderModel:
    """Make the encoder that a state dict is of.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        By the names of ``T5EncoderModel``; one of the two names of the embedding table may be
        missing.

    Raises
    ------
    CheckpointError
        When they are not the tensors of a T5 encoder.
    """
    from transformers import T5EncoderModel

    state = dict(tensors)
    for name, twin in (TABLES, TABLES[::-1]):
        if name not in state and twin in state:
            state[name] = state[twin]
    model = T5EncoderModel(_sizes(state))
    load_strict(model, state, ORIGIN)
    return model


def _sizes(state: Mapping[str, Tensor]) -> T5Config:
    """Read the sizes off the shapes; what no tensor tells is T5's default."""
    from transformers import T5Config

    absent = [name for name in TELLING.values() if name not in state]
    if absent:
        raise CheckpointError(
            ORIGIN,
            f"has other names, got {sorted(state)[:4]}; expected those of T5EncoderModel, without "
            "a prefix",
            missing=absent,
        )
    table, bias, query, inner = (state[name] for name in TELLING.values())
    blocks = {int(m[1]) for name in state if (m := re.match(r"encoder\.block\.(\d+)\.", name))}
    buckets, heads = bias.shape
    is_gated = f"{BLOCK}.1.DenseReluDense.wi_0.weight" in state
    return T5Config(
        vocab_size=table.shape[0],
        d_model=table.shape[1],
        d_kv=query.shape[0] // heads,
        d_ff=inner.shape[1],
        num_layers=len(blocks),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
        feed_forward_proj="gated-gelu" if is_gated else "relu",
    )
