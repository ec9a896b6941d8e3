"""One tokenizer of several: the base's, with what the others have on top."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from modelwright.architectures import is_list, is_mapping
from modelwright.errors import InputError, listing
from modelwright.vocabulary._tokenizer import Tokenizer, matching

#: What of a model says how its strings are to be read.
_READING = ("continuing_subword_prefix", "end_of_word_suffix")
_SETTINGS = ("byte_fallback", "ignore_merges", "unk_token", "fuse_unk", "dropout")
_PIPELINE = ("normalizer", "pre_tokenizer")


@dataclass(frozen=True)
class Union:
    """A tokenizer made of several.

    Attributes:
        tokenizer: It. The base's strings have their numbers, and what came from others has those behind.
        plain: How many strings of others it has that are no added tokens.
        added: Added tokens of others, or that were asked for.
        merges: How many merges of others it has.
        findings: What is not as sound as one could wish, for the user.
    """

    tokenizer: Tokenizer
    plain: int
    added: tuple[str, ...]
    merges: int
    findings: tuple[str, ...]


def union(base: Tokenizer, others: Sequence[Tokenizer]) -> Union:
    """The base's tokenizer with the strings of others, and with their merges behind its own.

    Merges of byte-pair encoders are taken over in their order, each where both its parts and its result are in the union; a text is
    then first merged as the base would. Scores of unigram models are shifted so that the median of what both have is the same.

    Args:
        base: Whose numbers, normalizer and splitting into words are kept.
        others: The others, in order.

    Raises:
        InputError: Vocabularies cannot be joined: they are of different kinds, or write text differently, and have strings that
            the base lacks.

    Differs:
        1. mergekit makes every string of the others an added token, which is cut out of a text before it is split into words, wherever
           it stands: `the` of one model tears apart every `other` of the base. Here plain strings stay plain.
    """
    tokens: dict[str, int] = dict.fromkeys(base.tokens, 0)
    plain: list[str] = []
    added: dict[str, Mapping[str, Any]] = {}
    findings: list[str] = []
    for other in others:
        known = matching(other, base)
        missing = [text for text, _ in sorted(other.tokens.items(), key=lambda item: item[1]) if text not in tokens]
        for text in missing:
            if text in other.added:
                added.setdefault(text, other.added[text])
        foreign = [text for text in missing if text not in other.added and known(text) < 0]
        if not foreign:
            continue
        _check_kinds(base, other, foreign)
        findings += _unsound(base, other)
        plain += foreign
        tokens |= dict.fromkeys(foreign, 0)
    joined, merges = _joined(base, others, plain) if plain else (dict(base.table), 0)
    made = with_tokens(replace(base, table=joined), added, spell=bool(plain))
    return Union(made, len(plain), tuple(added), merges, tuple(findings))


def with_tokens(
    tokenizer: Tokenizer, added: Mapping[str, Mapping[str, Any]] | Iterable[str], *, spell: bool = False
) -> Tokenizer:
    """The tokenizer with further added tokens, numbered behind all others.

    Args:
        tokenizer: It.
        added: Their strings, or string -> entry of `added_tokens`.
        spell: Put every added token into the model's own vocabulary, so that the library numbers them as they are here,
            whatever the vocabulary's size.
    """
    entries: dict[str, Mapping[str, Any]] = (
        dict(added) if is_mapping(added) else {text: _plain_entry(text) for text in added}
    )
    table = dict(tokenizer.table)
    size = tokenizer.size
    new = [{**entry, "id": size + i, "content": text} for i, (text, entry) in enumerate(entries.items())]
    table["added_tokens"] = [*(table.get("added_tokens") or []), *new]
    made = replace(tokenizer, table=table)
    if spell or (new and len(set(made.tokens.values())) < made.size):
        made = _spelt(made)
    return made


def _plain_entry(text: str) -> dict[str, Any]:
    return {
        "id": 0, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False,
    }  # fmt: skip


def _spelt(tokenizer: Tokenizer) -> Tokenizer:
    """The library numbers an added token anew when it loads it, unless the model's own vocabulary has it."""
    model, vocabulary = dict(tokenizer.model), tokenizer.model["vocab"]
    missing = {text: entry["id"] for text, entry in tokenizer.added.items() if text not in tokenizer.pieces}
    if not is_list(vocabulary):
        model["vocab"] = {**vocabulary, **missing}
    else:
        pieces, least = list(vocabulary), min((score for _, score in vocabulary), default=0.0)
        for text, number in sorted(missing.items(), key=lambda item: item[1]):
            if number != len(pieces):
                raise InputError(
                    f"{tokenizer.label}: its numbers have a hole at {len(pieces)}, which a unigram vocabulary cannot have",
                    "Use source: base, or mend the tokenizer.",
                )
            pieces.append([text, least - 10.0])
        model["vocab"] = pieces
    return replace(tokenizer, table={**tokenizer.table, "model": model})


