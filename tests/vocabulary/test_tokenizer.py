"""Tokenizers as files: what strings mean, which tokens are one in two of them, and what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tokenizers")
import tiny_tokenizers as tiny
from modelwright.errors import InputError
from modelwright.vocabulary import PROBES, Tokenizer, compare, defects, matching, open_tokenizer


def read(folder: Path, made: Any, **roles: str) -> Tokenizer:
    return open_tokenizer(tiny.save(folder, made, **roles))


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_every_kind_is_read_as_the_library_reads_it(tmp_path: Path, kind: str) -> None:
    made = tiny.KINDS[kind]()
    found = read(tmp_path, made)
    assert found.tokens == made.get_vocab(with_added_tokens=True)
    texts = [probe.text for probe in PROBES]
    assert found.encode(texts) == [made.encode(text, add_special_tokens=False).ids for text in texts]


def test_meanings_are_bytes_whatever_the_alphabet(tmp_path: Path) -> None:
    one = read(tmp_path / "a", tiny.byte_level())
    other = read(tmp_path / "b", tiny.sentencepiece_style())
    third = read(tmp_path / "c", tiny.wordpiece())
    assert (one.alphabet, other.alphabet, third.alphabet) == ("bytes", "metaspace", "wordpiece")
    assert one.meaning("Ġthe") == other.meaning("▁the") == third.meaning("the") == b" the"
    assert one.meaning("Ã¼") == other.meaning("ü") == third.meaning("##ü") == "ü".encode()
    assert other.meaning("<0xC3>") == b"\xc3"
    find = matching(one, other)
    assert find("Ġthe") == other.tokens["▁the"]
    assert find("<|end|>") == -1
    assert all(one.meanings[one.meaning(text)] == number for text, number in one.pieces.items() if text != tiny.END)


def test_bytes_of_a_byte_level_tokenizer_are_all_256(tmp_path: Path) -> None:
    found = read(tmp_path, tiny.byte_level())
    single = {found.meaning(text) for text in found.pieces if len(text) == 1}
    assert single == {bytes([byte]) for byte in range(256)}


def test_what_is_wrong_is_named() -> None:
    added = [{"id": 3, "content": "<x>"}, {"id": 1, "content": "<y>"}, {"id": 9, "content": "a"}]
    table = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": added}
    found = defects(Tokenizer("m", table), rows=4)
    assert found == [
        "1 token with numbers from 4 on, beyond the 4 rows of the embedding: 'a'",
        "7 holes: numbers without a token, such as 0",
        "1 numbers stand for two strings: 'b' and '<y>'",
        "1 string with two numbers: 'a'",
    ]
    good = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []},
        "added_tokens": [{"id": 2, "content": "c"}],
    }
    assert defects(Tokenizer("m", good), rows=3) == []


def test_equal_tokenizers_do_not_differ_and_others_do(tmp_path: Path) -> None:
    one = read(tmp_path / "a", tiny.byte_level(), eos_token="<|end|>")
    same = compare(one, read(tmp_path / "b", tiny.byte_level(), eos_token="<|end|>"))
    assert same.same
    assert not same.changed
    other = read(tmp_path / "c", tiny.with_added(tiny.byte_level(tiny.GERMAN), tiny.START), eos_token="<|im_start|>")
    found = compare(one, other)
    assert not found.same
    assert found.only[0] == len(one.tokens.keys() - other.tokens.keys()) > 0
    assert found.shared == len(one.tokens.keys() & other.tokens.keys())
    assert found.added == ({}, {tiny.START: "not there"})
    assert found.special == {"eos_token": ("<|end|>", "<|im_start|>")}
    texts = {probe.text for probe in PROBES}
    assert {entry.text for entry in found.encoded} == texts
    for entry in found.encoded:
        ids = one.backend.encode(entry.text, add_special_tokens=False).tokens
        assert entry.same == (ids == other.backend.encode(entry.text, add_special_tokens=False).tokens)
    assert not found.lost
    lossy = compare(one, read(tmp_path / "d", tiny.wordpiece()))
    assert {entry.kind for entry in lossy.lost} > {"Chinese", "white space"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "m: tokenizer.json is not valid JSON"),
        ("{}", "m: tokenizer.json has no model"),
        ('{"model": {"type": "Morse", "vocab": {}}}', "m: tokenizers of the kind Morse are not known here. Known: BPE"),
        ('{"model": {"type": "BPE", "vocab": {"a": "0"}}}', "m: the vocabulary of tokenizer.json is damaged"),
        ('{"model": {"type": "BPE", "vocab": {"a": -1}}}', "m: the vocabulary of tokenizer.json is damaged"),
        ('{"model": {"type": "BPE", "vocab": {}}, "added_tokens": [{"id": 1}]}', "m: the vocabulary of"),
        ('{"model": {"type": "Unigram", "vocab": [["a"]]}}', "m: the vocabulary of tokenizer.json is damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").mkdir()
    Path("m/tokenizer.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        open_tokenizer("m")
    assert str(caught.value).startswith(said)


def test_what_the_library_cannot_load_is_refused(tmp_path: Path) -> None:
    table = {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}, "added_tokens": []}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match=r"its tokenizer.json cannot be loaded \(.*\)\. Copy it again"):
        open_tokenizer(tmp_path).encode(["a"])


def test_slow_files_are_converted(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    made = tiny.byte_level()
    table = json.loads(made.to_str())
    (tmp_path / "vocab.json").write_text(json.dumps(table["model"]["vocab"]))
    merges = [entry if isinstance(entry, str) else " ".join(entry) for entry in table["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|end|>"}')
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    found = open_tokenizer(tmp_path)
    texts = [probe.text for probe in PROBES if probe.kind in ("English", "German")]
    assert found.encode(texts) == [made.encode(text).ids for text in texts]
