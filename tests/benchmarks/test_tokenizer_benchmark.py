"""The benchmark of vocabularies, small: what it makes is what it says, and its parts run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
from benchmarks import tokenizer as benchmark


def test_vocabularies_share_what_they_should_and_load() -> None:
    from tokenizers import Tokenizer

    one, other = (benchmark.vocabulary(600, seed, 400) for seed in (1, 2))
    words = [table["model"]["vocab"] for table in (one, other)]
    assert [len(table) for table in words] == [600, 600]
    assert list(words[0])[:400] == list(words[1])[:400]
    assert len(words[0].keys() & words[1].keys()) < 600
    assert Tokenizer.from_str(json.dumps(one)).get_vocab() == words[0]


def test_relay_and_union_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "ROWS", 620)
    monkeypatch.setattr(benchmark, "WIDTH", 4)
    table = benchmark.vocabulary(600, 0, 600)
    benchmark.write_model(tmp_path / "a", table, 620, 4, 0)
    benchmark.write_model(tmp_path / "b", benchmark.shuffled(table, 1), 620, 4, 1)
    assert benchmark.relay(tmp_path)["bytes"] == 3 * 620 * 4 * 2
    found = benchmark.union(tmp_path)
    assert (found["tokens"], found["merges"], found["changed_probes"]) == (600, 0, 0)


def test_pursuit_runs(tmp_path: Path) -> None:
    found = benchmark.omp(tmp_path, shared=80, new=5, width=70)
    assert 0 < found["residual"] < 1
