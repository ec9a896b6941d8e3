"""Which tensors are one tensor under two names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelwright.architectures._json import level

#: Where a model of several towers keeps the configuration of its text decoder.
TEXT_LEVELS = ("text_config", "llm_config", "language_config")

_HEAD = re.compile(
    r"(^|[./])(lm_head|embed_out|proj_out|cls\.predictions\.decoder|lm_head\.decoder|output_projection|vocab_projector|"
    r"generator_lm_head|lm_head\.out_proj|lm_loss|pred_layer\.proj|predictions\.decoder|decoder)\.weight$"
)
_EMBEDDING = re.compile(
    r"(^|[./])(embed_tokens|wte|word_embeddings?|embed_in|shared|entity_embeddings|tok_embeddings|word_embedding|embeddings|"
    r"tokens_embed|w)\.weight$"
)
#: Copies of `shared.weight`, or of the embedding above them, in encoder-decoder models.
_COPY = re.compile(r"^(?P<above>.*[./])?(encoder|decoder)\.(?P<own>embed_tokens|word_embeddings?)\.weight$")
#: BERT's heads keep their bias twice, `cls.predictions.bias` and this.
_BIAS_COPY = re.compile(r"(^|[./])(predictions|lm_head)\.decoder\.bias$")


def ties_embeddings(config: Mapping[str, Any] | None) -> bool:
    """Whether a configuration allows input and output embeddings to be one tensor; only an explicit false forbids it."""
    if config is None:
        return False
    levels = [config, *(level(config, key) for key in TEXT_LEVELS)]
    return all(settings.get("tie_word_embeddings") is not False for settings in levels)


def tie_source(name: str, shapes: Mapping[str, tuple[int, ...]], shape: tuple[int, ...] | None = None) -> str | None:
    """The tensor that `name` would be another name of, if the model's embeddings are tied.

    Args:
        name: A head such as `lm_head.weight`, or a copy such as `encoder.embed_tokens.weight` and
            `lm_head.decoder.bias`.
        shapes: The shapes of the model's tensors.
        shape: The shape wanted; default the shape of `name` itself in the model.

    Returns:
        The input embedding (or the bias) of that shape, or None.
    """
    wanted = shape or shapes.get(name)
    if _BIAS_COPY.search(name):
        found = [name.replace(".decoder.bias", ".bias")]
    elif copy := _COPY.match(name):
        above = f"{copy['above'] or ''}{copy['own']}.weight"
        found = [key for key in shapes if key.endswith("shared.weight") or key == above]
    elif _HEAD.search(name):
        found = [key for key in shapes if key != name and _EMBEDDING.search(key)]
    else:
        return None
    found = [key for key in found if shapes.get(key) == wanted]
    return min(found, key=lambda key: (not key.endswith("shared.weight"), len(key), key)) if found else None


#: Biases of heads, which have a number for each token; of some models in a matrix of one row.
_HEAD_BIAS = re.compile(
    r"(^|[./])(lm_head|embed_out|output_projection|vocab_projector|predictions|generator_lm_head|lm_loss|pred_layer\.proj|"
    r"lm_head\.out_proj|decoder)\.bias$|(^|[./])final_logits_bias$"
)


def vocabulary_rows(shapes: Mapping[str, tuple[int, ...]], config: Mapping[str, Any] | None) -> int | None:
    """Rows of a model's embeddings, padding included: what the configuration says, where a tensor has so many, else those of the largest."""
    found = [shape for name, shape in shapes.items() if len(shape) == 2 and vocabulary_tensor(name)]
    levels = [level(config, key) for key in TEXT_LEVELS] + ([config] if config else [])
    for settings in levels:
        if any(shape[0] == settings.get("vocab_size") for shape in found):
            return int(settings["vocab_size"])
    return max(found, key=lambda shape: shape[0] * shape[1])[0] if found else None


#: Further tables of tokens, such as Gemma's `embed_tokens_per_layer`; not those of positions and segments.
_TABLE = re.compile(r"(^|[./])(?!\w*(pos|type|segment))\w*(embed|vocab|token)\w*\.weight$")


def over_vocabulary(name: str, shape: tuple[int, ...], rows: int) -> bool:
    """Whether a tensor of a model whose vocabulary has so many rows has one entry, or one row, for each token."""
    known = vocabulary_tensor(name) or bool(_HEAD_BIAS.search(name))
    if known and shape == (1, rows):
        return True
    return shape[:1] == (rows,) and (known or (len(shape) == 2 and bool(_TABLE.search(name))))


def vocabulary_tensor(name: str) -> bool:
    """Whether the first axis of a tensor is the vocabulary."""
    return bool(_HEAD.search(name) or _EMBEDDING.search(name) or _BIAS_COPY.search(name))
