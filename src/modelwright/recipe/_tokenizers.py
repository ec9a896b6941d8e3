"""Which model's tokenizer and chat template the output has."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from modelwright.architectures import is_list, is_table, level
from modelwright.checkpoint import Checkpoint, read_json, read_small
from modelwright.recipe._context import Context
from modelwright.vocabulary import file_beside, kept_template

_PLAIN_FILES = ("tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "merges.txt", "sentencepiece.bpe.model")
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


def fingerprints(context: Context) -> list[str | None]:
    """Those of all models, found once: of large vocabularies each takes a second."""
    if not context.prints:
        context.prints = [fingerprint(model) for model in context.models]
    return context.prints


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
    file = file_beside(model, name)
    if isinstance(file, str):
        return file.encode()
    return read_small(file) if file is not None and file.is_file() else None


def _table(model: Checkpoint, name: str) -> dict[str, Any] | None:
    file = file_beside(model, name)
    return json.loads(file) if isinstance(file, str) else read_json(file) if file is not None else None


def tokenizer_donor(context: Context, donor: int) -> int:
    """The model whose tokenizer files are copied."""
    recipe = context.recipe
    asked = recipe.tokenizer.source if recipe.tokenizer else recipe.tokenizer_source
    return context.labels.get(asked, donor) if asked else donor


def own_template(model: Checkpoint) -> str | None:
    """The chat template that a model's folder holds."""
    file = _content(model, "chat_template.jinja")
    return kept_template(model.label, file, {} if file is not None else _table(model, "tokenizer_config.json") or {})


def chosen_template(context: Context) -> str | None:
    """The chat template that the recipe asks for: a name, `auto` (the most frequent of the inputs), a model's, or Jinja text."""
    asked = context.recipe.chat_template
    if not asked:
        return None
    if asked in context.labels:
        found = own_template(context.models[context.labels[asked]])
        if found is None:
            context.wrong(f"{asked} has no chat template", "Name a model that has one.", ("chat_template",))
        return found
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
            f"chat_template '{asked}' is neither auto, a known name, a model of this recipe nor Jinja text",
            f"Known: {', '.join(names)}.",
            ("chat_template",),
        )
        return None
    return asked
