"""Text as the states of a frozen encoder: FLAN-T5, a sentence encoder, any in transformers."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from rectiflow.conditioning.cache import EmbeddingCache
from rectiflow.conditioning.minilm import find_minilm
from rectiflow.conditioning.t5 import t5_encoder
from rectiflow.storage.pretrained import weights_hash

if TYPE_CHECKING:
    from jaxtyping import Float

CHUNK = 32  # texts in one call of the network
MINILM = "minilm"
# AutoModel would run their decoders too.
T5_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}


@dataclass(frozen=True)
class TextEmbedding:
    """States of a batch of texts.

    Attributes
    ----------
    states : Tensor, shape (b, n, d)
        One state a token, or a single one a text; float32.
    mask : Tensor, shape (b, n)
        1 where a state counts, 0 where it pads; float32.
    """

    states: Float[Tensor, "b n d"]
    mask: Float[Tensor, "b n"]

    def __len__(self) -> int:
        return len(self.states)

    def to(self, device: torch.device | str) -> TextEmbedding:
        """Return the embedding on a device."""
        return TextEmbedding(self.states.to(device), self.mask.to(device))


class TextEncoder:
    """A frozen text encoder with its tokeniser; float32 whatever the autocast.

    Not a module on purpose: its weights belong in nobody's checkpoint.

    Parameters
    ----------
    model : nn.Module of transformers
        Called with ``input_ids`` and ``attention_mask``; returns ``last_hidden_state``.
    tokenizer : transformers tokeniser
        With a padding token.
    max_tokens : int
        Longest text, special tokens included. Without pooling every text is padded to it.
    pooled : bool
        One state a text: the mean over its tokens, of unit length.
    cache : Path, optional
        Folder where embeddings are kept, by text and :attr:`hash`.

    Notes
    -----
    States at padding are those of the network, as in the official FlowSep; the mask hides them.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_tokens: int = 50,
        pooled: bool = False,
        cache: Path | str | None = None,
    ) -> None:
        if tokenizer.pad_token is None:
            raise ValueError(
                "the tokeniser has no padding token, got pad_token=None; expected one. Set "
                "tokenizer.pad_token."
            )
        limit = getattr(model.config, "max_position_embeddings", None)
        if max_tokens < 1 or (limit is not None and max_tokens > limit):
            rule = "at least 1" if limit is None else f"1 to {limit}, the positions of the model"
            raise ValueError(f"max_tokens is out of range, got {max_tokens}; expected {rule}.")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.max_tokens, self.pooled = max_tokens, pooled
        self._cache_folder = cache

    @classmethod
    def load(
        cls,
        name_or_path: Path | str = MINILM,
        *,
        max_tokens: int = 50,
        pooled: bool | None = None,
        device: torch.device | str = "cpu",
        cache: Path | str | None = None,
    ) -> Self:
        """Load an encoder; needs the extra ``text``.

        Parameters
        ----------
        name_or_path : Path or str
            ``"minilm"``, the all-MiniLM-L6-v2 that comes with the extra; a folder; or a name on
            the Hugging Face hub such as ``"google/flan-t5-large"``, looked up in the user's cache
            first.
        max_tokens : int
            Longest text, special tokens included.
        pooled : bool, optional
            One state a text instead of one a token. By default as the model was trained: for
            ``"minilm"`` only.
        device : device or str
            Where the encoder runs and its embeddings lie.
        cache : Path, optional
            Folder where embeddings are kept.

        Raises
        ------
        ImportError
            When the extra is not installed.
        FileNotFoundError
            When there is no such encoder.
        CheckpointError
            When ``"minilm"`` is not the published one.
        """
        transformers = _transformers()
        is_minilm = name_or_path == MINILM
        source = str(find_minilm() if is_minilm else name_or_path)
        with _described(source):
            config = transformers.AutoConfig.from_pretrained(source)
        kind = T5_ENCODERS.get(config.model_type, "AutoModel")
        if kind == "AutoModel" and config.is_encoder_decoder:
            raise ValueError(
                f"{source} gives no states of a text, got an encoder-decoder of type "
                f"{config.model_type!r}; expected an encoder, or one of {sorted(T5_ENCODERS)}."
            )
        with _described(source), _quiet(Path(source).is_dir()):
            # The dtype is given: since version 5 the default is that of the file.
            model = getattr(transformers, kind).from_pretrained(source, dtype=torch.float32)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        return cls(
            model.to(device),
            tokenizer,
            max_tokens=max_tokens,
            pooled=is_minilm if pooled is None else pooled,
            cache=cache,
        )

    @classmethod
    def from_state(
        cls,
        tensors: Mapping[str, Tensor],
        *,
        tokenizer: Path | str = "google/flan-t5-large",
        max_tokens: int = 50,
        device: torch.device | str = "cpu",
        cache: Path | str | None = None,
    ) -> Self:
        """Make the T5 encoder whose weights lie inside another checkpoint.

        Parameters
        ----------
        tensors : mapping of str to Tensor
            By the names of ``T5EncoderModel``; all sizes are taken from the shapes. One of the two
            names of the embedding table may be missing.
        tokenizer : Path or str
            Folder or name on the hub; its words must be those the encoder was trained with.
        max_tokens, device, cache
            As in :meth:`load`.

        Raises
        ------
        FileNotFoundError
            When there is no such tokeniser.
        CheckpointError
            When the tensors are not those of a T5 encoder.
        """
        transformers = _transformers()
        model: Any = t5_encoder(tensors)
        with _described(str(tokenizer)):
            words = transformers.AutoTokenizer.from_pretrained(str(tokenizer))
        return cls(model.to(device), words, max_tokens=max_tokens, cache=cache)

    @property
    def width(self) -> int:
        """Channels of a state."""
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        """Where the encoder runs and its embeddings lie."""
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> Self:
        """Move the encoder."""
        self.model.to(device)
        return self

    @cached_property
    def hash(self) -> str:
        """SHA-256 of weights, tokeniser and settings: what an embedding depends on."""
        words = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for set_by_a_call in ("padding", "truncation"):
            words.pop(set_by_a_call, None)
        settings = {"max_tokens": self.max_tokens, "pooled": self.pooled}
        # BERT's own pooler is not used, and drawn at random where a file does not have it.
        state = self.model.state_dict()
        used = {name: state[name] for name in state if not name.startswith("pooler.")}
        parts = [weights_hash(used), json.dumps([words, settings], sort_keys=True)]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def encode(self, texts: Sequence[str], *, truncate: bool = False) -> TextEmbedding:
        """Return the states of texts, which are not cleaned or lower-cased.

        Parameters
        ----------
        texts : sequence of str
            At least one, none empty.
        truncate : bool
            Keep the first ``max_tokens`` of longer texts instead of refusing them.

        Raises
        ------
        ValueError
            When a text is empty or has too many tokens; the message names their number.
        """
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts must be a list of at least one text, got {texts!r}.")
        for text in texts:
            if not text.strip():
                raise ValueError(
                    f"a text is empty, got {text!r}; expected words. The embedding without a text "
                    "is null(batch)."
                )
        if not truncate:
            self._refuse_long(texts)
        found = self._lookup(dict.fromkeys(texts))
        states, masks = zip(*(found[text] for text in texts), strict=True)
        return TextEmbedding(torch.stack(states), torch.stack(masks))

    def null(self, batch: int) -> TextEmbedding:
        """Return the embedding without a text, repeated.

        It is that of the empty text with a mask of all ones, so that padding is attended to,
        unlike the padding of a text: the asymmetry of the official FlowSep.
        """
        states = self._null.to(self.device).expand(batch, -1, -1)
        return TextEmbedding(states, torch.ones(states.shape[:2], device=self.device))

    @cached_property
    def _null(self) -> Float[Tensor, "1 n d"]:
        return self._run([""])[0]

    def _refuse_long(self, texts: Sequence[str]) -> None:
        for text, ids in zip(texts, self.tokenizer(list(texts))["input_ids"], strict=True):
            if len(ids) > self.max_tokens:
                shown = text if len(text) <= 60 else f"{text[:57]}..."
                raise ValueError(
                    f"the text has {len(ids)} tokens, got {shown!r}; expected at most "
                    f"{self.max_tokens}. Shorten it, or pass truncate=True to keep its beginning."
                )

    def _lookup(self, texts: Mapping[str, None]) -> dict[str, tuple[Tensor, Tensor]]:
        """Find or make the (states, mask) of each distinct text."""
        folder = self._cache_folder
        cache = None if folder is None else EmbeddingCache(folder, self.hash)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for text in texts:
            if cache is not None and (stored := cache.read(text)):
                found[text] = stored["states"].to(self.device), stored["mask"].to(self.device)
        absent = [text for text in texts if text not in found]
        for start in range(0, len(absent), CHUNK):
            chunk = absent[start : start + CHUNK]
            for text, states, mask in zip(chunk, *self._run(chunk), strict=True):
                found[text] = states, mask
                if cache is not None:
                    cache.write(text, {"states": states, "mask": mask})
        return found

    @torch.no_grad()
    def _run(self, texts: list[str]) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n"]]:
        tokens = self.tokenizer(
            texts,
            max_length=self.max_tokens,
            truncation=True,
            padding="longest" if self.pooled else "max_length",
            return_tensors="pt",
        ).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            states = self.model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).last_hidden_state.float()
        mask = tokens["attention_mask"].float()
        if not self.pooled:
            return states, mask
        pooled = mean_over_tokens(states, mask)
        return pooled[:, None], torch.ones_like(mask[:, :1])


