"""Panels from files, and as systems of mw.eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import modelwright as mw
from modelwright.chat import is_panel, panel, panel_predictor
from modelwright.errors import InputError
from modelwright.evaluate import Generation, Items, Splits, metric

from .helpers import ENSEMBLES, close, majority, questions

SCRIPT = {"kind": "scripted", "questions": "q.jsonl", "accuracy": 0.7, "options": ["yes", "no"]}


def write(folder: Path, known: dict[str, str] | None = None, **changes: Any) -> Path:
    known = known or questions(20)
    lines = [json.dumps({"question": q, "answer": a}) for q, a in known.items()]
    (folder / "q.jsonl").write_text("\n".join(lines))
    said = {
        "kind": "panel",
        "backends": {"script": SCRIPT},
        "parser": {"kind": "pattern", "pattern": r"answer is (\w+)"},
        "cache": None,
        **changes,
    }
    path = folder / "panel.yml"
    path.write_text(yaml.safe_dump(said, sort_keys=False))
    return path


@pytest.mark.parametrize("program", ENSEMBLES)
def test_every_program_by_its_name(tmp_path: Path, program: str) -> None:
    found = panel(write(tmp_path, program=program))
    assert found.program.name == program
    assert found.name == "panel"
    assert is_panel(tmp_path / "panel.yml")
    assert not is_panel(tmp_path / "q.jsonl")


def test_agents_prices_and_everything_else(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        name="mine",
        backends={"script": {**SCRIPT, "prices": {"tokens_in": 1, "tokens_out": 2.5}}},
        agents={"poet": {"backend": "script", "system": "Rhyme.", "temperature": 0.2, "max_tokens": 9, "stop": ["!"]}},
        program={"name": "self_consistency", "samples": 3, "combine": "probability"},
        equality="near",
        tolerance=0.1,
        budget=2,
        cache="here.sqlite",
    )
    found = panel(path)
    [poet] = found.agents.values()
    assert (found.name, poet.system, poet.sampling.stop, poet.price.tokens_out) == ("mine", "Rhyme.", ("!",), 2.5)
    assert poet.logprobs  # which the combiner needs
    assert found.same("1", "1.05")
    assert (found.budget, found.cache) == (2, tmp_path / "here.sqlite")


def test_fingerprints_tell_settings_apart(tmp_path: Path) -> None:
    seen = {panel(write(tmp_path)).fingerprint, panel(write(tmp_path, name="other", budget=3)).fingerprint}
    assert len(seen) == 1
    for changes in (
        {"program": {"name": "self_consistency", "samples": 3}},
        {"backends": {"script": {**SCRIPT, "accuracy": 0.6}}},
        {"parser": "text"},
        {"agents": {"script": {"backend": "script", "temperature": 0.1}}},
        {"equality": "normalised"},
    ):
        seen.add(panel(write(tmp_path, **changes)).fingerprint)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "panels"}, r"'kind' must be 'panel', got 'panels'. \[.*panel.yml:1\]"),
        ({"bugdet": 1}, r"unknown key 'bugdet'. Did you mean 'budget'\? Valid: .* \[.*panel.yml:\d+\]"),
        ({"backends": {}}, "'backends' must not be empty"),
        (
            {"backends": {"a": {"kind": "gpt"}}},
            r"backend 'a' cannot be 'gpt'. Valid: openai, scripted, transformers. \[.*panel.yml:4\]",
        ),
        ({"backends": {"a": {"url": "x"}}}, "backend 'a': the key 'kind' is missing"),
        ({"backends": {"a": {"kind": "openai", "url": "http://x"}}}, r"the key 'model' is missing. \[.*panel.yml:3"),
        ({"backends": {"a": {"kind": "openai", "url": "x", "model": "m"}}}, "begins with http:// or https://, got 'x'"),
        ({"backends": {"a": {**SCRIPT, "acuracy": 1}}}, "unknown key 'acuracy'. Did you mean 'accuracy'?"),
        ({"backends": {"a": {**SCRIPT, "questions": "no"}}}, "the questions cannot be read: .*No such file"),
        ({"backends": {"a": {"kind": "transformers", "folder": "no"}}}, "it has no config.json"),
        ({"agents": {"a": {"backend": "b"}}}, r"agent 'a': there is no backend 'b'. Valid: script. \[.*panel.yml:16"),
        ({"program": "dylon"}, "the program cannot be 'dylon'. Did you mean 'dylan'"),
        ({"program": {"samples": 3}}, "the program: the key 'name' is missing"),
        ({"program": {"name": "moa", "sampels": 3}}, "unknown key 'sampels'. Did you mean 'samples'?"),
        ({"program": {"name": "moa", "samples": 0}}, "'samples' must be at least 1, got 0"),
        ({"program": {"name": "moa", "aggregator": "x"}}, "aggregator: there is no agent 'x'"),
        ({"program": {"name": "self_moa_seq", "window": 3}}, "reserved must be below window, got 3 and 3"),
        ({"parser": "numbers"}, "the parser cannot be 'numbers'. Did you mean 'number'?"),
        ({"parser": {"kind": "number", "options": []}}, "unknown key 'options'"),
        ({"equality": "equal"}, "equality cannot be 'equal'"),
        ({"tolerance": 0.1}, "a tolerance is for the equality 'near'. Write equality: near"),
        ({"budget": -1}, "'budget' must be at least 0"),
    ],
)
def test_refusals(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        panel(write(tmp_path, **changes))


def test_a_panel_under_mw_eval_and_mw_compare(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    known = questions(300)
    items = Items(tuple(known), list(known), list(known.values()))
    task = Generation(
        name="yes-no", splits=Splits({"test": items}), metric=metric("exact_match"), extract=r"answer is (\w+)"
    )
    systems = []
    for name, samples in (("single", 1), ("five", 5)):
        program = {"name": "self_consistency", "samples": samples, "early_stop": False}
        systems.append(panel_predictor(panel(write(tmp_path, known, program=program)), name))
    records = mw.eval(systems, task)
    for name, samples in (("single", 1), ("five", 5)):
        part = records.part("yes-no", name)
        assert close(part.figure, majority(samples, 0.7), 300)
        assert set(part.column("calls")) == {samples}
    assert [records.part("yes-no", n).head.made["kind"] for n in ("single", "five")] == ["single", "ensemble"]
    found = mw.compare(records)
    assert {row.system for row in found.rows} >= {"single", "five"}
    for one in systems:
        one.work.close()
    assert systems[1].remarks()[0].startswith("'five': 1,500 calls and 0 replies from the cache, ")
