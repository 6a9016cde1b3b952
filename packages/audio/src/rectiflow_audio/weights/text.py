"""The text encoder, which is frozen and only kept."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rectiflow_audio.weights.accounting import Check


def text_state(tensors: Mapping[str, Tensor], checks: list[Check]) -> dict[str, Tensor]:
    """Return a T5 encoder's tensors; of its two names for one table, a file may lack one."""
    tables = ("shared.weight", "encoder.embed_tokens.weight")
    state = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    present = [name for name in tables if name in state]
    if present:
        for name in tables:
            state.setdefault(name, state[present[0]])
    layers = {name.split(".")[2] for name in state if name.startswith("encoder.block.")}
    known = {*tables, "encoder.final_layer_norm.weight"}
    known.add("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    known |= {f"encoder.block.{i}.{part}.weight" for i in layers for part in _T5_LAYER}
    checks.append(Check("text encoder", sorted(known - set(state)), sorted(set(state) - known)))
    return state


_T5_LAYER = (
    *(f"layer.0.SelfAttention.{part}" for part in "qkvo"),
    "layer.0.layer_norm",
    *(f"layer.1.DenseReluDense.{part}" for part in ("wi_0", "wi_1", "wo")),
    "layer.1.layer_norm",
)
