"""Two tokenizers side by side: what they share, and what each makes of the same texts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from modelwright.vocabulary._probes import PROBES, Probe
from modelwright.vocabulary._templates import rendered
from modelwright.vocabulary._tokenizer import ROLES, Tokenizer, defects, matching

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")
#: Strings that are listed of what only one of two has.
_MOST = 20


@dataclass(frozen=True)
class Encoded:
    """A text as two tokenizers encode it.

    Attributes:
        kind: What it is an example of.
        text: The text.
        before: How many tokens it has by the first.
        after: By the second.
        same: Whether the tokens are the same strings, or stand for the same bytes where the two write text differently.
        same_numbers: Whether their numbers are the same too.
        lost: Whether the first gives the text back and the second does not.
    """

    kind: str
    text: str
    before: int
    after: int
    same: bool
    same_numbers: bool
    lost: bool


@dataclass(frozen=True)
class TokenizerDifference:
    """What two tokenizers have in common, and what not.

    Attributes:
        labels: What they are called.
        kinds: BPE, Unigram, WordPiece or WordLevel, with how they write text.
        sizes: How many strings each has.
        shared: Strings (or what they stand for, where the two write text differently) that both have.
        moved: Of these, those that have another number in the second.
        only: Of each, how many strings the other lacks.
        examples: Of each, some of these.
        added: Added tokens that only one has, or that behave differently, of each: string -> how.
        special: Role -> its string in each, where they differ.
        pipeline: Parts around the vocabulary that differ: normalizer, pre_tokenizer, post_processor, decoder.
        encoded: Each probe text by both.
        defects: What is wrong with each.
        templates: The chat template of each, or None.
        rendered: Conversation -> what each template makes of it, where that differs.
    """

    labels: tuple[str, str]
    kinds: tuple[str, str]
    sizes: tuple[int, int]
    shared: int
    moved: int
    only: tuple[int, int]
    examples: tuple[tuple[str, ...], tuple[str, ...]]
    added: tuple[Mapping[str, str], Mapping[str, str]]
    special: Mapping[str, tuple[str | None, str | None]]
    pipeline: tuple[str, ...]
    encoded: tuple[Encoded, ...]
    defects: tuple[tuple[str, ...], tuple[str, ...]]
    templates: tuple[str | None, str | None]
    rendered: Mapping[str, tuple[str, str]]

    @property
    def changed(self) -> tuple[Encoded, ...]:
        """Texts that become other tokens."""
        return tuple(one for one in self.encoded if not one.same)

    @property
    def lost(self) -> tuple[Encoded, ...]:
        """Texts that only the first gives back."""
        return tuple(one for one in self.encoded if one.lost)

    @property
    def same(self) -> bool:
        """Whether any text becomes the same numbers, as far as can be told: nothing differs that was looked at."""
        quiet = not any((self.moved, *self.only, *self.added, self.pipeline))
        return quiet and all(one.same_numbers for one in self.encoded)

    def by_kind(self) -> dict[str, tuple[int, int, int, int, int]]:
        """Of each kind of text: how many, how many changed, how many lost, tokens before and after."""
        table: dict[str, tuple[int, int, int, int, int]] = {}
        for one in self.encoded:
            old = table.get(one.kind, (0, 0, 0, 0, 0))
            new = (1, int(not one.same), int(one.lost), one.before, one.after)
            table[one.kind] = tuple(a + b for a, b in zip(old, new, strict=True))  # type: ignore[assignment]
        return table

    def as_json(self) -> dict[str, Any]:
        """All of it in what JSON can say."""
        found = asdict(self)
        found["by_kind"] = {
            kind: dict(zip(("texts", "changed", "lost", "tokens_before", "tokens_after"), row, strict=True))
            for kind, row in self.by_kind().items()
        }
        return found | {"same": self.same}


def encoded(before: Tokenizer, after: Tokenizer, probes: Sequence[Probe] = PROBES) -> tuple[Encoded, ...]:
    """Each text as two tokenizers encode it."""
    texts = [probe.text for probe in probes]
    one, other = before.encode(texts), after.encode(texts)
    backs = before.decode(one), after.decode(other)
    spelt = _spelling(before, after), _spelling(after, before)
    found: list[Encoded] = []
    for i, probe in enumerate(probes):
        kept = [_plain(side[i]) == _plain(probe.text) for side in backs]
        same = [spelt[0](n) for n in one[i]] == [spelt[1](n) for n in other[i]]
        found.append(
            Encoded(
                probe.kind, probe.text, len(one[i]), len(other[i]), same, one[i] == other[i], kept[0] and not kept[1]
            )
        )
    return tuple(found)


def _plain(text: str) -> str:
    """What sentencepiece puts before a text is no loss."""
    return text.removeprefix(" ")


def _spelling(tokenizer: Tokenizer, other: Tokenizer) -> Callable[[int], str | bytes]:
    """From a number to what two tokens are compared by."""
    texts = {number: text for text, number in tokenizer.tokens.items()}
    same, added = tokenizer.alphabet == other.alphabet, tokenizer.added

    def spelt(number: int) -> str | bytes:
        text = texts.get(number, "")
        if same:
            return text
        return text.encode("utf-8", "replace") if text in added else tokenizer.meaning(text)

    return spelt


def compare(
    before: Tokenizer,
    after: Tokenizer,
    probes: Sequence[Probe] = PROBES,
    rows: tuple[int | None, int | None] = (None, None),
) -> TokenizerDifference:
    """What two tokenizers have in common, and what each makes of the same texts.

    Args:
        before: One.
        after: The other.
        probes: Texts.
        rows: Of each model's embedding, where there is one.
    """
    to_after, to_before = matching(before, after), matching(after, before)
    numbers = [(text, number, to_after(text)) for text, number in before.tokens.items()]
    only = [text for text, _, found in numbers if found < 0], [t for t in after.tokens if to_before(t) < 0]
    return TokenizerDifference(
        labels=(before.label, after.label),
        kinds=(f"{before.kind}, {before.alphabet}", f"{after.kind}, {after.alphabet}"),
        sizes=(len(before.tokens), len(after.tokens)),
        shared=len(numbers) - len(only[0]),
        moved=sum(found >= 0 and found != number for _, number, found in numbers),
        only=(len(only[0]), len(only[1])),
        examples=(tuple(only[0][:_MOST]), tuple(only[1][:_MOST])),
        added=(_added(before, after), _added(after, before)),
        special={
            role: pair for role in ROLES if len(set(pair := (before.special.get(role), after.special.get(role)))) > 1
        },
        pipeline=tuple(part for part in _PARTS if _shape(before, part) != _shape(after, part)),
        encoded=encoded(before, after, probes),
        defects=(tuple(defects(before, rows[0])), tuple(defects(after, rows[1]))),
        templates=(before.template, after.template),
        rendered=_rendered(before, after),
    )


def _rendered(before: Tokenizer, after: Tokenizer) -> dict[str, tuple[str, str]]:
    if before.template is None or after.template is None or before.template == after.template:
        return {}
    one, other = (rendered(t.template or "", t.special) for t in (before, after))
    return {name: (one[name], other[name]) for name in one if one[name] != other[name]}


def _shape(tokenizer: Tokenizer, part: str) -> str:
    return json.dumps(tokenizer.table.get(part), sort_keys=True)


def _added(tokenizer: Tokenizer, other: Tokenizer) -> dict[str, str]:
    """Added tokens that the other lacks, has as a plain one, or treats differently."""
    found: dict[str, str] = {}
    for text, entry in tokenizer.added.items():
        theirs = other.added.get(text)
        if theirs is None:
            found[text] = "a plain token there" if text in other.tokens else "not there"
        elif flags := [flag for flag in _FLAGS if bool(entry.get(flag)) != bool(theirs.get(flag))]:
            found[text] = f"{', '.join(flags)} differs"
    return found
