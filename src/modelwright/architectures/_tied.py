"""Which tensors are one tensor under two names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HEAD = re.compile(
    r"(^|[./])(lm_head|embed_out|proj_out|cls\.predictions\.decoder|lm_head\.decoder|output_projection|vocab_projector|"
    r"generator_lm_head|lm_loss|pred_layer\.proj|predictions\.decoder|decoder)\.weight$"
)
_EMBEDDING = re.compile(
    r"(^|[./])(embed_tokens|wte|word_embeddings?|embed_in|shared|tok_embeddings|word_embedding|embeddings|"
    r"tokens_embed|w)\.weight$"
)
#: Copies of `shared.weight` in encoder-decoder models.
_COPY = re.compile(r"(^|[./])(encoder|decoder)\.(embed_tokens|word_embeddings?)\.weight$")


def ties_embeddings(config: Mapping[str, Any] | None) -> bool:
    """Whether a configuration allows input and output embeddings to be one tensor; only an explicit false forbids it."""
    if config is None:
        return False
    levels = [config, *(config.get(key) for key in ("text_config", "llm_config", "language_config"))]
    stated = [
        level["tie_word_embeddings"]
        for level in levels
        if isinstance(level, Mapping) and "tie_word_embeddings" in level
    ]
    return all(stated) if stated else True


def tie_source(name: str, shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...] | None = None) -> str | None:
    """The tensor that `name` would be another name of, if the model's embeddings are tied.

    Args:
        name: A head such as `lm_head.weight`, or a copy such as `encoder.embed_tokens.weight`.
        shapes: The shapes of the model's tensors.
        shape: The shape wanted; default the shape of `name` itself in the model.

    Returns:
        The input embedding of that shape, or None.
    """
    if not (_HEAD.search(name) or _COPY.search(name)):
        return None
    wanted = shape or shapes.get(name)
    found = [key for key in shapes if key != name and _EMBEDDING.search(key) and shapes[key] == wanted]
    if _HEAD.search(name) is None:  # a copy is of `shared` alone
        found = [key for key in found if key.endswith("shared.weight")]
    return min(found, key=lambda key: (not key.endswith("shared.weight"), len(key), key)) if found else None


def vocabulary_tensor(name: str) -> bool:
    """Whether the first axis of a tensor is the vocabulary."""
    return bool(_HEAD.search(name) or _EMBEDDING.search(name))
