"""The union of tokenizers: the base's numbers stay, the library agrees with ours, and what cannot be joined is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
import tiny_tokenizers as tiny
from modelwright.errors import InputError
from modelwright.vocabulary import PROBES, Tokenizer, encoded, open_tokenizer, union, with_tokens

TEXTS = [probe.text for probe in PROBES]


def read(folder: Path, made: Any) -> Tokenizer:
    return open_tokenizer(tiny.save(folder, made))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_the_union_has_everything_once_and_the_bases_numbers(tmp_path: Path, kind: str) -> None:
    base, other = (read(tmp_path / text[:8], tiny.KINDS[kind](text)) for text in (tiny.ENGLISH, tiny.GERMAN))
    made = union(base, [other])
    out = made.tokenizer
    assert out.tokens.keys() == base.tokens.keys() | other.tokens.keys()
    assert all(out.tokens[text] == number for text, number in base.tokens.items())
    assert sorted(out.tokens.values()) == list(range(len(out.tokens)))
    assert out.backend.get_vocab(with_added_tokens=True) == out.tokens
    assert made.plain == len(other.tokens.keys() - base.tokens.keys()) > 0
    assert made.added == ()


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_a_union_with_itself_or_with_special_tokens_alone_encodes_as_the_base(tmp_path: Path, kind: str) -> None:
    trained = tiny.KINDS[kind]()
    base = read(tmp_path / "a", trained)
    other = read(tmp_path / "b", tiny.with_added(trained, "<|a|>", "<|b|>"))
    assert union(base, [base]).tokenizer.table == base.table
    made = union(base, [other])
    assert (made.plain, made.added, made.merges, made.findings) == (0, ("<|a|>", "<|b|>"), 0, ())
    assert made.tokenizer.encode(TEXTS) == base.encode(TEXTS)
    assert [made.tokenizer.tokens[text] for text in ("<|a|>", "<|b|>")] == [base.size, base.size + 1]
    assert made.tokenizer.encode(["x<|b|>"])[0][-1] == base.size + 1
    back = union(other, [base])
    assert back.tokenizer.table == other.table


def test_merges_follow_the_bases(tmp_path: Path) -> None:
    base, other = read(tmp_path / "a", tiny.byte_level()), read(tmp_path / "b", tiny.byte_level(tiny.GERMAN))
    made = union(base, [other])
    merges = [
        tuple(entry.split(" ")) if isinstance(entry, str) else tuple(entry) for entry in made.tokenizer.model["merges"]
    ]
    own = [tuple(entry.split(" ")) if isinstance(entry, str) else tuple(entry) for entry in base.model["merges"]]
    assert merges[: len(own)] == own
    assert len(merges) == len(set(merges)) == len(own) + made.merges
    assert {left + right for left, right in merges} <= made.tokenizer.tokens.keys()
    # a text is at most as long as before, and what no foreign merge can touch stays as it was
    for entry in encoded(base, made.tokenizer):
        assert entry.after <= entry.before
        assert not entry.lost
    assert made.tokenizer.encode(["the dog"]) == base.encode(["the dog"])


def test_numbers_with_added_tokens_in_between_stay(tmp_path: Path) -> None:
    """The library numbers added tokens anew when it loads them, unless the vocabulary has them."""
    base = read(tmp_path / "a", tiny.with_added(tiny.byte_level(), "<|a|>", "<|b|>"))
    other = read(tmp_path / "b", tiny.with_added(tiny.byte_level(tiny.GERMAN), "<|c|>"))
    out = union(base, [other]).tokenizer
    assert out.backend.get_vocab(with_added_tokens=True) == out.tokens
    assert [out.tokens[text] for text in ("<|a|>", "<|b|>")] == [base.tokens[text] for text in ("<|a|>", "<|b|>")]
    assert "<|c|>" in out.tokens


def test_three_tokenizers_join_in_order(tmp_path: Path) -> None:
    read_all = [
        read(tmp_path / str(i), tiny.byte_level(text)) for i, text in enumerate((tiny.ENGLISH, tiny.GERMAN, tiny.CODE))
    ]
    out = union(read_all[0], read_all[1:]).tokenizer
    second = [text for text in read_all[1].tokens if text not in read_all[0].tokens]
    third = [t for t in read_all[2].tokens if t not in read_all[0].tokens and t not in read_all[1].tokens]
    assert max(out.tokens[text] for text in second) < min(out.tokens[text] for text in third)
    assert len(out.tokens) == len(read_all[0].tokens) + len(second) + len(third)


def test_foreign_scores_are_shifted_to_the_bases_scale(tmp_path: Path) -> None:
    base = read(tmp_path / "a", tiny.unigram())
    table = {
        **base.table,
        "model": {**base.model, "vocab": [[t, s - 3.0] for t, s in base.model["vocab"]] + [["▁zebra", -7.0]]},
    }
    made = union(base, [Tokenizer("shifted", table)])
    scores = dict(map(tuple, made.tokenizer.model["vocab"]))
    assert scores["▁zebra"] == pytest.approx(-4.0)
    assert "a choice and no estimate" in made.findings[0]


def test_what_cannot_be_joined_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base, other = read(Path("a"), tiny.byte_level()), read(Path("b"), tiny.sentencepiece_style(tiny.GERMAN))
    with pytest.raises(InputError) as caught:
        union(base, [other])
    text = str(caught.value)
    assert text.startswith("the vocabularies of a and b cannot be joined: a is BPE (bytes), b is BPE (metaspace), and ")
    assert "Use tokenizer: {source: base}" in text


def test_other_kinds_join_where_they_have_nothing_new(tmp_path: Path) -> None:
    base = read(tmp_path / "a", tiny.byte_level())
    table = {
        "model": {"type": "Unigram", "vocab": [["<unk>", 0.0], ["t", -1.0], ["he", -2.0]], "unk_id": 0},
        "added_tokens": [{"id": 3, "content": "<|new|>", "special": True}, {"id": 0, "content": "<unk>", "special": True}],
        "decoder": {"type": "Metaspace"},
    }  # fmt: skip
    made = union(base, [Tokenizer("other", table)])
    assert (made.plain, made.added) == (0, ("<unk>", "<|new|>"))


def test_a_difference_in_how_text_is_split_is_said(tmp_path: Path) -> None:
    base, other = read(tmp_path / "a", tiny.byte_level()), tiny.byte_level(tiny.GERMAN)
    from tokenizers import pre_tokenizers

    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made = union(base, [read(tmp_path / "b", other)])
    assert "differ in pre_tokenizer" in made.findings[0]


def test_tokens_that_are_asked_for_are_numbered_behind(tmp_path: Path) -> None:
    base = read(tmp_path / "a", tiny.byte_level())
    out = with_tokens(base, ["<think>", "</think>"])
    assert [out.tokens[text] for text in ("<think>", "</think>")] == [base.size, base.size + 1]
    assert out.backend.get_vocab(with_added_tokens=True) == out.tokens
    assert out.encode(["a<think>b"])[0][1] == base.size
