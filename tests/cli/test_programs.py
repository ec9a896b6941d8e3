"""`mw methods --kind program`, and panels that run code, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelwright.chat import PROGRAMS
from modelwright.cli._app import run

PANEL = """
kind: panel
cache: null
backends:
  script:
    kind: scripted
    questions: q.jsonl
    accuracy: 0.0
    replies: {"stores it in the variable": "```python\\nanswer = 17 * 23\\n```"}
program: pot
parser: number
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text(json.dumps({"question": "What is 17 * 23?", "answer": "391"}))
    Path("p.yml").write_text(PANEL)
    return tmp_path


def test_programs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--kind", "program", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(found) == set(PROGRAMS)
    assert found["chain_of_verification"]["calls"] == "2 to 3 + checks"
    assert found["ape"]["prepares"].startswith("candidates * (1 + scored)")
    assert found["react"]["needs"] == ["tools"]
    assert found["zero_shot"]["technique"]["number"] == 1
    assert run(["methods", "--kind", "program"]) == 0
    assert "tree_of_thoughts" in capsys.readouterr().out
    assert run(["methods", "--kind", "program", "cove"]) == 0  # by another name
    shown = capsys.readouterr().out
    assert "calls for a question: 2 to 3 + checks" in shown
    assert "Most questions that check the draft." in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["methods", "--kind", "program", "step_bak"], "error: there is no program 'step_bak'. Did you mean 'step_back'?"),
        (["methods", "--kind", "program", "--cite"], "error: --plugin and --cite are of merging methods."),
        (["chat", "p.yml", "x", "--allow-network"], "error: --allow-network is for code that models write."),
        (["chat", "p.yml", "What is 17 * 23?"], "needs leave to run code that a model writes, which the panel has not. Say --allow-"),
    ],
)  # fmt: skip
def test_what_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert run(arguments) == 2
    assert complaint in " ".join(capsys.readouterr().err.split())


def test_code_runs_where_it_is_allowed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chat", "p.yml", "What is 17 * 23?", "--allow-code", "--allow-network", "--quiet"]
    assert run(arguments) == 0
    assert capsys.readouterr().out.strip() == "391"
