"""A folder in which the examples of the documentation can be run as they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .pages import DOCS, blocks, save, save_adapter

MODELS = ("base", "math", "code", "first", "second", "third")
ADAPTERS = ("style", "subject")
#: Models with tokenizers, and their words.
TALKERS = {"small": "the a cat dog runs sleeps . ,", "chat": ". , the cat mouse eats sleeps !"}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(MODELS):
        save(folder / name, seed)
    for seed, name in enumerate(ADAPTERS):
        save_adapter(folder / name, seed)
    for seed, (name, words) in enumerate(TALKERS.items(), len(MODELS)):
        save(folder / name, seed)
        vocabulary = {word: i for i, word in enumerate(words.split())}
        table = {
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "."},
            "pre_tokenizer": {"type": "Whitespace"},
        }
        (folder / name / "tokenizer.json").write_text(json.dumps({**table, "added_tokens": []}), encoding="utf-8")
    return folder


@pytest.fixture
def workshop(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models, also below path/to, and the first recipe."""
    (tmp_path / "path" / "to").mkdir(parents=True)
    for name in (*MODELS, *ADAPTERS, *TALKERS):
        (tmp_path / name).symlink_to(models / name)
        (tmp_path / "path" / "to" / name).symlink_to(models / name)
    (first,) = (block for block in blocks(DOCS / "index.md", "yaml") if block.file == "ties.yml")
    (tmp_path / "ties.yml").write_text(first.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("modelwright.suites._cache.cache_folder", lambda: tmp_path / "cache")
    return tmp_path
