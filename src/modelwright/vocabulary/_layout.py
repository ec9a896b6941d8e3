"""Which row of which model each row of an output's embeddings comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modelwright.vocabulary._tokenizer import Tokenizer, matching

#: In `Rows.model`, where a row is no model's: the mean of some rows, the mean of all of the model's tokens, zeros.
AVERAGE, MEAN, ZERO = -1, -2, -3
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Override:
    """What a recipe's `tokens:` says of one token.

    Attributes:
        source: (model, row) that it starts from, `ZERO`, or None for the usual rule.
        force: Whether models that have the token start from there too.
    """

    source: tuple[int, int] | int | None = None
    force: bool = False


@dataclass(frozen=True)
class Rows:
    """Where each row of one model's re-laid embeddings comes from.

    Attributes:
        model: Of each row, the model that it is copied from, or `AVERAGE`, `MEAN`, `ZERO`.
        row: Its row there.
        averages: Of rows that are means of some: (model, row) of each.
        known: Rows that are tokens of this model, in its own numbers: what `MEAN` is the mean of.
    """

    model: Numbers
    row: Numbers
    averages: Mapping[int, tuple[tuple[int, int], ...]]
    known: Numbers

    def unchanged(self, own: int, rows: int) -> bool:
        """Whether this is what model `own` with so many rows has anyway."""
        return len(self.model) == rows and bool((self.model == own).all() and (self.row == np.arange(rows)).all())


@dataclass(frozen=True)
class Laid:
    """Rows of every model for one vocabulary.

    Attributes:
        rows: Of each model.
        counts: Of each model, how many rows are its `own`, from `base`, from `others`, an `average` of some, the `mean` of all
            its own, `zero`, or `padding`: rows that are no token's.
        unknown: Tokens that no model has.
    """

    rows: tuple[Rows, ...]
    counts: tuple[Mapping[str, int], ...]
    unknown: tuple[str, ...] = field(default=())


def lay_rows(
    out: Tokenizer,
    rows: int,
    tokenizers: Sequence[Tokenizer],
    sizes: Sequence[int],
    base: int | None,
    overrides: Mapping[str, Override] | None = None,
) -> Laid:
    """Where the rows of each model's embeddings come from, token by token.

    A model's own row of a token is kept. A token that a model lacks starts from the base's row, else from that of the only model that
    has it, else from the mean of those that do, so that no method sees a change where a model knows nothing. A token that nobody
    has starts from the mean of the model's own tokens. Rows that are no token's stay what they are in a model where they are none
    either, else they are the base's, else that mean.

    Args:
        out: The output's tokenizer.
        rows: The output's rows; at least `out.size`.
        tokenizers: Of each model.
        sizes: Rows of each model.
        base: Which is the base, or None.
        overrides: What is asked for single tokens.
    """
    asked = overrides or {}
    own = np.stack([_own(out, rows, t, size) for t, size in zip(tokenizers, sizes, strict=True)])
    held = own >= 0
    count = held.sum(0)
    number = np.arange(rows)
    model, row = np.full(rows, MEAN, np.int64), np.zeros(rows, np.int64)
    first = held.argmax(0)
    single = count == 1
    model[single], row[single] = first[single], own[first[single], number[single]]
    if base is not None:
        model[held[base]], row[held[base]] = base, own[base][held[base]]
    averages: dict[int, tuple[tuple[int, int], ...]] = {}
    shared = (count > 1) & (count < len(own))
    if base is not None:
        shared &= ~held[base]
    for i in np.flatnonzero(shared):
        averages[int(i)] = tuple((int(j), int(own[j, i])) for j in np.flatnonzero(held[:, i]))
        model[i], row[i] = AVERAGE, i
    forced = _overridden(out, asked, model, row, averages)
    padding = np.ones(rows, bool)
    padding[list(out.tokens.values())] = False
    laid: list[Rows] = []
    counts: list[Mapping[str, int]] = []
    for j, tokenizer in enumerate(tokenizers):
        keeps = held[j] & ~forced
        known = np.unique([n for n in tokenizer.tokens.values() if n < sizes[j]]).astype(np.int64)
        mine = Rows(np.where(keeps, j, model), np.where(keeps, own[j], row), averages, known)
        laid.append(mine)
        counts.append(_counted(mine.model, j, base, padding))
    unknown = tuple(text for text, n in out.tokens.items() if not held[:, n].any() and text not in asked)
    return Laid(tuple(laid), tuple(counts), unknown)


def _own(out: Tokenizer, rows: int, tokenizer: Tokenizer, size: int) -> Numbers:
    """Of each output row the model's own row for it, or -1."""
    found = np.full(rows, -1, np.int64)
    find = matching(out, tokenizer)
    numbers = np.fromiter(out.tokens.values(), np.int64, len(out.tokens))
    theirs = np.fromiter(map(find, out.tokens), np.int64, len(out.tokens))
    fits = (theirs >= 0) & (theirs < size)
    found[numbers[fits]] = theirs[fits]
    padding = np.ones(max(rows, size), bool)
    padding[numbers] = False
    for text in tokenizer.tokens.values():
        if text < len(padding):
            padding[text] = False
    free = np.flatnonzero(padding[: min(rows, size)])
    found[free] = free
    return found


def _overridden(
    out: Tokenizer,
    asked: Mapping[str, Override],
    model: Numbers,
    row: Numbers,
    averages: dict[int, tuple[tuple[int, int], ...]],
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Write what is asked for single tokens into where rows come from; tell which rows models do not keep."""
    forced = np.zeros(len(model), bool)
    for text, override in asked.items():
        number = out.tokens[text]
        if override.source is not None:
            model[number], row[number] = override.source if isinstance(override.source, tuple) else (override.source, 0)
            averages.pop(number, None)
        forced[number] = override.force
    return forced


def _counted(model: Numbers, own: int, base: int | None, padding: np.ndarray[Any, Any]) -> dict[str, int]:
    tokens = model[~padding]
    from_base = int((tokens == base).sum()) if base is not None and base != own else 0
    found = {
        "own": int((tokens == own).sum()), "base": from_base,
        "others": int((tokens >= 0).sum() - (tokens == own).sum()) - from_base,
        "average": int((tokens == AVERAGE).sum()), "mean": int((tokens == MEAN).sum()), "zero": int((tokens == ZERO).sum()),
        "padding": int(padding.sum()),
    }  # fmt: skip
    return found
