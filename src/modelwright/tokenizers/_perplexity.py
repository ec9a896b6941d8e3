"""How well a model folder predicts a text, in bits a byte: what models with different tokenizers can be compared by."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from modelwright.errors import InputError
from modelwright.evaluate import CausalPredictor, Rolling


@dataclass(frozen=True)
class Predicted:
    """What a model makes of a text.

    Attributes:
        bits_per_byte: Of UTF-8. Comparable between tokenizers.
        perplexity: Of a token. Comparable between models with one tokenizer only.
        tokens: How many tokens the text has.
        nbytes: Its bytes.
    """

    bits_per_byte: float
    perplexity: float
    tokens: int
    nbytes: int


def predicted(folder: str | Path, text: str, *, device: str = "cpu") -> Predicted:
    """How well the model of a transformers folder predicts a text, read in windows that do not overlap.

    Args:
        folder: With config.json, weights and tokenizer.
        text: At least one character.
        device: Where the model runs.

    Raises:
        InputError: It is no such folder, or the text is empty.
    """
    if not text:
        raise InputError("the text is empty, so there is nothing to predict", "Give a text file.")
    model = CausalPredictor.from_folder(folder, device=device)
    (found,) = model.loglikelihoods([("", text)], Rolling())
    nbytes = len(text.encode("utf-8", "surrogatepass"))
    return Predicted(
        -found.total / math.log(2) / nbytes, math.exp(min(-found.total / found.tokens, 700)), found.tokens, nbytes
    )
