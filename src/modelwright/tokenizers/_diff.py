"""`diff`: two tokenizers side by side, with the models they belong to where there are any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from modelwright.architectures import vocabulary_rows
from modelwright.checkpoint import open as open_checkpoint, user_path
from modelwright.errors import InputError
from modelwright.vocabulary import PROBES, Probe, TokenizerDifference, compare, open_tokenizer


def diff(first: str | Path, second: str | Path, *, texts: Sequence[str] = ()) -> TokenizerDifference:
    """What two tokenizers share, and what each makes of the same texts.

    Args:
        first: A model, a folder with a tokenizer (weights need not be there), or a `tokenizer.json`.
        second: Another.
        texts: Texts that are encoded beside the probe texts, as the kind `yours`.

    Returns:
        A `TokenizerDifference`; its `changed`, `lost` and `by_kind()` are about texts, its `defects` about numbers beyond the
        embedding, holes and strings that share a number.

    Raises:
        InputError: There is no tokenizer, or it cannot be loaded.
        MissingExtraError: The package `tokenizers` is not installed.
    """
    one, other = open_tokenizer(first), open_tokenizer(second)
    probes = (*PROBES, *(Probe("yours", text) for text in texts if text))
    return compare(one, other, probes, (_rows(first), _rows(second)))


def _rows(reference: str | Path) -> int | None:
    """Rows of the embedding, where there are weights."""
    path = user_path(reference)
    if path.is_file() and path.name == "tokenizer.json":
        return None
    try:
        model = open_checkpoint(str(reference))
    except InputError:
        if path.is_dir():  # a tokenizer without a model
            return None
        raise
    return vocabulary_rows(model.shapes, model.config)