def _check_kinds(base: Tokenizer, other: Tokenizer, foreign: Sequence[str]) -> None:
    ours, theirs = ((t.kind, t.alphabet, *(t.model.get(key) for key in _READING)) for t in (base, other))
    if ours == theirs:
        return
    what = [f"{t.label} is {t.kind} ({t.alphabet})" for t in (base, other)]
    raise InputError(
        f"the vocabularies of {base.label} and {other.label} cannot be joined: {what[0]}, {what[1]}, and {len(foreign):,} tokens "
        f"of {other.label} are not in {base.label}: {listing([repr(t) for t in foreign], 3)}",
        "Text could only be cut at these strings wherever they stand, which changes how everything is encoded. Use tokenizer: "
        "{source: base}, which leaves them out, or give the models one tokenizer first: mw tokenizer transplant.",
    )


def _unsound(base: Tokenizer, other: Tokenizer) -> list[str]:
    found: list[str] = []
    parts = [part for part in _PIPELINE if base.table.get(part) != other.table.get(part)]
    parts += [key for key in _SETTINGS if (base.model.get(key) or None) != (other.model.get(key) or None)]
    if parts:
        found.append(
            f"{base.label} and {other.label} differ in {listing(parts)}; the union has those of {base.label}, so some tokens of "
            f"{other.label} may never be reached"
        )
    if base.kind == "Unigram":
        found.append(
            f"scores of {base.label} and {other.label} come from different texts: those of {other.label} are shifted so that the "
            "median of what both have is the same, which is a choice and no estimate"
        )
    return found


def _joined(base: Tokenizer, others: Sequence[Tokenizer], plain: Sequence[str]) -> tuple[dict[str, Any], int]:
    """The base's table with further strings, and how many merges came with them."""
    model = dict(base.model)
    numbers = {text: base.size + i for i, text in enumerate(plain)}
    if base.kind == "Unigram":
        spelt = _spelt(base)
        if spelt.size != len(spelt.model["vocab"]):
            raise InputError(f"{base.label}: its numbers have holes, which a unigram vocabulary cannot have")
        model["vocab"] = [*spelt.model["vocab"], *_scored(base, others, numbers)]
        return {**base.table, "model": model}, 0
    model["vocab"] = {**base.pieces, **{t: e["id"] for t, e in base.added.items() if t not in base.pieces}, **numbers}
    count = 0
    if base.kind == "BPE":
        merges, count = _merges(base, others, model["vocab"])
        model["merges"] = merges
    return {**base.table, "model": model}, count


def _merges(base: Tokenizer, others: Sequence[Tokenizer], vocabulary: Mapping[str, int]) -> tuple[list[Any], int]:
    own: list[Any] = base.model.get("merges") or []
    pairs = dict.fromkeys(_pair(entry) for entry in own)
    before = len(pairs)
    prefix = str(base.model.get("continuing_subword_prefix") or "")
    for other in others:
        if other.kind != "BPE" or other.alphabet != base.alphabet:
            continue
        theirs: list[Any] = other.model.get("merges") or []
        for left, right in map(_pair, theirs):
            result = left + right.removeprefix(prefix)
            if left in vocabulary and right in vocabulary and result in vocabulary:
                pairs.setdefault((left, right))
    # older readers know merges as texts only; two words in a text cannot say a token with a space
    texts = all(isinstance(entry, str) for entry in own) and not any(" " in left + right for left, right in pairs)
    return [f"{left} {right}" if texts else [left, right] for left, right in pairs], len(pairs) - before


def _pair(entry: Any) -> tuple[str, str]:
    left, _, right = entry.partition(" ") if isinstance(entry, str) else (entry[0], "", entry[1])
    return left, right


def _scored(base: Tokenizer, others: Sequence[Tokenizer], numbers: Mapping[str, int]) -> list[list[Any]]:
    """Foreign pieces with scores on the base's scale, each from the first that has it."""
    ours = dict(base.model["vocab"])
    found: dict[str, float] = {}
    for other in others:
        if other.kind != "Unigram":
            continue
        theirs = dict(other.model["vocab"])
        common = [ours[text] - score for text, score in theirs.items() if text in ours and text not in base.added]
        shift = median(common) if common else 0.0
        for text in theirs:
            if text in numbers:
                found.setdefault(text, theirs[text] + shift)
    return [[text, found[text]] for text in numbers]
