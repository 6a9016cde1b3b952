"""What a flow is told: text, as the states of a frozen encoder."""

from rectiflow.conditioning.text import TextEmbedding, TextEncoder

__all__ = ["TextEmbedding", "TextEncoder"]