def mean_over_tokens(
    states: Float[Tensor, "b n d"], mask: Float[Tensor, "b n"]
) -> Float[Tensor, "b d"]:
    """Return the mean state of the tokens that count, scaled to unit length.

    References
    ----------
    Reimers and Gurevych, "Sentence-BERT" (EMNLP 2019), with the normalisation that
    all-MiniLM-L6-v2 lists as its last module.
    """
    total = (states * mask[..., None]).sum(1)
    return F.normalize(total / mask.sum(1, keepdim=True).clamp(min=1e-9), dim=-1)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "text encoders need the package transformers, got none; expected the extra 'text'. "
            "Install it with pip install 'rectiflow[text]'.",
            name="transformers",
        ) from error
    return transformers


@contextlib.contextmanager
def _described(source: str) -> Iterator[None]:
    """Turn what transformers raises for a wrong name into one plain error."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"no text encoder or tokeniser at {source!r} ({reason}); expected {MINILM!r}, a "
            "folder, or owner/name on the hub. Download it once, or give its folder."
        ) from error


@contextlib.contextmanager
def _quiet(is_local: bool) -> Iterator[None]:
    """Hide the progress bar of a read from disk; that of a download is worth seeing."""
    from transformers.utils import logging

    hide = is_local and logging.is_progress_bar_enabled()
    if hide:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            logging.enable_progress_bar()
