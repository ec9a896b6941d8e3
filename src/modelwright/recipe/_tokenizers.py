"""Tokenizers: which model's is used, and refusal of what would garble a vocabulary."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from modelwright.architectures import is_list, is_table, is_text, level
from modelwright.checkpoint import Checkpoint, read_json, read_small
from modelwright.errors import InputError
from modelwright.recipe._context import Context

_PLAIN_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model")
_LATER = "Different vocabularies cannot be brought together yet: give the models one tokenizer first."
#: Prompt formats by the name the community uses.
TEMPLATES = Path(__file__).parent / "templates"


def fingerprint(model: Checkpoint) -> str | None:
    """A short hash of a model's vocabulary and merges; None for a model without a tokenizer."""
    table = _table(model, "tokenizer.json")
    if table is not None:
        inner = level(table, "model")
        added = table.get("added_tokens")
        tables = [entry for entry in added if is_table(entry)] if is_list(added) else []
        tokens = sorted(((entry.get("id"), entry.get("content")) for entry in tables), key=_order)
        content = json.dumps([inner.get("vocab"), inner.get("merges"), tokens], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]
    found = [content for name in _PLAIN_FILES if (content := _content(model, name)) is not None]
    return hashlib.sha256(b"".join(found)).hexdigest()[:12] if found else None


def vocabulary_size(model: Checkpoint) -> int | None:
    """How many tokens a model's tokenizer has, by its highest number, added ones included; None where that is not to be had."""
    table = _table(model, "tokenizer.json")
    if table is None:
        return None
    vocabulary, added = level(table, "model").get("vocab"), table.get("added_tokens")
    numbers = [entry.get("id") for entry in added if is_table(entry)] if is_list(added) else []
    if is_table(vocabulary):
        numbers += list(vocabulary.values())
    elif is_list(vocabulary):  # unigram: pairs of text and score, in the order of their numbers
        numbers.append(len(vocabulary) - 1)
    known = [number for number in numbers if type(number) is int]
    return max(known) + 1 if known else None


def _order(token: tuple[Any, Any]) -> tuple[int, str]:
    """By number; what has none, or no text, is no token and only must not break the order."""
    number, text = token
    return (number, str(text)) if type(number) is int else (-1, f"{number} {text}")


def _content(model: Checkpoint, name: str) -> bytes | None:
    """A file beside the weights of a folder, or of a merge that is not on disk yet."""
    file = model.path / name if model.path is not None else model.beside.get(name)
    if isinstance(file, str):
        return file.encode()
    return read_small(file) if file is not None and file.is_file() else None


def _table(model: Checkpoint, name: str) -> dict[str, Any] | None:
    file = model.path / name if model.path is not None else model.beside.get(name)
    return json.loads(file) if isinstance(file, str) else read_json(file) if file is not None else None


def check_tokenizers(context: Context, donor: int) -> None:
    """Accept tokenizer settings where all vocabularies are one; refuse them where they are not."""
    recipe = context.recipe
    prints = {model.label: fingerprint(model) for model in context.models}
    known = {value for value in prints.values() if value}
    asked = recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source
    path = ("tokenizer",) if recipe.tokenizer else ("tokenizer_source",)
    if asked is None:
        if len(known) > 1:
            context.note(f"the models' tokenizers differ; {context.models[donor].label}'s is copied")
        return
    if asked not in ("union", "base", *context.labels):
        context.wrong(f"tokenizer source '{asked}' is not base, union or a model of this recipe", path=path)
    if asked == "base" and recipe.base_model is None:
        context.wrong("tokenizer source base needs base_model", path=path)
    if len(known) > 1 or (known and None in prints.values()):
        shown = ", ".join(f"{label} ({value or 'none'})" for label, value in prints.items())
        context.wrong(f"the models' tokenizers differ: {shown}", _LATER, path)
    if recipe.tokenizer and recipe.tokenizer.tokens:
        context.wrong("tokenizer.tokens moves embedding rows, which cannot be done yet", _LATER, (*path, "tokens"))
    if recipe.tokenizer and recipe.tokenizer.pad_to_multiple_of:
        context.wrong(
            "tokenizer.pad_to_multiple_of resizes embeddings, which cannot be done yet",
            "Leave it out: the padding of the inputs is kept.",
            (*path, "pad_to_multiple_of"),
        )


def tokenizer_donor(context: Context, donor: int) -> int:
    """The model whose tokenizer files are copied."""
    recipe = context.recipe
    asked = recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source
    return context.labels.get(asked, donor) if asked else donor


def own_template(model: Checkpoint) -> str | None:
    """The chat template that a model's folder holds."""
    own = _content(model, "chat_template.jinja")
    if own is not None:
        try:
            return own.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{model.label}: chat_template.jinja is not UTF-8 ({error})", "Copy it again.") from None
    value: Any = (_table(model, "tokenizer_config.json") or {}).get("chat_template")
    if is_list(value):
        tables = [entry for entry in value if is_table(entry)]
        value = next((entry.get("template") for entry in tables if entry.get("name") == "default"), None)
    return value if is_text(value) else None


def chosen_template(context: Context) -> str | None:
    """The chat template that the recipe asks for: a name, `auto` (the most frequent of the inputs) or Jinja text."""
    asked = context.recipe.chat_template
    if not asked:
        return None
    if asked == "auto":
        found = [text.strip() for model in context.models if (text := own_template(model))]
        if not found:
            context.note("chat_template: auto found no template among the models")
            return None
        return Counter(found).most_common(1)[0][0]  # of equally frequent ones the first listed
    file = TEMPLATES / f"{asked}.jinja"
    if asked.isidentifier() and file.is_file():
        return file.read_text(encoding="utf-8")
    if len(asked) < 20 or "{" not in asked:
        names = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
        context.wrong(
            f"chat_template '{asked}' is neither auto, a known name nor Jinja text",
            f"Known: {', '.join(names)}.",
            ("chat_template",),
        )
        return None
    return asked
